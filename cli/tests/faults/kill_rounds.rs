//! `kill -9` at any moment loses nothing that was answered, with and without flushes, on a disk and
//! on tmpfs; and what qemu-nbd with qcow2 loses under the same load, for comparison.

use std::path::Path;

use anyhow::{Result, ensure};
use usnap_test_support::{Need, Scratch, missing, say};

use crate::contender::Contender;
use crate::killed::{head, rounds};
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
