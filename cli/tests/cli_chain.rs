//! Chains from the outside: what a stack of COW files shows, what is made of it, and what is refused.

use std::path::Path;

use anyhow::{Result, ensure};
use usnap_test_support::lab::{Untouched, sha256};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Lab, MIB, Need, Scratch, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

/// Serves and runs a shell command with `$uri`.
fn serve(scratch: &Scratch, words: &str, command: &str) -> Result<String> {
    LAB.usnap(&["serve", "disk.img"])
        .args(words.split_whitespace())
        .args(["--run", command])
        .current_dir(scratch.path())
        .ok()
}

/// A disk of random bytes with an odd size, and three COW files over each other, of different
/// chunk sizes.
fn chain(name: &str) -> Result<Scratch> {
    let scratch = LAB.scratch(name)?;
    random_file(&scratch.join("disk.img"), 4 * MIB + 700, 7)?;
    let mut below = String::new();
    for (cow, chunk, place) in [("a", "4K", 0), ("b", "64K", 300_000), ("c", "512", 300_500)] {
        let words = format!("{below} --cow {cow}.cow --chunk-size {chunk}");
        let change = format!(
            "head -c 9000 /dev/urandom > new && qemu-io -f raw \"$uri\" -c 'write -s new {place} 9000' > log"
        );
        serve(&scratch, &words, &change)?;
        below += &format!(" --layer {cow}.cow");
    }
    Ok(scratch)
}

fn copied(scratch: &Scratch, words: &str) -> Result<String> {
    let file = scratch.join("copied.img");
    serve(
        scratch,
        words,
        "rm -f copied.img; nbdcopy \"$uri\" copied.img",
    )?;
    sha256(&file)
}

#[test]
fn a_chain_is_served_writable_transient_and_read_only() -> Result<()> {
    if missing(&[Need::Program("nbdcopy"), Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = chain("chain")?;
    let layers = ["disk.img", "a.cow", "b.cow", "c.cow"];
    let untouched: Result<Vec<Untouched>> = layers
        .iter()
        .map(|name| Untouched::note(&scratch.join(name)))
        .collect();
    let all = "--layer a.cow --layer b.cow --layer c.cow";
    let shown = copied(
        &scratch,
        "--layer a.cow --layer b.cow --cow c.cow --read-only",
    )?;
    for words in [
        "--cow d.cow",
        "--read-only",
        "--transient",
        "--cow d.cow -r",
    ] {
        ensure!(
            copied(&scratch, &format!("{all} {words}"))? == shown,
            "{words}"
        );
    }
    let write = "qemu-io -f raw \"$uri\" -c 'write -P 9 1000 5' > log";
    serve(&scratch, &format!("{all} --transient"), write)?;
    serve(&scratch, &format!("{all} --cow d.cow"), write)?;
    ensure!(copied(&scratch, &format!("{all} --cow d.cow"))? != shown);
    untouched?.iter().try_for_each(Untouched::verify)
}

fn refused(scratch: &Scratch, words: &str, code: i32, text: &str) -> Result<()> {
    let output = LAB
        .usnap(&["serve", "disk.img"])
        .args(words.split_whitespace())
        .args(["--run", "true"])
        .current_dir(scratch.path())
        .fails_with(code)?;
    ensure!(output.stderr.contains(text), "{words}: {output}");
    Ok(())
}

#[test]
fn a_chain_that_is_not_the_one_is_refused_and_nothing_is_left_behind() -> Result<()> {
    if missing(&[Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = chain("chain-refused")?;
    let table = [
        ("--layer b.cow --cow c.cow", 1, "layer"),
        ("--layer a.cow --cow c.cow", 1, "layer"),
        (
            "--layer b.cow --layer a.cow --cow c.cow",
            1,
            "b.cow as a layer",
        ),
        ("--cow c.cow", 1, "with layers"),
        (
            "--layer a.cow --layer b.cow --cow a.cow",
            1,
            "layer already",
        ),
        (
            "--layer a.cow --layer ./a.cow --cow b.cow",
            1,
            "layer already",
        ),
        ("--layer disk.img --transient", 1, "layer already"),
        ("--layer none.cow --cow new.cow", 1, "none.cow"),
        ("--layer a.cow --layer log --cow new.cow", 1, "log"),
    ];
    for (words, code, text) in table {
        refused(&scratch, words, code, text)?;
    }
    ensure!(!Path::new(&scratch.join("new.cow")).exists());
    let forced = "--layer b.cow --layer a.cow --cow c.cow --read-only --force-origin";
    serve(&scratch, forced, "true")?;
    // While it is a layer nobody writes to it.
    let inner = format!(
        "{} serve disk.img --cow a.cow --run true 2> inner; test $? = 1",
        LAB.program()
    );
    serve(&scratch, "--layer a.cow --transient", &inner)?;
    let said = std::fs::read_to_string(scratch.join("inner"))?;
    ensure!(said.contains("in use by pid"), "{said}");
    let shared = format!(
        "{} serve disk.img --layer a.cow --transient --run true",
        LAB.program()
    );
    serve(&scratch, "--layer a.cow --layer b.cow -r", &shared).map(drop)
}
