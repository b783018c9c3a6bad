//! The demo does what it shows, in seconds, and leaves nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use usnap_test_support::Lab;

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const LIMIT: Duration = Duration::from_secs(10);

fn demo(name: &str, words: &[&str], says: &str) -> Result<()> {
    let scratch = LAB.scratch(name)?;
    let begun = Instant::now();
    let said = LAB
        .usnap(&["demo"])
        .args(words)
        .env("TMPDIR", scratch.path())
        .fails_with(0)?;
    ensure!(begun.elapsed() < LIMIT, "it took {:?}", begun.elapsed());
    for part in [
        says,
        "served by process",
        "changes.cow: clean",
        "\nusnap-dump 2\n",
    ] {
        ensure!(said.stdout.contains(part), "no {part}: {said}");
    }
    let last = said.stdout.lines().last().unwrap_or_default();
    ensure!(last.starts_with("# the image is unchanged"), "{said}");
    // What usnap says beside its results is what it created, once.
    ensure!(said.stderr.lines().count() == 1, "{said}");
    ensure!(
        std::fs::read_dir(scratch.path())?.next().is_none(),
        "something is left behind"
    );
    Ok(())
}

#[test]
fn the_demo_ends_well_and_leaves_nothing_behind() -> Result<()> {
    demo("demo", &[], "disk.img")
}

#[test]
fn the_demo_does_without_a_filesystem() -> Result<()> {
    demo("demo-pattern", &["--pattern"], "every other MiB random")
}
