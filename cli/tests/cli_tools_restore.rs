//! `usnap restore`, and `usnap dump` as what it reads: a new file, over an existing one, edited, from
//! a pipe; and what is refused with nothing changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use usnap_test_support::lab::{Untouched, text};
use usnap_test_support::{Lab, RawClient, Scratch, Tool};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const CHUNK: u64 = 4096;

/// An origin, and a COW with four of its chunks changed, at rest.
fn changed() -> Result<(Scratch, PathBuf, PathBuf)> {
    let scratch = LAB.scratch("restore")?;
    let origin = scratch.sparse_file("disk.img", 1 << 20)?;
    let cow = scratch.join("c.cow");
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    write(&server.socket(), &[3, 9, 20, 21])?;
    server.stop()?;
    Ok((scratch, origin, cow))
}

fn write(socket: &Path, chunks: &[u64]) -> Result<()> {
    let mut client = RawClient::connect(socket)?;
    for chunk in chunks {
        client.write_at(chunk * CHUNK, &[1; 4096])?;
    }
    client.disconnect()
}

fn dump(scratch: &Scratch, cow: &Path, options: &[&str]) -> Result<PathBuf> {
    let dump = scratch.join("c.dump");
    let said = LAB.usnap(&["dump"]).args(options).arg(cow).ok()?;
    fs::write(&dump, said)?;
    Ok(dump)
}

fn content(origin: &Path, cow: &Path) -> Result<Vec<u8>> {
    let server = LAB.serve(origin)?.cow(cow).args(&["--read-only"]).start()?;
    let content = RawClient::connect(&server.socket())?.read_all()?;
    server.stop()?;
    Ok(content)
}

#[test]
fn a_damaged_file_is_restored_from_the_dump_that_was_made_before() -> Result<()> {
    let (scratch, origin, cow) = changed()?;
    let before = content(&origin, &cow)?;
    let bytes = fs::read(&cow)?;
    for form in [&[][..], &["--json"]] {
        let dump = dump(&scratch, &cow, form)?;
        let mut damaged = bytes.clone();
        // Area 0, the record, and the header's version.
        damaged[4096..4096 + 64].fill(0x11);
        damaged[9..200].fill(0x22);
        fs::write(&cow, damaged)?;
        LAB.usnap(&["restore", "--over"])
            .arg(&dump)
            .arg(&cow)
            .fails_with(1)?;
        // What is left of the header has to say that this is a store.
        let mut damaged = bytes.clone();
        damaged[4096..4096 + 64].fill(0x11);
        damaged[16..200].fill(0x22);
        fs::write(&cow, damaged)?;
        let said = LAB
            .usnap(&["restore", "--over"])
            .arg(&dump)
            .arg(&cow)
            .ok()?;
        ensure!(
            said.contains("exceptions: 4, areas: 1; its data is what it was"),
            "{said}"
        );
        ensure!(fs::read(&cow)? == bytes, "it is not what it was");
    }
    ensure!(content(&origin, &cow)? == before);
    LAB.check_is_clean(&cow)
}

#[test]
fn a_new_file_has_the_metadata_and_no_data() -> Result<()> {
    let (scratch, _origin, cow) = changed()?;
    let made = dump(&scratch, &cow, &[])?;
    let new = scratch.join("new.cow");
    let said = LAB.usnap(&["restore"]).arg(&made).arg(&new).ok()?;
    ensure!(
        said.contains("exceptions: 4, areas: 1; its data is zeros"),
        "{said}"
    );
    ensure!(fs::metadata(&new)?.len() == fs::metadata(&cow)?.len());
    let (old, restored) = (fs::read(&cow)?, fs::read(&new)?);
    ensure!(old[..2 * 4096] == restored[..2 * 4096]);
    ensure!(restored[2 * 4096..].iter().all(|byte| *byte == 0));
    // Again, from a pipe, under a name that is taken and under one that is not.
    let untouched = Untouched::note(&new)?;
    for (name, options, code) in [
        ("new.cow", "", 1),
        ("piped.cow", "", 0),
        ("new.cow", "--over", 0),
    ] {
        let script = format!("\"$0\" dump --json \"$1\" | \"$0\" restore {options} - {name}");
        let tool = Tool::new("bash")
            .args(["-c", &script, LAB.program()])
            .arg(&cow);
        let output = tool.current_dir(scratch.path()).fails_with(code)?;
        if code == 1 {
            ensure!(output.stderr.contains("it exists"), "{output}");
            untouched.verify()?;
        }
        ensure!(fs::read(scratch.join("new.cow"))? == restored, "{name}");
    }
    ensure!(fs::read(scratch.join("piped.cow"))? == restored);
    Ok(())
}

