//! `kill -9`: what clients were told is written is there again, or the next serve says why it is not,
//! and changes nothing before it is told what to do.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use usnap_test_support::{Lab, Need, RawClient, Scratch, Serve, Server, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

const CHUNK: u64 = CHUNK_LEN as u64;
const CHUNK_LEN: usize = 4096;
const CHUNKS: usize = 64;

/// An origin of fives, and a folder for the rest.
struct Bench {
    scratch: Scratch,
}

impl Bench {
    fn new(name: &str) -> Result<Self> {
        Self::below(Path::new("/tmp"), name)
    }

    fn below(root: &Path, name: &str) -> Result<Self> {
        let scratch = Scratch::new(root, &format!("usnap-kill-{name}"))?;
        std::fs::write(scratch.join("disk.img"), vec![5; CHUNKS * CHUNK_LEN])?;
        Ok(Self { scratch })
    }

    fn cow(&self) -> PathBuf {
        self.scratch.join("c.cow")
    }

    fn serve(&self, args: &[&str]) -> Result<Serve> {
        self.serve_as(&self.cow(), args)
    }

    fn serve_as(&self, cow: &Path, args: &[&str]) -> Result<Serve> {
        let serve = LAB.serve(&self.scratch.join("disk.img"))?.cow(cow);
        // Only flushes commit: what a test sees is the journal's doing.
        Ok(serve.args(&["--commit-interval", "0"]).args(args))
    }

    /// Serves, writes chunks `chunks` with `byte`, and is killed.
    fn write_and_kill(&self, chunks: Range<u64>, byte: u8) -> Result<()> {
        let server = self.serve(&[])?.start()?;
        write(&server, chunks, byte)?;
        server.kill()
    }

    /// What `serve` says where it refuses.
    fn refusal(&self, args: &[&str]) -> Result<String> {
        let refused = LAB
            .usnap(&["serve", "disk.img", "--cow", "c.cow", "--run", "true"])
            .args(args)
            .current_dir(self.scratch.path())
            .fails_with(1)?;
        Ok(refused.stderr)
    }

    fn status(&self) -> Result<Value> {
        let said = LAB.usnap(&["status", "--json"]).arg(self.cow()).ok()?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Journals beside the COW file.
    fn journals(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.scratch.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "journal") {
                found.push(path);
            }
        }
        Ok(found)
    }

    fn journal(&self) -> Result<PathBuf> {
        let mut journals = self.journals()?;
        ensure!(journals.len() == 1, "{journals:?}");
        journals.pop().context("none")
    }
}

fn write(server: &Server, chunks: Range<u64>, byte: u8) -> Result<()> {
    let mut client = RawClient::connect(&server.socket())?;
    for chunk in chunks {
        client.write_at(chunk * CHUNK, &[byte; CHUNK_LEN])?;
    }
    Ok(())
}

/// The first byte of each chunk; all of its bytes are the same.
fn bytes(server: &Server) -> Result<Vec<u8>> {
    let all = RawClient::connect(&server.socket())?.read_all()?;
    let chunks = all.chunks(CHUNK_LEN);
    ensure!(
        chunks
            .clone()
            .all(|chunk| chunk.iter().all(|b| *b == chunk[0]))
    );
    Ok(chunks.map(|chunk| chunk[0]).collect())
}

fn expected(changes: &[(Range<usize>, u8)]) -> Vec<u8> {
    let mut bytes = vec![5; CHUNKS];
    for (chunks, byte) in changes {
        bytes[chunks.clone()].fill(*byte);
    }
    bytes
}

