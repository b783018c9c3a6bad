//! `usnap compact`, `resize` and `info`: what they make of a COW file, what they say of it, and what
//! they refuse with nothing changed.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use usnap_test_support::lab::{Untouched, text};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Lab, Need, RawClient, Scratch, Tool, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const CHUNK: u64 = 4096;
/// Ends inside a chunk, and inside a sector.
const ORIGIN_BYTES: u64 = (1 << 20) + 1000;

/// An origin, a COW with some of its chunks changed, two of them to what they were, and what the
/// snapshot shows.
struct Bench {
    scratch: Scratch,
    origin: PathBuf,
    cow: PathBuf,
    content: Vec<u8>,
}

impl Bench {
    fn new(name: &str) -> Result<Self> {
        let scratch = LAB.scratch(name)?;
        let origin = scratch.join("disk.img");
        random_file(&origin, ORIGIN_BYTES, 1)?;
        let cow = scratch.join("c.cow");
        LAB.usnap(&["create", "--label", "Tuesday", "--origin"])
            .args([&origin, &cow])
            .ok()?;
        let mut content = fs::read(&origin)?;
        let mut write = Vec::new();
        for (offset, len, byte) in [
            (50 * CHUNK, 2 * CHUNK, 1),
            (9 * CHUNK + 512, 512, 2),
            (3 * CHUNK, CHUNK, 0),
            (ORIGIN_BYTES - 10, 10, 3),
            (20 * CHUNK, 30 * CHUNK, 4),
        ] {
            let range = usize::try_from(offset)?..usize::try_from(offset + len)?;
            content[range.clone()].fill(byte);
            write.push((offset, content[range].to_vec()));
        }
        for chunk in [100, 7] {
            let from = usize::try_from(chunk * CHUNK)?;
            write.push((chunk * CHUNK, content[from..from + 4096].to_vec()));
        }
        let server = LAB.serve(&origin)?.cow(&cow).start()?;
        let mut client = RawClient::connect(&server.socket())?;
        for (offset, bytes) in &write {
            client.write_at(*offset, bytes)?;
        }
        ensure!(client.read_all()? == content);
        client.disconnect()?;
        server.stop()?;
        Ok(Self {
            scratch,
            origin,
            cow,
            content,
        })
    }

    fn served(&self, cow: &Path) -> Result<Vec<u8>> {
        let server = LAB.serve(&self.origin)?.cow(cow).args(&["--read-only"]);
        let server = server.start()?;
        let content = RawClient::connect(&server.socket())?.read_all()?;
        server.stop()?;
        Ok(content)
    }

    fn info(&self, cow: &Path) -> Result<Value> {
        let said = LAB.usnap(&["info", "--json", text(cow)?, "--origin"]);
        Ok(serde_json::from_str(&said.arg(&self.origin).ok()?)?)
    }

    /// Compacts it to a new file.
    fn compact(&self, name: &str, options: &[&str]) -> Result<PathBuf> {
        let out = self.scratch.join(name);
        let tool = LAB.usnap(&["compact"]).args(options);
        tool.args([&self.origin, &self.cow, &out]).ok()?;
        Ok(out)
    }
}

fn holds(said: &Value, expected: &Value) -> Result<()> {
    for (name, value) in expected.as_object().context("an object")? {
        ensure!(said[name] == *value, "{name}: {said:#}");
    }
    Ok(())
}

