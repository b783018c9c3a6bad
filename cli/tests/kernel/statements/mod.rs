//! What is stated of the kernel's dm-snapshot, each as a check on the running kernel and, where usnap
//! meets the same situation, on usnap. `format-spec/KERNEL.md` is the same list for readers.

mod activation;
mod bench;
mod craft;
mod io;
mod merge;
mod modes;
mod page;
mod said;
mod space;
mod stores;

use std::fmt::Write as _;
use std::fs::File;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use usnap_test_support::guest::inside_guest;
use usnap_test_support::{GIB, Guest, Need, missing};

use crate::LAB;
use crate::statements::bench::{Bench, Setup, Side, Who};

/// One statement.
pub(crate) struct Statement {
    /// Its name in the table: a topic and a word or two.
    pub(crate) id: &'static str,
    /// What the check sees of the kernel.
    pub(crate) kernel: &'static str,
    /// And of usnap.
    pub(crate) usnap: Usnap,
    /// How it is looked at.
    pub(crate) check: Check,
}

/// What usnap does where the kernel does that. Reasons in parentheses are not compared.
pub(crate) enum Usnap {
    /// The same.
    Same,
    /// This.
    Differs(&'static str),
    /// It has nothing like that.
    Nothing,
}

/// What is done for a statement; each ends with what was seen, in a line.
pub(crate) enum Check {
    /// The same on both.
    Both(fn() -> Setup, fn(&mut Side<'_>) -> Result<String>),
    /// On the kernel alone.
    Kernel(fn(&Bench) -> Result<String>),
    /// On each in a way of its own.
    Each(fn(&Bench) -> Result<String>, fn(&Bench) -> Result<String>),
}

/// Boots a guest in which `name` runs again; there, tries the statements.
pub(crate) fn hold(name: &str, statements: &[Statement]) -> Result<()> {
    if inside_guest() {
        return try_all(statements);
    }
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = LAB.scratch("statements")?;
    let room = scratch.join("room");
    File::create(&room)?.set_len(64 * GIB)?;
    let guest = Guest::new()
        .disk("ROOM", &room)
        .module("md/dm-log-writes")
        .module("md/dm-delay")
        .module("md/dm-zero")
        .module("block/loop");
    let said = guest.run_test(&scratch, name)?;
    let tried = said.value("statements")?;
    ensure!(
        tried == statements.len().to_string(),
        "{tried} of {} statements were tried",
        statements.len()
    );
    Ok(())
}

/// Inside the guest.
fn try_all(statements: &[Statement]) -> Result<()> {
    let bench = Bench::new()?;
    let mut wrong = String::new();
    for statement in statements {
        let begun = Instant::now();
        if let Err(error) = try_one(&bench, statement) {
            // Writing to a string does not fail.
            let _ = writeln!(wrong, "{}: {error:#}", statement.id);
        }
        println!("took {} {:?}", statement.id, begun.elapsed());
    }
    println!("\nstatements {}", statements.len());
    ensure!(wrong.is_empty(), "not so:\n{wrong}");
    Ok(())
}

fn try_one(bench: &Bench, statement: &Statement) -> Result<()> {
    let both = |who: Who, setup: fn() -> Setup, script: fn(&mut Side<'_>) -> Result<String>| {
        let mut side = bench.side(who, &setup())?;
        let seen = script(&mut side)?;
        side.close()?;
        anyhow::Ok(seen)
    };
    let kernel = match statement.check {
        Check::Both(setup, script) => both(Who::Kernel, setup, script),
        Check::Kernel(script) | Check::Each(script, _) => script(bench),
    };
    let kernel = kernel.context("the kernel")?;
    let mut problems = Vec::new();
    if kernel != statement.kernel {
        problems.push(format!("kernel: {kernel}"));
    }
    let wanted = match statement.usnap {
        Usnap::Same => Some(plain(statement.kernel)),
        Usnap::Differs(what) => Some(plain(what)),
        Usnap::Nothing => None,
    };
    let usnap = match statement.check {
        Check::Both(setup, script) => Some(both(Who::Usnap, setup, script)),
        Check::Each(_, script) => Some(script(bench)),
        Check::Kernel(_) => None,
    };
    let usnap = usnap.transpose().context("usnap")?;
    if usnap.as_deref().map(plain) != wanted {
        problems.push(format!("usnap: {}", usnap.unwrap_or_default()));
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n    "));
    Ok(())
}

/// Without what stands in parentheses.
fn plain(seen: &str) -> String {
    let mut rest = seen;
    let mut plain = String::new();
    while let Some((before, behind)) = rest.split_once(" (") {
        plain.push_str(before);
        rest = behind.split_once(')').map_or("", |(_, behind)| behind);
    }
    plain + rest
}