#[test]
fn what_was_acknowledged_survives_one_kill_after_the_other() -> Result<()> {
    for root in ["/tmp", "/dev/shm"] {
        let bench = Bench::below(Path::new(root), "again")?;
        bench.write_and_kill(0..10, 1)?;
        let status = bench.status()?;
        ensure!(status["exceptions_committed"] == 0, "{status}");
        ensure!(status["journal"]["state"] == "waiting", "{status}");
        ensure!(status["journal"]["pending"] == 10, "{status}");
        ensure!(
            status["journal"]["doubts"] == Value::Array(vec![]),
            "{status}"
        );
        let said = LAB.usnap(&["status"]).arg(bench.cow()).ok()?;
        ensure!(said.contains("the next serve adds them"), "{said}");

        let server = bench.serve(&[])?.start()?;
        ensure!(bytes(&server)? == expected(&[(0..10, 1)]));
        let log = server.log()?;
        ensure!(log.contains("replayed 10 exceptions"), "{log}");
        let live = bench.status()?;
        ensure!(live["journal"]["state"] == "active", "{live}");
        ensure!(live["exceptions_committed"] == 10, "{live}");
        // Some of it new, some over what is there.
        write(&server, 5..20, 2)?;
        server.kill()?;

        bench.write_and_kill(30..31, 3)?;
        let server = bench.serve(&[])?.start()?;
        let wanted = expected(&[(0..5, 1), (5..20, 2), (30..31, 3)]);
        ensure!(bytes(&server)? == wanted);
        server.stop()?;
        ensure!(
            bench.journals()?.is_empty(),
            "a clean exit leaves no journal"
        );
        LAB.check_is_clean(&bench.cow())?;
        let status = bench.status()?;
        ensure!(status["journal"]["state"] == "none", "{status}");
        let server = bench.serve(&[])?.start()?;
        ensure!(bytes(&server)? == wanted);
        ensure!(server.stop()?.is_empty(), "there is nothing to be said");
    }
    Ok(())
}

#[test]
fn flushes_between_the_writes_leave_only_the_rest_to_be_replayed() -> Result<()> {
    let bench = Bench::new("flushed")?;
    let server = bench.serve(&[])?.start()?;
    write(&server, 0..7, 1)?;
    RawClient::connect(&server.socket())?.flush()?;
    write(&server, 7..9, 1)?;
    server.kill()?;
    ensure!(bench.status()?["journal"]["pending"] == 2);
    let server = bench.serve(&[])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..9, 1)]));
    ensure!(server.log()?.contains("replayed 2 exceptions"));
    server.stop()?;
    Ok(())
}

#[test]
fn a_file_that_somebody_touched_is_refused_unchanged_until_told() -> Result<()> {
    for told in ["replay", "discard"] {
        let bench = Bench::new("touched")?;
        bench.write_and_kill(0..3, 1)?;
        let file = File::options().write(true).open(bench.cow())?;
        file.set_modified(SystemTime::now() - Duration::from_secs(60))?;
        drop(file);
        let before = std::fs::read(bench.cow())?;
        let journal = std::fs::read(bench.journal()?)?;
        for args in [&[][..], &["--journal=off"], &["--read-only"]] {
            let said = bench.refusal(args)?;
            ensure!(
                said.contains("c.cow: ") && said.contains("somebody else"),
                "{said}"
            );
            ensure!(said.contains("3 exceptions"), "{said}");
            ensure!(said.contains("--journal=replay") && said.contains("--journal=discard"));
        }
        ensure!(std::fs::read(bench.cow())? == before);
        ensure!(std::fs::read(bench.journal()?)? == journal);
        let status = bench.status()?;
        let doubts = status["journal"]["doubts"].to_string();
        ensure!(doubts.contains("somebody else"), "{status}");
        let said = LAB.usnap(&["status"]).arg(bench.cow()).ok()?;
        ensure!(said.contains("refuses until --journal says"), "{said}");

        let server = bench.serve(&["--journal", told])?.start()?;
        let (wanted, word) = match told {
            "replay" => (expected(&[(0..3, 1)]), "replayed 3"),
            _ => (expected(&[]), "discarded"),
        };
        ensure!(bytes(&server)? == wanted);
        ensure!(server.log()?.contains(word), "{}", server.log()?);
        server.stop()?;
        ensure!(bench.journals()?.is_empty());
    }
    Ok(())
}

#[test]
fn what_was_refused_is_not_replayed_because_discarding_it_failed() -> Result<()> {
    if missing(&[Need::Program("prlimit")])? {
        return Ok(());
    }
    let bench = Bench::new("discarding")?;
    bench.write_and_kill(0..3, 1)?;
    let file = File::options().write(true).open(bench.cow())?;
    file.set_modified(SystemTime::now() - Duration::from_secs(60))?;
    drop(file);
    ensure!(bench.refusal(&[])?.contains("somebody else"));
    // The new session can't be written.
    let mut limited = Command::new("prlimit");
    limited.args(["--fsize=0", LAB.program(), "serve", "disk.img"]);
    limited.args(["--cow", "c.cow", "--journal=discard", "--run", "true"]);
    let output = limited.current_dir(bench.scratch.path()).output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = bench.refusal(&[])?;
    ensure!(said.contains("--journal=discard"), "{said}");
    let server = bench.serve(&["--journal=discard"])?.start()?;
    ensure!(bytes(&server)? == expected(&[]));
    server.stop()?;
    Ok(())
}

