//! `kill -9` at any moment loses nothing that was answered, with and without flushes, on a disk and
//! on tmpfs; and what qemu-nbd with qcow2 loses under the same load, for comparison.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use usnap_test_support::{Guest, MIB, Need, Scratch, missing, say};

use crate::contender::Contender;
use crate::killed::{head, rounds};
use crate::machine::{in_guest, run_dir};
use crate::{LAB, knobs};

#[test]
fn sigkill_loses_nothing_that_was_answered_on_a_disk() -> Result<()> {
    let place = LAB.scratch("killed")?;
    usnap_loses_nothing(&place, "usnap, on a disk")
}

#[test]
fn sigkill_loses_nothing_that_was_answered_on_tmpfs() -> Result<()> {
    let place = Scratch::new(Path::new("/dev/shm"), "usnap-killed")?;
    usnap_loses_nothing(&place, "usnap, on tmpfs")
}

fn usnap_loses_nothing(place: &Scratch, name: &str) -> Result<()> {
    let outcome = rounds(
        Contender::Usnap,
        place.path(),
        knobs::rounds(15, 500)?,
        knobs::seed()?,
    )?;
    say(&format!("{}\n{}", head(), outcome.line(name)))?;
    ensure!(outcome.answers.done > 0, "nothing was written");
    outcome.nothing_lost()
}

#[test]
fn without_a_journal_the_rounds_see_a_loss() -> Result<()> {
    let place = LAB.scratch("killed-off")?;
    let first = knobs::seed()?;
    for seed in first..first + 20 {
        let outcome = rounds(Contender::UsnapWithoutJournal, place.path(), 3, seed)?;
        if outcome.rounds_with_loss > 0 {
            return Ok(());
        }
    }
    bail!("nothing is lost without a journal: the rounds are blind")
}

const ON_A_DEVICE: &str = "kill_rounds::sigkill_loses_nothing_that_was_answered_on_a_block_device";

#[test]
fn sigkill_loses_nothing_that_was_answered_on_a_block_device() -> Result<()> {
    let prepare = |scratch: &Scratch| {
        let cow = scratch.sparse_file("cow.img", 18 * MIB)?;
        let rounds = knobs::rounds(10, 200)?;
        let guest = Guest::new()
            .disk("COW", &cow)
            .variable("USNAP_FAULT_ROUNDS", &rounds.to_string())
            .variable("USNAP_FAULT_SEED", &knobs::seed()?.to_string())
            .limit(Duration::from_secs(60 + 5 * rounds));
        Ok(guest)
    };
    let said = in_guest(ON_A_DEVICE, prepare, || {
        let place = Scratch::new(&run_dir("killed"), "place")?;
        let (count, seed) = (knobs::rounds(0, 0)?, knobs::seed()?);
        let contender = Contender::UsnapOnDevice;
        let outcome = rounds(contender, place.path(), count, seed)?;
        println!("\n{}", outcome.line(contender.name()));
        ensure!(outcome.answers.done > 0, "nothing was written");
        outcome.nothing_lost()
    })?;
    let line = said.as_deref().and_then(|said| {
        let mut lines = said.lines();
        lines.find(|line| line.starts_with(Contender::UsnapOnDevice.name()))
    });
    line.map_or(Ok(()), |line| say(&format!("{}\n{line}", head())))
}

/// No promise of ours: it says what the promise is worth, and that the rounds can see a loss.
#[test]
fn the_same_rounds_with_qemu_nbd_for_comparison() -> Result<()> {
    if missing(&[Need::Program("qemu-nbd"), Need::Program("qemu-img")])? {
        return Ok(());
    }
    let (count, seed) = (knobs::rounds(4, 500)?, knobs::seed()?);
    let disk = LAB.scratch("killed-qemu")?;
    let tmpfs = Scratch::new(Path::new("/dev/shm"), "usnap-killed-qemu")?;
    let mut table = head();
    for (place, name) in [(&disk, "disk"), (&tmpfs, "tmpfs")] {
        let outcome = rounds(Contender::QemuNbd, place.path(), count, seed)?;
        ensure!(outcome.answers.done > 0, "nothing was written");
        table.push('\n');
        table.push_str(&outcome.line(&format!("qemu-nbd qcow2, {name}")));
    }
    say(&table)
}
