//! `usnap repair` and what it shares with `check`: plans as text and as JSON, exit codes, and that
//! nothing happens that was not shown.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use usnap_test_support::lab::{Untouched, text};
use usnap_test_support::raw_client::command;
use usnap_test_support::{Lab, RawClient, Scratch, Tool};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const CHUNK: u64 = 4096;

/// A COW with four chunks of its origin changed, at rest.
fn changed() -> Result<(Scratch, PathBuf)> {
    let scratch = LAB.scratch("repair")?;
    let origin = scratch.sparse_file("disk.img", 1 << 20)?;
    let cow = scratch.join("c.cow");
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    for chunk in [3, 9, 20, 21] {
        client.write_at(chunk * CHUNK, &[1; 4096])?;
    }
    client.disconnect()?;
    server.stop()?;
    Ok((scratch, cow))
}

fn put(cow: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(cow)?;
    Ok(file.write_all_at(bytes, offset)?)
}

/// Writes entry `index` of area 0.
fn put_entry(cow: &Path, index: u64, old_chunk: u64, new_chunk: u64) -> Result<()> {
    let entry = [old_chunk.to_le_bytes(), new_chunk.to_le_bytes()].concat();
    put(cow, CHUNK + index * 16, &entry)
}

fn json_of(words: &[&str], code: i32) -> Result<Value> {
    let output = LAB.usnap(words).fails_with(code)?;
    Ok(serde_json::from_str(&output.stdout)?)
}

#[test]
fn a_sound_file_has_nothing_to_repair() -> Result<()> {
    let (_scratch, cow) = changed()?;
    let untouched = Untouched::note(&cow)?;
    for words in [&["repair"][..], &["repair", "--dry-run"]] {
        let said = LAB.usnap(words).arg(&cow).ok()?;
        ensure!(said.ends_with("c.cow: nothing to repair\n"), "{said}");
    }
    let said = json_of(&["repair", "--json", text(&cow)?], 0)?;
    let steps = (&said["steps"], &said["refusals"], &said["notes"]);
    ensure!(steps == (&json!([]), &json!([]), &json!([])), "{said}");
    untouched.verify()
}

#[test]
fn a_dry_run_shows_the_plan_and_a_repair_shows_the_same_and_does_it() -> Result<()> {
    let (_scratch, cow) = changed()?;
    put_entry(&cow, 7, 1, 1)?;
    let untouched = Untouched::note(&cow)?;
    let shown = LAB.usnap(&["repair", "-n"]).arg(&cow).fails_with(3)?;
    untouched.verify()?;
    let (plan, last) = shown.stdout.split_once("/c.cow: ").unwrap_or_default();
    ensure!(last == "nothing was changed\n", "{shown}");
    ensure!(plan.contains("area 0 (chunk 1), entry 7 and on"), "{shown}");
    let done = LAB.usnap(&["repair"]).arg(&cow).ok()?;
    ensure!(done.starts_with(plan), "{done}");
    let last = "/c.cow: repaired; exceptions: 4, areas: 1\n";
    ensure!(done.ends_with(last), "{done}");
    LAB.check_is_clean(&cow)
}

#[test]
fn the_plan_as_json_names_places_and_values() -> Result<()> {
    let (_scratch, cow) = changed()?;
    put_entry(&cow, 1, 9, 1)?;
    let dry = [
        "repair",
        "--json",
        "--dry-run",
        "--drop-damaged",
        text(&cow)?,
    ];
    let said = json_of(&dry, 3)?;
    ensure!(said["dry_run"] == true && said["refusals"] == json!([]));
    let steps: Vec<&Value> = said["steps"].as_array().into_iter().flatten().collect();
    let step = steps.iter().find(|step| step["kind"] == "drop_entry");
    let expected = json!({
        "area": 0, "chunk": 1, "index": 1, "old_chunk": 9, "new_chunk": 1, "from": "9 -> 1",
        "to": "21 -> 5 (from area 0, entry 3)",
    });
    for (name, value) in expected.as_object().into_iter().flatten() {
        ensure!(
            step.is_some_and(|step| step[name] == *value),
            "{name}: {said}"
        );
    }
    ensure!(said["step_count"] == steps.len(), "{said}");
    LAB.usnap(&["repair", "--drop-damaged"]).arg(&cow).ok()?;
    LAB.check_is_clean(&cow)
}