#[test]
fn a_journal_of_another_user_can_be_discarded_by_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for by in ["serve", "repair"] {
        let bench = Bench::new("another-user")?;
        bench.write_and_kill(0..3, 1)?;
        std::os::unix::fs::chown(bench.journal()?, Some(1000), None)?;
        let said = bench.refusal(&[])?;
        ensure!(said.contains("belongs to user 1000"), "{said}");
        ensure!(said.contains("--journal=discard"), "{said}");
        let plan = LAB
            .usnap(&["repair", "-n"])
            .arg(bench.cow())
            .fails_with(1)?;
        ensure!(
            plan.stderr.contains("belongs to user 1000"),
            "{}",
            plan.stderr
        );
        if by == "serve" {
            let server = bench.serve(&["--journal=discard"])?.start()?;
            ensure!(bytes(&server)? == expected(&[]));
            server.stop()?;
        } else {
            let words = ["repair", "--journal=discard"];
            LAB.usnap(&words).arg(bench.cow()).ok()?;
        }
        // It is that user's to remove.
        ensure!(bench.journals()?.len() == 1, "{by}");
        let server = bench.serve(&[])?.start()?;
        ensure!(!server.log()?.contains("journal"), "{}", server.log()?);
        server.stop()?;
    }
    Ok(())
}

#[test]
fn a_file_that_somebody_wrote_to_is_not_replayed_whatever_is_asked() -> Result<()> {
    let bench = Bench::new("foreign")?;
    let server = bench.serve(&[])?.start()?;
    write(&server, 0..2, 1)?;
    RawClient::connect(&server.socket())?.flush()?;
    write(&server, 2..4, 1)?;
    server.kill()?;
    // As a kernel that used the store meanwhile: an entry that the journal does not know.
    let file = File::options().write(true).open(bench.cow())?;
    let mut entry = [0; 16];
    entry[0] = 40;
    entry[8] = 9;
    file.write_all_at(&entry, CHUNK + 2 * 16)?;
    drop(file);
    for args in [&[][..], &["--journal", "replay"]] {
        let said = bench.refusal(args)?;
        ensure!(said.contains("knows nothing of the entry"), "{said}");
        ensure!(said.contains("--journal=discard"), "{said}");
    }
    let server = bench.serve(&["--journal=discard"])?.start()?;
    ensure!(bytes(&server)?[..4] == [1, 1, 5, 5]);
    server.stop()?;
    Ok(())
}

#[test]
fn a_renamed_file_keeps_its_journal_and_one_moved_without_it_is_refused() -> Result<()> {
    let bench = Bench::new("moved")?;
    bench.write_and_kill(0..3, 1)?;
    let renamed = bench.scratch.join("other.cow");
    std::fs::rename(bench.cow(), &renamed)?;
    let server = bench.serve_as(&renamed, &[])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..3, 1)]));
    write(&server, 3..4, 1)?;
    server.kill()?;

    std::fs::create_dir(bench.scratch.join("folder"))?;
    let moved = bench.scratch.join("folder/other.cow");
    std::fs::rename(&renamed, &moved)?;
    let said = LAB.usnap(&["status"]).arg(&moved).ok()?;
    let journal = bench.journal()?;
    let name = journal.file_name().context("its name")?;
    let told = format!("its journal {} is not to be found", name.display());
    ensure!(said.contains(&told) && said.contains("refuses"), "{said}");
    let said = LAB.usnap(&["check"]).arg(&moved).ok()?;
    ensure!(said.contains(&told), "{said}");
    let before = std::fs::read(&moved)?;
    for mode in ["auto", "replay", "off"] {
        let refused = bench.serve_as(&moved, &["--journal", mode])?.start().err();
        let refused = format!("{:#}", refused.context("it is served")?);
        ensure!(
            refused.contains(&told) && refused.contains("--journal=discard"),
            "{refused}"
        );
    }
    LAB.usnap(&["repair"]).arg(&moved).fails_with(1)?;
    ensure!(
        std::fs::read(&moved)? == before,
        "a refusal changes nothing"
    );
    std::fs::rename(&journal, bench.scratch.join("folder").join(name))?;
    let server = bench.serve_as(&moved, &[])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..4, 1)]));
    server.kill()?;

    let without = bench.scratch.join("without.cow");
    std::fs::rename(&moved, &without)?;
    let server = bench
        .serve_as(&without, &["--journal", "discard"])?
        .start()?;
    let log = server.log()?;
    ensure!(log.contains("may be missing"), "{log}");
    server.stop()?;
    Ok(())
}

