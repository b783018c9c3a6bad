//! `usnap create --force`: an empty COW of what was one, or was reset, and of nothing else.

use anyhow::{Result, ensure};
use usnap_test_support::Lab;
use usnap_test_support::lab::text;

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

#[test]
fn a_cow_that_was_reset_becomes_an_empty_one_when_it_is_asked_for() -> Result<()> {
    let scratch = LAB.scratch("reset")?;
    scratch.sparse_file("disk.img", 1 << 20)?;
    let cow = scratch.join("c.cow");
    // What live media leave: the first 64 KiB zeroed, old areas and data behind.
    let mut bytes = vec![0x5a; 1 << 20];
    bytes[..1 << 16].fill(0);
    std::fs::write(&cow, &bytes)?;
    let run = |args: &[&str]| LAB.usnap(args).current_dir(scratch.path());
    for refused in [
        run(&["serve", "disk.img", "--cow", "c.cow", "--single"]),
        run(&["create", "c.cow", "--size", "1M"]),
        // Of the size that it has.
        run(&["create", "c.cow", "--force", "--size", "1M"]),
    ] {
        let output = refused.run()?;
        ensure!(matches!(output.status.code(), Some(1 | 2)), "{output}");
        ensure!(std::fs::read(&cow)? == bytes, "it was changed: {output}");
    }
    let output = run(&["serve", "disk.img", "--cow", "c.cow", "--single"]).fails_with(1)?;
    ensure!(output.stderr.contains("`usnap create --force`"), "{output}");

    run(&["create", "c.cow", "--force", "--chunk-size", "512"]).ok()?;
    assert_eq!(LAB.status_line(&cow)?, "2/2048 2");
    LAB.check_is_clean(&cow)?;
    assert_eq!(std::fs::metadata(&cow)?.len(), 1 << 20);
    // A store in use, with changes, and of another chunk size, too.
    run(&[
        "create", "c.cow", "--force", "--origin", "disk.img", "--label", "anew",
    ])
    .ok()?;
    let said = run(&["status", text(&cow)?]).ok()?;
    ensure!(
        said.starts_with("16/2048 16\n") && said.contains("anew"),
        "{said}"
    );
    LAB.check_is_clean(&cow)
}

#[test]
fn what_is_no_cow_and_what_is_not_there_stays_so() -> Result<()> {
    let scratch = LAB.scratch("foreign")?;
    let content = "this is not a store. ".repeat(1000);
    std::fs::write(scratch.join("foreign"), &content)?;
    std::fs::write(scratch.join("tiny"), [0; 100])?;
    for (name, why) in [
        ("foreign", "it holds something else"),
        ("tiny", "usnap: cannot make a store of tiny: "),
        ("absent", "No such file"),
    ] {
        let output = LAB
            .usnap(&["create", "--force", name])
            .current_dir(scratch.path())
            .fails_with(1)?;
        ensure!(output.stderr.contains(why), "{output}");
    }
    ensure!(std::fs::read_to_string(scratch.join("foreign"))? == content);
    ensure!(std::fs::read(scratch.join("tiny"))? == [0; 100]);
    ensure!(!scratch.join("absent").exists());
    Ok(())
}