/// The help's example.
#[test]
fn an_edited_dump_takes_entries_away() -> Result<()> {
    let (scratch, origin, cow) = changed()?;
    let script = "\"$0\" dump c.cow | awk '$2 != \"->\" || $1 < 20' > c.dump
        \"$0\" restore --over c.dump c.cow && exit 9
        \"$0\" restore --over --repack c.dump c.cow";
    let said = Tool::new("bash").args(["-c", script, LAB.program()]);
    let said = said.current_dir(scratch.path()).fails_with(0)?;
    ensure!(said.stdout.contains("exceptions: 2"), "{said}");
    ensure!(said.stderr.contains("--repack"), "{said}");
    LAB.check_is_clean(&cow)?;
    let content = content(&origin, &cow)?;
    let written: Vec<usize> = (0..256).filter(|n| content[n * 4096] == 1).collect();
    ensure!(written == [3, 9], "{written:?}");
    Ok(())
}

#[test]
fn a_file_in_use_a_journal_and_what_is_no_store_are_left_alone() -> Result<()> {
    let (scratch, origin, cow) = changed()?;
    let dump = text(&dump(&scratch, &cow, &[])?)?.to_owned();
    let refused = |file: &Path, word: &str| -> Result<()> {
        let untouched = Untouched::note(file)?;
        let output = LAB
            .usnap(&["restore", "--over", &dump])
            .arg(file)
            .fails_with(1)?;
        ensure!(output.stderr.contains(word), "{output}");
        untouched.verify()
    };
    refused(&origin, "header")?;
    let server = LAB
        .serve(&origin)?
        .cow(&cow)
        .args(&["--commit-interval", "0"])
        .start()?;
    write(&server.socket(), &[100])?;
    let output = LAB
        .usnap(&["restore", "--over", &dump])
        .arg(&cow)
        .fails_with(1)?;
    ensure!(output.stderr.contains("in use by pid"), "{output}");
    server.kill()?;
    refused(&cow, "journal has 1 exception")?;
    let discard = ["restore", "--over", "--journal=discard", &dump];
    LAB.usnap(&discard).arg(&cow).ok()?;
    LAB.check_is_clean(&cow)?;
    let left = fs::read_dir(scratch.path())?
        .flatten()
        .map(|entry| entry.path());
    let journals = left.filter(|path| path.extension().is_some_and(|e| e == "journal"));
    ensure!(journals.count() == 0, "the journal is still there");
    ensure!(content(&origin, &cow)?[100 * 4096] == 0);
    Ok(())
}

#[test]
fn a_wrong_dump_is_named_by_line_and_column_and_leaves_nothing() -> Result<()> {
    let (scratch, _origin, cow) = changed()?;
    let made = fs::read_to_string(dump(&scratch, &cow, &[])?)?;
    let untouched = Untouched::note(&cow)?;
    for (wrong, word) in [
        (made.replace("end 4\n", ""), "cut off"),
        (
            made.replace("9 -> 3", "9 -> three"),
            "line 7, column 6: a number was expected",
        ),
        (made.replace("area 0", "area 1"), "area 0 does"),
        (made.clone() + "end 4\n", "more behind its end"),
    ] {
        let path = scratch.join("wrong.dump");
        fs::write(&path, wrong)?;
        for over in [false, true] {
            let mut tool = LAB.usnap(&["restore"]).arg(&path);
            tool = if over {
                tool.arg(&cow).arg(Path::new("--over"))
            } else {
                tool.arg(scratch.join("new.cow"))
            };
            let output = tool.fails_with(1)?;
            ensure!(output.stderr.contains(word), "{output}");
            ensure!(output.stdout.is_empty(), "{output}");
        }
        ensure!(!scratch.join("new.cow").exists());
        untouched.verify()?;
    }
    Ok(())
}

/// A dump of a store in use names its session; over the store it came from that is left out.
#[test]
fn a_session_that_was_not_ended_is_said_and_left_out() -> Result<()> {
    let (scratch, origin, cow) = changed()?;
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let made = dump(&scratch, &cow, &[])?;
    ensure!(fs::read_to_string(&made)?.contains("record clean 0 journal 1"));
    server.stop()?;
    let output = LAB
        .usnap(&["restore", "--over"])
        .arg(&made)
        .arg(&cow)
        .fails_with(0)?;
    ensure!(
        output.stderr.contains("its session is forgotten"),
        "{output}"
    );
    let again = dump(&scratch, &cow, &[])?;
    ensure!(fs::read_to_string(again)?.contains(&format!(
        "record clean 1 journal 0 origin_changing 0 session {} boot_id",
        "0".repeat(32)
    )));
    LAB.serve(&origin)?.cow(&cow).start()?.stop()?;
    Ok(())
}

#[test]
fn what_has_no_end_and_is_no_dump_is_refused_at_its_beginning() -> Result<()> {
    let scratch = LAB.scratch("restore-endless")?;
    for endless in ["/dev/zero", "/dev/urandom"] {
        let cow = scratch.join("new.cow");
        let refused = LAB.usnap(&["restore", endless]).arg(&cow).fails_with(1)?;
        ensure!(refused.stderr.contains("cannot read the dump"), "{refused}");
        ensure!(!cow.exists());
    }
    Ok(())
}