#[test]
fn what_stands_in_the_way_is_one_error_with_the_option_that_helps() -> Result<()> {
    let (_scratch, cow) = changed()?;
    put_entry(&cow, 1, 9, 1)?;
    let untouched = Untouched::note(&cow)?;
    for dry_run in [&[][..], &["--dry-run"]] {
        let refused = LAB
            .usnap(&["repair"])
            .args(dry_run)
            .arg(&cow)
            .fails_with(1)?;
        let first = refused.stderr.lines().next().unwrap_or_default();
        ensure!(first.starts_with("usnap: cannot repair "), "{refused}");
        ensure!(
            first.contains("area 0, entry 1 points at a metadata chunk"),
            "{refused}"
        );
        ensure!(
            refused.stderr.contains("\nhint: --drop-damaged "),
            "{refused}"
        );
        ensure!(refused.stdout.contains("\nin the way: "), "{refused}");
        ensure!(
            refused.stdout.ends_with("nothing was changed\n"),
            "{refused}"
        );
    }
    untouched.verify()
}

#[test]
fn an_invalidated_file_says_how_it_becomes_valid_wherever_it_is_refused() -> Result<()> {
    let (scratch, cow) = changed()?;
    put(&cow, 4, &[0; 4])?;
    let origin = scratch.join("disk.img");
    let serve = LAB.usnap(&["serve", text(&origin)?, "--single", "--cow"]);
    for refused in [
        serve.arg(&cow).fails_with(1)?,
        LAB.usnap(&["repair"]).arg(&cow).fails_with(1)?,
    ] {
        ensure!(refused.stderr.contains("--revalidate"), "{refused}");
    }
    let said = LAB.usnap(&["repair", "--revalidate"]).arg(&cow).ok()?;
    ensure!(
        said.contains("\nnote: what the kernel had not committed"),
        "{said}"
    );
    LAB.check_is_clean(&cow)?;
    let origin = text(&origin)?;
    LAB.usnap(&["check", text(&cow)?, "--origin", origin])
        .ok()?;
    Ok(())
}

#[test]
fn a_damaged_header_is_found_and_mended() -> Result<()> {
    let (_scratch, cow) = changed()?;
    put(&cow, 0, b"oops")?;
    let found = json_of(&["check", "--json", text(&cow)?], 3)?;
    let finding = &found["findings"][0];
    ensure!(
        finding["kind"] == "header_damaged" && finding["chunk"] == 0,
        "{found}"
    );
    LAB.usnap(&["repair"]).arg(&cow).ok()?;
    LAB.check_is_clean(&cow)
}

#[test]
fn a_file_in_use_is_refused_and_its_user_named() -> Result<()> {
    let (scratch, cow) = changed()?;
    let server = LAB.serve(&scratch.join("disk.img"))?.cow(&cow).start()?;
    for words in [&["repair"][..], &["repair", "--dry-run"]] {
        let refused = LAB.usnap(words).arg(&cow).fails_with(1)?;
        ensure!(refused.stderr.contains("in use by pid "), "{refused}");
        ensure!(refused.stdout.is_empty(), "{refused}");
    }
    server.stop()?;
    Ok(())
}

/// A plan that nobody could see is not carried out.
#[test]
fn nothing_is_done_where_the_plan_cannot_be_printed() -> Result<()> {
    let (_scratch, cow) = changed()?;
    put_entry(&cow, 7, 1, 1)?;
    let untouched = Untouched::note(&cow)?;
    // The reader is gone before the first byte is written.
    let script = "exec 3>&1; ( sleep 0.2; \"$0\" repair \"$1\"; echo $? >&3 ) | true";
    let output = Tool::new("bash")
        .args(["-c", script, LAB.program()])
        .arg(&cow)
        .run()?;
    ensure!(output.stdout == "1\n", "{output}");
    ensure!(
        output.stderr.contains("the plan could not be printed"),
        "{output}"
    );
    untouched.verify()
}

#[test]
fn a_check_says_as_notes_what_is_no_damage() -> Result<()> {
    let scratch = LAB.scratch("notes")?;
    let cow = scratch.join("c.cow");
    LAB.usnap(&["create", "--size", "256M"]).arg(&cow).ok()?;
    let said = json_of(&["check", "--json", text(&cow)?], 0)?;
    ensure!(
        said["clean"] == true && said["findings"] == json!([]),
        "{said}"
    );
    ensure!(said["notes"][0]["kind"] == "poisoned_size", "{said}");
    let said = LAB.usnap(&["check"]).arg(&cow).ok()?;
    ensure!(said.starts_with("note: a kernel that fills"), "{said}");
    Ok(())
}