#[test]
fn an_error_while_looking_for_the_journal_is_not_taken_for_a_bad_journal() -> Result<()> {
    let bench = Bench::new("few")?;
    bench.write_and_kill(0..3, 1)?;
    for command in [
        "serve -r disk.img --cow c.cow --run true",
        "repair -n c.cow",
    ] {
        let script = format!("ulimit -n $1; exec \"$0\" {command}");
        let mut told = 0;
        for descriptors in 4..24 {
            let ran = Command::new("sh")
                .args(["-c", &script, env!("CARGO_BIN_EXE_usnap")])
                .arg(format!("{descriptors}"))
                .current_dir(bench.scratch.path())
                .output()?;
            let said = String::from_utf8_lossy(&ran.stderr);
            let shown = String::from_utf8_lossy(&ran.stdout);
            for wrong in [
                "not to be replayed",
                "not to be found",
                "may be missing",
                "discard",
            ] {
                let is_said = said.contains(wrong) || shown.contains(wrong);
                ensure!(!is_said, "{command}, {descriptors}: {said}{shown}");
            }
            told += u32::from(said.contains("can't be looked at"));
        }
        ensure!(
            told > 0,
            "{command}: no limit fell on the look for the journal"
        );
    }
    let server = bench.serve(&[])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..3, 1)]));
    server.stop()?;
    Ok(())
}

#[test]
fn a_copy_is_another_file_and_leaves_the_journal_to_the_first() -> Result<()> {
    let bench = Bench::new("copy")?;
    bench.write_and_kill(0..3, 1)?;
    let copy = bench.scratch.join("copy.cow");
    std::fs::copy(bench.cow(), &copy)?;
    let refused = bench.serve_as(&copy, &[])?.start().err();
    let refused = format!("{:#}", refused.context("the copy is served")?);
    ensure!(refused.contains("written for another file"), "{refused}");
    for told in ["discard", "replay"] {
        std::fs::copy(bench.cow(), &copy)?;
        bench
            .serve_as(&copy, &["--journal", told])?
            .start()?
            .stop()?;
        bench.journal()?;
    }
    let server = bench.serve(&[])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..3, 1)]));
    server.stop()?;
    Ok(())
}

#[test]
fn a_kill_in_the_middle_of_a_replay_changes_nothing() -> Result<()> {
    let bench = Bench::new("twice")?;
    bench.write_and_kill(0..60, 1)?;
    for round in 0..12 {
        let mut child = Command::new(LAB.program())
            .args(["serve", "disk.img", "--cow", "c.cow", "--run", "sleep 1"])
            .current_dir(bench.scratch.path())
            .stderr(File::create(bench.scratch.join("log"))?)
            .spawn()?;
        // From before it opens anything to when it serves.
        thread::sleep(Duration::from_micros(600 * round));
        child.kill()?;
        child.wait()?;
    }
    let server = bench.serve(&[])?.start()?;
    ensure!(
        bytes(&server)? == expected(&[(0..60, 1)]),
        "{}",
        server.log()?
    );
    server.stop()?;
    LAB.check_is_clean(&bench.cow())
}

#[test]
fn a_read_only_server_shows_what_waits_and_leaves_it() -> Result<()> {
    let bench = Bench::new("shown")?;
    bench.write_and_kill(0..3, 1)?;
    let before = (
        std::fs::read(bench.cow())?,
        std::fs::read(bench.journal()?)?,
    );
    let server = bench.serve(&["--read-only"])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..3, 1)]));
    let live = bench.status()?;
    ensure!(live["journal"]["state"] == "waiting", "{live}");
    server.stop()?;
    ensure!(
        before
            == (
                std::fs::read(bench.cow())?,
                std::fs::read(bench.journal()?)?
            )
    );
    let server = bench.serve(&[])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..3, 1)]));
    server.stop()?;
    Ok(())
}

