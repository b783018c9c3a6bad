//! Snapshots of snapshots: the kernel stacks its devices, we stack layers, over the same files.

use std::path::Path;

use anyhow::{Result, ensure};
use usnap_test_support::lab::{Untouched, sha256};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, MIB, Need, Scratch, missing};

use crate::LAB;

/// What is exported of the COW file `name` over these layers.
fn exported(scratch: &Scratch, layers: &[&str], name: &str) -> Result<String> {
    let mut tool = LAB.usnap(&["export", "origin.img", name, "out.img", "--force"]);
    for layer in layers {
        tool = tool.args(["--layer", layer]);
    }
    // A kernel's writes leave the record of the origin alone, and it is still the one.
    tool.current_dir(scratch.path()).ok()?;
    sha256(&scratch.join("out.img"))
}

fn written(scratch: &Scratch, words: &str, places: &[(u64, u64)]) -> Result<()> {
    let commands: Vec<String> = places
        .iter()
        .map(|(offset, len)| format!("-c 'write -s more.img {offset} {len}'"))
        .collect();
    let run = format!("qemu-io -f raw \"$uri\" {} > log", commands.join(" "));
    LAB.usnap(&["serve", "origin.img"])
        .args(words.split_whitespace())
        .args(["--run", &run])
        .current_dir(scratch.path())
        .ok()
        .map(drop)
}

#[test]
fn a_stack_of_snapshot_devices_and_a_stack_of_layers_show_the_same() -> Result<()> {
    if missing(&[Need::GuestKernel, Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("stacked")?;
    let path = |name: &str| scratch.join(name);
    random_file(&path("origin.img"), 24 * MIB + 3 * 512, 8)?;
    random_file(&path("more.img"), 4 * MIB, 9)?;
    let size = "--cow-size 16M";
    written(
        &scratch,
        &format!("--cow a.cow --chunk-size 4K {size}"),
        &[(0, 70_000), (2_500_000, 9000), (24 * MIB, 1536)],
    )?;
    written(
        &scratch,
        &format!("--layer a.cow --cow b.cow --chunk-size 64K {size}"),
        &[(60_000, 300_000), (2_560_000, 512), (9_000_000, 1)],
    )?;
    written(
        &scratch,
        &format!("--layer a.cow --layer b.cow --cow c.cow --chunk-size 16K {size}"),
        &[(65_000, 1000), (15_000_000, 100_000)],
    )?;
    let below = ["origin.img", "a.cow", "b.cow"];
    let untouched: Result<Vec<Untouched>> = below
        .iter()
        .map(|name| Untouched::note(&path(name)))
        .collect();
    let ours = [
        exported(&scratch, &[], "a.cow")?,
        exported(&scratch, &["a.cow"], "b.cow")?,
        exported(&scratch, &["a.cow", "b.cow"], "c.cow")?,
    ];
    let disk =
        |guest: Guest, variable: &str, name: &str| guest.disk(variable, Path::new(&path(name)));
    let guest = [
        ("ORIGIN", "origin.img"),
        ("A", "a.cow"),
        ("B", "b.cow"),
        ("C", "c.cow"),
        ("MORE", "more.img"),
    ]
    .iter()
    .fold(Guest::new(), |guest, (variable, name)| {
        disk(guest, variable, name)
    });
    let said = guest.run(&scratch, include_str!("stacked.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    for (name, ours) in ["a", "b", "c"].iter().zip(&ours) {
        assert_eq!(said.value(&format!("{name}.before"))?, ours, "{name}");
    }
    // The layers were only read, and what the kernel wrote on top is shown through them.
    untouched?.iter().try_for_each(Untouched::verify)?;
    let after = exported(&scratch, &["a.cow", "b.cow"], "c.cow")?;
    assert_eq!(said.value("c.after")?, after);
    ensure!(after != ours[2], "nothing was written");
    Ok(())
}
