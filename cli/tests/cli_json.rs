//! What programs read: the JSON of status, check and dump, and dumps as text, on stores with and
//! without damage.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use usnap_test_support::cow_bytes::{Header, store};
use usnap_test_support::lab::text;
use usnap_test_support::{Lab, RawClient, Scratch};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const CHUNK: usize = 4096;

/// A COW with the chunks 3 and 9 of its origin changed, at rest.
fn changed() -> Result<(Scratch, PathBuf)> {
    let scratch = LAB.scratch("json")?;
    let (origin, cow) = (
        scratch.sparse_file("disk.img", 1 << 20)?,
        scratch.join("c.cow"),
    );
    let server = LAB
        .serve(&origin)?
        .cow(&cow)
        .args(&["--label", "a \"b\""])
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    client.write_at(3 * CHUNK as u64, &[1; CHUNK])?;
    client.write_at(9 * CHUNK as u64 + 1, &[1])?;
    client.disconnect()?;
    server.stop()?;
    Ok((scratch, cow))
}

fn json_of(words: &[&str], code: i32) -> Result<Value> {
    Ok(serde_json::from_str(
        &LAB.usnap(words).fails_with(code)?.stdout,
    )?)
}

#[test]
fn status_has_the_kernels_line_and_every_figure_apart() -> Result<()> {
    let (_scratch, cow) = changed()?;
    let said = json_of(&["status", "--json", text(&cow)?], 0)?;
    ensure!(said["status"] == LAB.status_line(&cow)?, "{said}");
    let expected = json!({
        "state": "active", "server": null, "chunk_size_bytes": CHUNK, "snapshot_size_bytes": 1 << 20,
        "exceptions_committed": 2, "exceptions_uncommitted": 0, "full": false, "latched": null,
        "persistent": true, "remembers_origin": true, "origin_changing": false, "label": "a \"b\"",
    });
    for (name, value) in expected.as_object().into_iter().flatten() {
        ensure!(said[name] == *value, "{name}: {said}");
    }
    Ok(())
}