#[test]
fn without_a_place_for_a_journal_it_is_served_and_said() -> Result<()> {
    let bench = Bench::new("no-place")?;
    let cow = bench.cow();
    let created = LAB.usnap(&["create"]).arg(&cow).args(["--size", "32K"]);
    created.ok()?;
    // No file may be as long as a journal is, wherever it lies.
    let mut limited = Command::new("prlimit");
    limited.arg("--fsize=40000").arg(LAB.program());
    let serve = Serve::wrapped(limited, Path::new("/tmp"), &bench.scratch.join("disk.img"))?;
    let server = serve.cow(&cow).start()?;
    ensure!(
        server.log()?.contains("no journal is kept"),
        "{}",
        server.log()?
    );
    let live = bench.status()?;
    ensure!(live["journal"]["state"] == "none", "{live}");
    ensure!(live["journal"]["why_none"].is_string(), "{live}");
    write(&server, 0..2, 1)?;
    server.kill()?;
    // What it says then is true.
    let server = bench.serve(&[])?.start()?;
    ensure!(
        server.log()?.contains("may be missing"),
        "{}",
        server.log()?
    );
    ensure!(bytes(&server)? == expected(&[]));
    server.stop()?;
    Ok(())
}

#[test]
fn with_journal_off_there_is_none_and_what_waits_is_added_all_the_same() -> Result<()> {
    let bench = Bench::new("off")?;
    bench.write_and_kill(0..2, 1)?;
    let server = bench.serve(&["--journal", "off"])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..2, 1)]));
    ensure!(bench.journals()?.is_empty());
    write(&server, 2..4, 1)?;
    server.kill()?;
    let server = bench.serve(&[])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..2, 1)]));
    server.stop()?;
    Ok(())
}

#[test]
fn a_store_without_a_record_has_a_journal_once_it_is_adopted() -> Result<()> {
    let bench = Bench::new("adopted")?;
    let created = LAB.usnap(&["create"]).arg(bench.cow());
    created.args(["--size", "1M"]).ok()?;
    // As a kernel makes it.
    let file = File::options().write(true).open(bench.cow())?;
    file.write_all_at(&[0; 496], 16)?;
    drop(file);
    let server = bench.serve(&[])?.start()?;
    let log = server.log()?;
    ensure!(
        log.contains("no journal is kept") && log.contains("--adopt"),
        "{log}"
    );
    server.stop()?;
    let server = bench.serve(&["--adopt"])?.start()?;
    write(&server, 0..2, 1)?;
    server.kill()?;
    let server = bench.serve(&[])?.start()?;
    ensure!(bytes(&server)? == expected(&[(0..2, 1)]));
    server.stop()?;
    Ok(())
}

/// What a journal could cost. Waiting and waking depend on who comes first.
const COUNTED: [&str; 14] = [
    "clock_gettime",
    "fallocate",
    "fdatasync",
    "fstat",
    "fsync",
    "lseek",
    "msync",
    "newfstatat",
    "pread64",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "statx",
    "sync_file_range",
];

/// How many system calls of these a server makes that serves this many first writes, from start to end.
fn calls(bench: &Bench, journal: &str, writes: u64) -> Result<u64> {
    let path = |name: &str| bench.scratch.join(&format!("{journal}-{writes}.{name}"));
    let (counts, pid_file) = (path("counts"), path("pid"));
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(&counts);
    traced.arg(LAB.program());
    let serve = Serve::wrapped(traced, Path::new("/tmp"), &bench.scratch.join("disk.img"))?;
    let args = ["--commit-interval", "0", "--journal", journal, "--pid-file"];
    let pid_file_arg = pid_file.to_str().context("no UTF-8")?;
    let server = serve
        .cow(&path("cow"))
        .args(&args)
        .args(&[pid_file_arg])
        .start()?;
    write(&server, 0..writes, 1)?;
    // Not strace: that would leave the server alone.
    let pid = std::fs::read_to_string(&pid_file)?.trim().parse()?;
    kill_process(Pid::from_raw(pid).context("no pid")?, Signal::TERM)?;
    server.ended()?;
    let counted = std::fs::read_to_string(&counts)?;
    let calls = counted.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse::<u64>().ok()?;
        words.next().filter(|name| COUNTED.contains(name))?;
        Some(number)
    });
    Ok(calls.sum())
}

#[test]
fn a_write_costs_no_system_call_more_with_a_journal() -> Result<()> {
    if missing(&[Need::Program("strace")])? {
        return Ok(());
    }
    let bench = Bench::new("calls")?;
    // What a session begins and ends with is paid for once.
    let of_writes = |journal| -> Result<u64> {
        let few = calls(&bench, journal, 10)?;
        let many = calls(&bench, journal, 60)?;
        Ok(many.saturating_sub(few))
    };
    let (with, without) = (of_writes("auto")?, of_writes("off")?);
    ensure!(
        without >= 50,
        "{without} calls for 50 writes: nothing was counted"
    );
    ensure!(
        with < without + 5,
        "50 writes take {with} calls, {without} without a journal"
    );
    Ok(())
}