#[test]
fn a_compacted_file_shows_the_same_and_has_nothing_too_much() -> Result<()> {
    let bench = Bench::new("compact")?;
    let untouched = Untouched::note(&bench.cow)?;
    let compacted = bench.compact("small.cow", &[])?;
    ensure!(bench.served(&compacted)? == bench.content);
    LAB.check_is_clean(&compacted)?;
    // 37 exceptions, of which two are the origin's.
    let expected = json!({
        "exceptions": 35, "exceptions_free": 0, "holes": 0, "sorted": true, "label": "Tuesday",
        "cow_size_bytes": 37 * CHUNK, "chunk_size_bytes": CHUNK, "runs": 4,
        "compared": {"chunks": 35, "equal": 0, "zero": 1, "beyond_origin": 0},
        "identity_damage": null, "origin_differs": null,
    });
    holds(&bench.info(&compacted)?, &expected)?;
    let (old, new) = (bench.info(&bench.cow)?, bench.info(&compacted)?);
    ensure!(old["identity"]["origin_sample_crc32"] == new["identity"]["origin_sample_crc32"]);
    let kept = bench.info(&bench.compact("kept.cow", &["--keep-equal"])?)?;
    ensure!(
        kept["exceptions"] == 37 && kept["compared"]["equal"] == 2,
        "{kept}"
    );
    // Of itself it makes itself, but for the size that was asked for.
    let again = bench.scratch.join("again.cow");
    let tool = LAB.usnap(&["compact", "--cow-size", "1M"]);
    tool.args([&bench.origin, &compacted, &again]).ok()?;
    ensure!(fs::read(&again)?[..37 * 4096] == fs::read(&compacted)?);
    ensure!(fs::metadata(&again)?.len() == 1 << 20);
    untouched.verify()
}

#[test]
fn chunks_of_another_size_show_the_same() -> Result<()> {
    let bench = Bench::new("rechunk")?;
    for (size, exceptions) in [("512", 266), ("16K", 11), ("64K", 5), ("2M", 1)] {
        for keep in [&[][..], &["--keep-equal"]] {
            let name = format!("{size}-{}.cow", keep.len());
            let options = [&["--chunk-size", size], keep].concat();
            let compacted = bench.compact(&name, &options)?;
            ensure!(bench.served(&compacted)? == bench.content, "{name}");
            LAB.check_is_clean(&compacted)?;
            let info = bench.info(&compacted)?;
            ensure!(keep.len() == 1 || info["compared"]["equal"] == 0, "{info}");
            let found = info["exceptions"].as_u64().unwrap_or_default();
            ensure!(found == exceptions || keep.len() == 1, "{name}: {info}");
        }
    }
    Ok(())
}

#[test]
fn what_can_not_be_compacted_leaves_nothing_behind() -> Result<()> {
    let bench = Bench::new("refused")?;
    let untouched = Untouched::note(&bench.cow)?;
    let (origin, cow, out) = (
        text(&bench.origin)?,
        text(&bench.cow)?,
        bench.scratch.join("out"),
    );
    let other = bench.scratch.join("other.img");
    random_file(&other, ORIGIN_BYTES, 9)?;
    let refused = |words: &[&str], out: &Path, code: i32, word: &str| -> Result<()> {
        let output = LAB
            .usnap(&["compact"])
            .args(words)
            .arg(out)
            .fails_with(code)?;
        ensure!(output.stderr.contains(word), "{output}");
        ensure!(output.stdout.is_empty(), "{output}");
        Ok(())
    };
    refused(&[origin, cow], &bench.cow, 1, "it exists")?;
    refused(&[origin, cow, "--cow-size", "64K"], &out, 2, "needs")?;
    refused(&[origin, cow, "--chunk-size", "32M"], &out, 2, "larger")?;
    refused(&[text(&other)?, cow], &out, 1, "content changed")?;
    refused(&[origin, origin], &out, 2, "at once")?;
    refused(
        &[origin, cow],
        &bench.scratch.join("no/out"),
        1,
        "No such file",
    )?;
    let server = LAB.serve(&bench.origin)?.cow(&bench.cow).start()?;
    refused(&[origin, cow], &out, 1, "in use by pid")?;
    server.stop()?;
    ensure!(!out.exists());
    // The session is another one now.
    drop(untouched);
    ensure!(bench.served(&bench.cow)? == bench.content);
    Ok(())
}