#[test]
fn a_dump_as_json_has_the_header_and_every_exception() -> Result<()> {
    let (_scratch, cow) = changed()?;
    let said = json_of(&["dump", "--json", text(&cow)?], 0)?;
    let exceptions = [
        json!({"old_chunk": 3, "new_chunk": 2}),
        json!({"old_chunk": 9, "new_chunk": 3}),
    ];
    ensure!(
        said["areas"] == json!([{"area": 0, "chunk": 1, "exceptions": exceptions}]),
        "{said}"
    );
    ensure!(
        said["usnap_dump"] == 2 && said["valid"] == 1 && said["exceptions"] == 2,
        "{said}"
    );
    ensure!(
        said["chunk_size_sectors"] == 8 && said["label"] == "a \"b\"",
        "{said}"
    );
    ensure!(said["origin"]["size_bytes"] == 1 << 20, "{said}");
    ensure!(
        said["cow_size_bytes"] == std::fs::metadata(&cow)?.len(),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_dump_of_a_foreign_record_and_of_several_areas_is_still_json() -> Result<()> {
    let scratch = LAB.scratch("areas")?;
    let path = scratch.join("areas.cow");
    // Chunks of a sector hold 32 entries: the first area is full, the second has one, and the
    // chunk between them is the second area itself.
    let mut entries: Vec<(u64, u64)> = (0..32).map(|n| (n, n + 2)).collect();
    let mut bytes = store(Header::valid(1), 512, &entries, 512 * 100);
    entries = vec![(40, 35)];
    let second = store(Header::valid(1), 512, &entries, 1024);
    bytes[34 * 512..35 * 512].copy_from_slice(&second[512..]);
    std::fs::write(&path, bytes)?;
    let said = json_of(&["dump", "--json", text(&path)?], 0)?;
    let areas = said["areas"].as_array().map(Vec::len);
    ensure!(
        areas == Some(2) && said["exceptions"] == 33 && said["origin"].is_null(),
        "{said}"
    );
    ensure!(
        said["areas"][1]["exceptions"] == json!([{"old_chunk": 40, "new_chunk": 35}]),
        "{said}"
    );
    let plain = LAB.usnap(&["dump", text(&path)?]).ok()?;
    ensure!(
        plain.ends_with("area 1 chunk 34\n40 -> 35\nend 33\n"),
        "{plain}"
    );
    Ok(())
}

#[test]
fn a_check_names_each_finding_and_exits_with_3() -> Result<()> {
    let (_scratch, cow) = changed()?;
    let clean = json_of(&["check", "--json", text(&cow)?], 0)?;
    ensure!(
        clean["clean"] == true && clean["exceptions"] == 2,
        "{clean}"
    );
    ensure!(clean["findings"] == json!([]), "{clean}");

    // The second entry is made to point at the header.
    let file = std::fs::OpenOptions::new().write(true).open(&cow)?;
    file.write_all_at(&1u64.to_le_bytes(), CHUNK as u64 + 16 + 8)?;
    let damaged = json_of(&["check", "--json", text(&cow)?], 3)?;
    ensure!(
        damaged["clean"] == false && damaged["finding_count"] == 1,
        "{damaged}"
    );
    let finding = &damaged["findings"][0];
    ensure!(finding["kind"] == "entry_points_at_metadata", "{damaged}");
    ensure!(
        finding["area"] == 0 && finding["index"] == 1 && finding["new_chunk"] == 1,
        "{damaged}"
    );
    let plain = LAB.usnap(&["check", text(&cow)?]).fails_with(3)?;
    let message = finding["message"].as_str().unwrap_or_default();
    ensure!(
        plain.stdout.starts_with(message) && !message.is_empty(),
        "{plain}"
    );
    ensure!(plain.stdout.contains(": 1 finding; "), "{plain}");
    Ok(())
}

#[test]
fn a_check_with_the_wrong_origin_says_so() -> Result<()> {
    let (scratch, cow) = changed()?;
    let right = [
        "check",
        text(&cow)?,
        "--origin",
        text(&scratch.join("disk.img"))?,
    ]
    .map(str::to_owned);
    LAB.usnap(&right.each_ref().map(String::as_str)).ok()?;
    let other = scratch.sparse_file("other.img", 2 << 20)?;
    let wrong = json_of(
        &["check", "--json", text(&cow)?, "--origin", text(&other)?],
        3,
    )?;
    ensure!(wrong["findings"][0]["kind"] == "origin_differs", "{wrong}");
    Ok(())
}

#[test]
fn a_kernels_store_is_adopted_only_when_asked_to() -> Result<()> {
    let scratch = LAB.scratch("adopt")?;
    let (origin, cow) = (
        scratch.sparse_file("disk.img", 1 << 20)?,
        scratch.join("c.cow"),
    );
    LAB.usnap(&["create", text(&cow)?, "--size", "1M", "--no-identity"])
        .ok()?;
    let remembers = || -> Result<Value> {
        Ok(json_of(&["status", "--json", text(&cow)?], 0)?["remembers_origin"].clone())
    };
    let log = LAB.serve(&origin)?.cow(&cow).start()?.stop()?;
    ensure!(log.contains("WARN") && log.contains("--adopt"), "{log}");
    ensure!(remembers()? == false);
    LAB.serve(&origin)?
        .cow(&cow)
        .args(&["--adopt"])
        .start()?
        .stop()?;
    ensure!(remembers()? == true);
    let log = LAB.serve(&origin)?.cow(&cow).start()?.stop()?;
    ensure!(!log.contains("WARN"), "{log}");
    Ok(())
}

#[test]
fn every_write_is_committed_before_its_reply_if_that_was_asked_for() -> Result<()> {
    let scratch = LAB.scratch("every-write")?;
    let (origin, cow) = (
        scratch.sparse_file("disk.img", 1 << 20)?,
        scratch.join("c.cow"),
    );
    for (words, exceptions) in [(&["--durability", "every-write"][..], 1), (&[][..], 0)] {
        let server = LAB
            .serve(&origin)?
            .cow(&cow)
            .args(&["--commit-interval", "0"]);
        let server = server.args(words).start()?;
        RawClient::connect(&server.socket())?.write_at(0, &[1; CHUNK])?;
        let said = json_of(&["dump", "--json", text(&cow)?], 0)?;
        ensure!(said["exceptions"] == exceptions, "{words:?}: {said}");
        server.kill()?;
        std::fs::remove_file(&cow)?;
    }
    Ok(())
}

/// Only check and serve said it; status claimed that no origin is remembered.
#[test]
fn status_and_dump_say_that_the_identity_record_is_damaged() -> Result<()> {
    let (_scratch, cow) = changed()?;
    let path = text(&cow)?;
    for command in ["status", "dump"] {
        let whole = json_of(&[command, "--json", path], 0)?;
        ensure!(whole["identity_damage"].is_null(), "{whole}");
        ensure!(!LAB.usnap(&[command, path]).ok()?.contains("identity"));
    }
    // A byte of the origin's size, behind the header and the record's first 16 bytes.
    let file = std::fs::OpenOptions::new().write(true).open(&cow)?;
    file.write_all_at(&[0xff], 16 + 16)?;
    for command in ["status", "dump"] {
        let damaged = json_of(&[command, "--json", path], 0)?;
        let why = damaged["identity_damage"].as_str().unwrap_or_default();
        ensure!(why.contains("checksum"), "{damaged}");
        let plain = LAB.usnap(&[command, path]).ok()?;
        ensure!(
            plain.contains("damaged") && plain.contains(why) && !plain.contains("not remembered"),
            "{plain}"
        );
    }
    Ok(())
}