/// A COW whose server was killed with one chunk flushed and two noted.
fn killed() -> Result<(Scratch, PathBuf)> {
    let scratch = Scratch::new(Path::new("/tmp"), "usnap-repair-killed")?;
    let origin = scratch.sparse_file("disk.img", 1 << 20)?;
    let cow = scratch.join("c.cow");
    let server = LAB
        .serve(&origin)?
        .cow(&cow)
        .args(&["--commit-interval", "0"])
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    client.write_at(3 * CHUNK, &[1; 4096])?;
    client.call(command::FLUSH, 0, 0, &[])?;
    client.write_at(7 * CHUNK, &[2; 4096])?;
    client.write_at(8 * CHUNK, &[3; 4096])?;
    server.kill()?;
    Ok((scratch, cow))
}

fn journals(scratch: &Scratch) -> Result<usize> {
    let names = std::fs::read_dir(scratch.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<String>>>()?;
    Ok(names
        .iter()
        .filter(|name| name.ends_with(".journal"))
        .count())
}

fn exceptions(cow: &Path) -> Result<Value> {
    Ok(json_of(&["dump", "--json", text(cow)?], 0)?["exceptions"].clone())
}

#[test]
fn a_journal_that_waits_is_a_note_and_is_replayed() -> Result<()> {
    let (scratch, cow) = killed()?;
    ensure!(journals(&scratch)? == 1);
    let untouched = Untouched::note(&cow)?;
    let found = json_of(&["check", "--json", text(&cow)?], 0)?;
    let note = &found["notes"][0];
    ensure!(note["kind"] == "journal_waiting", "{found}");
    ensure!(
        note["message"].to_string().contains("2 exceptions"),
        "{found}"
    );
    let plan = json_of(&["repair", "--json", "-n", text(&cow)?], 3)?;
    ensure!(plan["steps"][0]["kind"] == "replay_journal", "{plan}");
    ensure!(plan["step_count"] == 1, "{plan}");
    untouched.verify()?;
    let said = LAB.usnap(&["repair"]).arg(&cow).ok()?;
    ensure!(
        said.ends_with("/c.cow: repaired; exceptions: 3, areas: 1\n"),
        "{said}"
    );
    ensure!(journals(&scratch)? == 0);
    let again = LAB.usnap(&["repair"]).arg(&cow).ok()?;
    ensure!(again.ends_with("nothing to repair\n"), "{again}");
    let server = LAB.serve(&scratch.join("disk.img"))?.cow(&cow).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut bytes = [0; 2 * 4096];
    client.read_at(7 * CHUNK, &mut bytes)?;
    ensure!(bytes[..4096] == [2; 4096] && bytes[4096..] == [3; 4096]);
    client.disconnect()?;
    server.stop()?;
    Ok(())
}

#[test]
fn a_journal_in_doubt_is_replayed_or_discarded_as_told() -> Result<()> {
    for (action, count) in [("replay", 3), ("discard", 1)] {
        let (scratch, cow) = killed()?;
        // Somebody else's writing.
        let hour = std::time::Duration::from_secs(3600);
        let file = std::fs::OpenOptions::new().write(true).open(&cow)?;
        file.set_modified(std::time::SystemTime::now() + hour)?;
        drop(file);
        let refused = LAB.usnap(&["repair"]).arg(&cow).fails_with(1)?;
        ensure!(
            refused
                .stderr
                .contains("2 exceptions that are not committed"),
            "{refused}"
        );
        ensure!(refused.stderr.contains("--journal=replay"), "{refused}");
        ensure!(journals(&scratch)? == 1 && exceptions(&cow)? == 1);
        LAB.usnap(&["repair", "--journal", action]).arg(&cow).ok()?;
        ensure!(exceptions(&cow)? == count, "{action}");
        ensure!(journals(&scratch)? == 0, "{action}");
        LAB.check_is_clean(&cow)?;
    }
    Ok(())
}

#[test]
fn a_journal_is_not_replayed_to_a_damaged_file() -> Result<()> {
    let (scratch, cow) = killed()?;
    let modified = std::fs::metadata(&cow)?.modified()?;
    put_entry(&cow, 0, 3, 1)?;
    std::fs::OpenOptions::new()
        .write(true)
        .open(&cow)?
        .set_modified(modified)?;
    let refused = LAB
        .usnap(&["repair", "--drop-damaged"])
        .arg(&cow)
        .fails_with(1)?;
    ensure!(refused.stderr.contains("--journal=discard"), "{refused}");
    let discard = ["repair", "--drop-damaged", "--journal", "discard"];
    LAB.usnap(&discard).arg(&cow).ok()?;
    ensure!(exceptions(&cow)? == 0 && journals(&scratch)? == 0);
    LAB.check_is_clean(&cow)
}