/// Of a large store, so that there is time.
#[test]
fn an_interrupted_compaction_leaves_nothing_behind() -> Result<()> {
    let scratch = LAB.scratch("interrupted")?;
    let origin = scratch.sparse_file("disk.img", 4 << 30)?;
    let cow = scratch.join("c.cow");
    LAB.usnap(&["create", "--origin"])
        .args([&origin, &cow])
        .ok()?;
    let areas = 2000_u64;
    let file = fs::OpenOptions::new().write(true).open(&cow)?;
    for area in 0..areas {
        let entry = |n: u64| {
            [
                (area * 256 + n).to_le_bytes(),
                (2 + area * 257 + n).to_le_bytes(),
            ]
        };
        let bytes: Vec<u8> = (0..256).flat_map(|n| entry(n).concat()).collect();
        file.write_all_at(&bytes, (1 + area * 257) * CHUNK)?;
    }
    let before = fs::read_dir(scratch.path())?.count();
    for signal in [Signal::INT, Signal::TERM] {
        // Whoever runs the tests may have them ignored.
        let child = Command::new("env")
            .args(["--default-signal", LAB.program(), "compact", "--keep-equal"])
            .args(["disk.img", "c.cow", "out.cow"])
            .current_dir(scratch.path())
            .stderr(Stdio::piped())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(400));
        let pid = Pid::from_child(&child);
        kill_process(pid, signal)?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        ensure!(code == Some(128 + signal.as_raw()), "{code:?}: {said}");
        ensure!(said.contains("nothing is left behind"), "{said}");
        ensure!(fs::read_dir(scratch.path())?.count() == before);
    }
    Ok(())
}

#[test]
fn a_file_gets_longer_and_no_shorter_than_what_is_used() -> Result<()> {
    let bench = Bench::new("resize")?;
    let resized = |words: &[&str], code: i32, word: &str| -> Result<u64> {
        let output = LAB
            .usnap(&["resize"])
            .arg(&bench.cow)
            .args(words)
            .fails_with(code)?;
        ensure!(
            (output.stdout.clone() + &output.stderr).contains(word),
            "{words:?}: {output}"
        );
        Ok(fs::metadata(&bench.cow)?.len())
    };
    ensure!(resized(&["3M"], 0, "room for 727 chunks more")? == 3 << 20);
    ensure!(resized(&["100K"], 2, "needs 159744")? == 3 << 20);
    ensure!(resized(&["--shrink"], 0, "room for 0 chunks more")? == 39 * CHUNK);
    ensure!(bench.served(&bench.cow)? == bench.content);
    LAB.check_is_clean(&bench.cow)?;
    ensure!(resized(&["159743"], 2, "needs 159744")? == 39 * CHUNK);
    ensure!(resized(&["160001"], 0, "room for 0 chunks more")? == 160_001);
    // The size that is fatal to a kernel that fills it.
    ensure!(resized(&["1032K"], 0, "a kernel that fills this size")? == 258 * CHUNK);
    ensure!(resized(&["--shrink", "1M"], 2, "cannot be used with")? == 258 * CHUNK);
    ensure!(resized(&[], 2, "required")? == 258 * CHUNK);
    ensure!(resized(&["7E"], 2, "unit")? == 258 * CHUNK);
    let server = LAB.serve(&bench.origin)?.cow(&bench.cow).start()?;
    ensure!(resized(&["2M"], 1, "truncate -s SIZE")? == 258 * CHUNK);
    // As it says.
    LAB.usnap(&["status"]).arg(&bench.cow).ok()?;
    Tool::new("truncate")
        .args(["-s", "2M"])
        .arg(&bench.cow)
        .ok()?;
    RawClient::connect(&server.socket())?.write_at(200 * CHUNK, &[9; 4096])?;
    server.stop()?;
    ensure!(bench.served(&bench.cow)?[200 * 4096] == 9);
    Ok(())
}

#[test]
fn a_journal_is_committed_before_a_resize_and_damage_refuses_it() -> Result<()> {
    let bench = Bench::new("killed")?;
    let server = LAB.serve(&bench.origin)?.cow(&bench.cow);
    let server = server.args(&["--commit-interval", "0"]).start()?;
    RawClient::connect(&server.socket())?.write_at(200 * CHUNK, &[9; 4096])?;
    server.kill()?;
    let said = LAB
        .usnap(&["resize", "--shrink"])
        .arg(&bench.cow)
        .fails_with(0)?;
    ensure!(said.stderr.contains("committed 1 exceptions"), "{said}");
    ensure!(said.stdout.contains("exceptions: 38"), "{said}");
    ensure!(bench.served(&bench.cow)?[200 * 4096] == 9);

    let file = fs::OpenOptions::new().write(true).open(&bench.cow)?;
    file.write_all_at(&1_u64.to_le_bytes(), CHUNK + 8)?;
    let untouched = Untouched::note(&bench.cow)?;
    let said = LAB
        .usnap(&["resize", "--shrink"])
        .arg(&bench.cow)
        .fails_with(1)?;
    ensure!(said.stderr.contains("points at a metadata chunk"), "{said}");
    untouched.verify()?;
    let info = bench.info(&bench.cow)?;
    ensure!(
        info["damaged_entries"] == 1 && info["exceptions"] == 38,
        "{info}"
    );
    file.write_all_at(&0_u32.to_le_bytes(), 4)?;
    let said = LAB
        .usnap(&["resize", "--shrink"])
        .arg(&bench.cow)
        .fails_with(1)?;
    ensure!(said.stderr.contains("invalidated"), "{said}");
    ensure!(bench.info(&bench.cow)?["valid"] == 0);
    Ok(())
}

#[test]
fn info_says_what_libblkid_says_and_more() -> Result<()> {
    let bench = Bench::new("info")?;
    let expected = json!({
        "type": "DM_snapshot_cow", "usage": "other", "version": 1, "valid": 1, "label": "Tuesday",
        "exceptions": 37, "areas": 1, "holes": 0, "sorted": false, "cut_chunk_bytes": 0,
        "overlong_bytes": 0, "damaged_entries": 0, "area_missing": false, "runs": 7,
        "metadata_bytes": 2 * CHUNK, "data_bytes": 37 * CHUNK,
        "compared": {"chunks": 37, "equal": 2, "zero": 1, "beyond_origin": 0},
    });
    let said = bench.info(&bench.cow)?;
    holds(&said, &expected)?;
    ensure!(
        said["identity"]["clean"] == true && said["journal"]["state"] == "none",
        "{said}"
    );
    let plain = LAB.usnap(&["info"]).arg(&bench.cow).ok()?;
    for line in [
        "label: Tuesday",
        "flags: origin, clean",
        "sorted: no",
        "exceptions: 37, room",
    ] {
        ensure!(plain.contains(line), "{line}: {plain}");
    }
    ensure!(!plain.contains("equal to the origin"), "{plain}");
    LAB.usnap(&["resize", "5000001"])
        .arg(&bench.cow)
        .fails_with(2)?;
    LAB.usnap(&["resize"])
        .args([text(&bench.cow)?, "5000001"])
        .ok()?;
    let longer = bench.info(&bench.cow)?;
    ensure!(longer["cut_chunk_bytes"] == 5_000_001 % CHUNK, "{longer}");
    ensure!(
        longer["overlong_bytes"].as_u64() > Some(3 << 20),
        "{longer}"
    );
    let other = bench.scratch.join("other.img");
    random_file(&other, ORIGIN_BYTES, 9)?;
    let said = LAB
        .usnap(&["info", "--origin"])
        .args([&other, &bench.cow])
        .ok()?;
    ensure!(
        said.contains("note: ") && said.contains("content changed"),
        "{said}"
    );

    if missing(&[Need::Program("blkid")])? {
        return Ok(());
    }
    let blkid = Tool::new("blkid")
        .args(["-p", "-o", "export"])
        .arg(&bench.cow)
        .ok()?;
    ensure!(blkid.contains("TYPE=DM_snapshot_cow\n"), "{blkid}");
    ensure!(blkid.contains("USAGE=other\n"), "{blkid}");
    Ok(())
}
