//! `usnap merge`: what it makes of origin and COW file, what it refuses with nothing changed, and
//! that it goes on wherever it was stopped or killed.
//!
//! `USNAP_TEST_SCALE=full` kills it a hundred times.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use usnap_test_support::lab::{Untouched, text};
use usnap_test_support::pattern::random_file;
use usnap_test_support::tool::wait;
use usnap_test_support::{KIB, Lab, MIB, RawClient, Rng, Scale, Scratch};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

const CHUNK: u64 = 4 * KIB;
/// The origin ends inside a chunk, and inside a sector.
const ORIGIN_BYTES: u64 = 16 * MIB + 700;

/// An origin, a COW file of it, and what both show.
struct Bench {
    scratch: Scratch,
    content: Vec<u8>,
}

impl Bench {
    /// With `writes` writes at random.
    fn new(name: &str, writes: usize) -> Result<Self> {
        let scratch = Scratch::new(Path::new("/tmp"), &format!("usnap-merge-{name}"))?;
        let origin = scratch.join("disk.img");
        random_file(&origin, ORIGIN_BYTES, 1)?;
        let mut content = fs::read(&origin)?;
        let server = LAB.serve(&origin)?.cow(&scratch.join("c.cow")).start()?;
        let mut client = RawClient::connect(&server.socket())?;
        let mut rng = Rng::new(7);
        for _ in 0..writes {
            let len = 1 + rng.below(2 * CHUNK);
            let offset = rng.below(ORIGIN_BYTES - len);
            let bytes = rng.bytes(usize::try_from(len)?);
            client.write_at(offset, &bytes)?;
            content[usize::try_from(offset)?..][..bytes.len()].copy_from_slice(&bytes);
        }
        let end = usize::try_from(ORIGIN_BYTES)? - 10;
        client.write_at(ORIGIN_BYTES - 10, &[0x5a; 10])?;
        content[end..].fill(0x5a);
        client.disconnect()?;
        server.stop()?;
        Ok(Self { scratch, content })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn merge(&self, args: &[&str]) -> usnap_test_support::Tool {
        LAB.usnap(&["merge", "c.cow", "disk.img"])
            .args(args)
            .current_dir(self.scratch.path())
    }

    fn status(&self) -> Result<Value> {
        let said = LAB.usnap(&["status", "--json"]).arg(self.path("c.cow"));
        Ok(serde_json::from_str(&said.ok()?)?)
    }

    fn origin_is_the_snapshot(&self) -> Result<()> {
        ensure!(
            fs::read(self.path("disk.img"))? == self.content,
            "the origin is not what the snapshot was"
        );
        Ok(())
    }

    /// What the error line and the hint must say, with nothing changed.
    fn refused(&self, cow: &str, origin: &str, args: &[&str], says: &str) -> Result<()> {
        let untouched = [
            Untouched::note(&self.path(cow))?,
            Untouched::note(&self.path(origin))?,
        ];
        let output = LAB
            .usnap(&["merge", cow, origin])
            .args(args)
            .current_dir(self.scratch.path())
            .fails_with(1)?;
        ensure!(
            output.stderr.contains(says) && output.stdout.is_empty(),
            "{says} was expected: {output}"
        );
        ensure!(output.stderr.contains("usnap: cannot "), "{output}");
        untouched.iter().try_for_each(Untouched::verify)
    }

    /// Starts a merge in small batches, which takes its time.
    fn start(&self) -> Result<Child> {
        Command::new(LAB.program())
            .args(["merge", "c.cow", "disk.img", "--batch", "64K"])
            .current_dir(self.scratch.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a merge")
    }
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("no pid")?;
    kill_process(pid, signal).context("cannot signal a merge")
}

/// A COW file without its identity record.
fn but_record(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(path)?;
    bytes[16..512].fill(0);
    Ok(bytes)
}

#[test]
fn the_origin_becomes_the_snapshot_and_the_store_empty() -> Result<()> {
    let bench = Bench::new("whole", 600)?;
    let exceptions = bench.status()?["exceptions_committed"].clone();
    let said = bench.merge(&[]).ok()?;
    ensure!(
        said.starts_with(&format!(
            "c.cow: merged into disk.img; chunks: {exceptions}, data: "
        )),
        "{said}"
    );
    bench.origin_is_the_snapshot()?;
    let status = bench.status()?;
    ensure!(
        status["exceptions_committed"] == 0 && status["origin_changing"] == false,
        "{status}"
    );
    let (cow, origin) = (bench.path("c.cow"), bench.path("disk.img"));
    let check = LAB
        .usnap(&["check", text(&cow)?, "--origin", text(&origin)?])
        .ok()?;
    ensure!(
        check.ends_with("clean; exceptions: 0, areas: 1\n"),
        "{check}"
    );

    // It is served at once, and nothing is to be said.
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(
        client.read_all()? == bench.content,
        "it serves another content"
    );
    client.write_at(5, b"and on")?;
    client.disconnect()?;
    let log = server.log()?;
    ensure!(!log.contains("origin"), "{log}");
    server.stop()?;
    let said = bench.merge(&["--batch", "512"]).ok()?;
    ensure!(said.contains("chunks: 1, data: 4 KiB"), "{said}");
    let said = bench.merge(&[]).ok()?;
    ensure!(said.contains("chunks: 0, data: 0 B"), "{said}");
    Ok(())
}

#[test]
fn what_a_killed_server_had_noted_is_merged_too() -> Result<()> {
    let mut bench = Bench::new("journal", 20)?;
    let (cow, origin) = (bench.path("c.cow"), bench.path("disk.img"));
    let kill_after = |offset: u64, byte: u8| -> Result<()> {
        let server = LAB
            .serve(&origin)?
            .cow(&cow)
            .args(&["--commit-interval", "0"])
            .start()?;
        RawClient::connect(&server.socket())?.write_at(offset, &[byte; 9000])?;
        server.kill()
    };
    kill_after(MIB, 3)?;
    bench.merge(&[]).ok()?;
    bench.content[1 << 20..][..9000].fill(3);
    bench.origin_is_the_snapshot()?;

    kill_after(2 * MIB, 4)?;
    // Somebody else wrote to the file meanwhile: what the journal says is in doubt.
    let file = File::options().write(true).open(&cow)?;
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(60))?;
    drop(file);
    bench.refused("c.cow", "disk.img", &[], "--journal=discard")?;
    bench.merge(&["--journal", "discard"]).ok()?;
    bench.origin_is_the_snapshot()
}

#[test]
fn what_does_not_fit_is_refused_with_nothing_changed() -> Result<()> {
    let bench = Bench::new("refused", 300)?;
    let (cow, origin) = (bench.path("c.cow"), bench.path("disk.img"));
    let copy = |name: &str, change: &dyn Fn(&File) -> std::io::Result<()>| -> Result<()> {
        fs::copy(&cow, bench.path(name))?;
        let file = File::options().write(true).open(bench.path(name))?;
        Ok(change(&file)?)
    };
    // The store.
    copy("invalid.cow", &|file| file.write_all_at(&[0; 4], 4))?;
    bench.refused("invalid.cow", "disk.img", &[], "it was invalidated")?;
    copy("damaged.cow", &|file| {
        file.write_all_at(&[1; 16], 4096 + 160)
    })?;
    bench.refused("damaged.cow", "disk.img", &[], "usnap repair")?;
    copy("record.cow", &|file| file.write_all_at(&[9], 100))?;
    bench.refused("record.cow", "disk.img", &[], "the identity record")?;
    copy("cut.cow", &|file| file.set_len(300 * KIB))?;
    bench.refused("cut.cow", "disk.img", &[], "usnap repair")?;
    bench.scratch.sparse_file("unused.cow", MIB)?;
    bench.refused("unused.cow", "disk.img", &[], "not a store's")?;
    bench.refused("disk.img", "c.cow", &[], "not a store's")?;
    bench.refused("c.cow", "c.cow", &[], "at once")?;
    // The origin.
    random_file(&bench.path("other.img"), ORIGIN_BYTES, 2)?;
    bench.refused("c.cow", "other.img", &[], "--force-origin")?;
    random_file(&bench.path("short.img"), MIB, 2)?;
    bench.refused("c.cow", "short.img", &[], "--force-origin")?;
    bench.refused(
        "c.cow",
        "short.img",
        &["--force-origin"],
        "the origin is too short",
    )?;
    fs::write(bench.path("empty.img"), [])?;
    bench.refused("c.cow", "empty.img", &[], "it is empty")?;
    // Somebody else's.
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    bench.refused("c.cow", "disk.img", &[], "uses it")?;
    server.stop()?;
    let server = LAB.serve(&origin)?.args(&["--transient"]).start()?;
    bench.refused("c.cow", "disk.img", &[], "uses it")?;
    server.stop()?;
    let server = LAB.serve(&bench.path("other.img"))?;
    let server = server.cow(&cow).args(&["--force-origin"]).start()?;
    bench.refused("c.cow", "disk.img", &[], "it is in use by pid")?;
    server.stop()?;
    LAB.usnap(&["merge", "c.cow", "disk.img", "--batch", "2G"])
        .fails_with(2)?;

    bench
        .merge(&[])
        .ok()
        .context("and after all that it is merged")?;
    bench.origin_is_the_snapshot()
}

#[test]
fn another_origin_is_taken_when_told_to() -> Result<()> {
    let bench = Bench::new("forced", 50)?;
    fs::rename(bench.path("disk.img"), bench.path("first.img"))?;
    random_file(&bench.path("disk.img"), ORIGIN_BYTES, 2)?;
    let output = bench.merge(&["--force-origin"]).run()?;
    ensure!(
        output.status.success() && output.stderr.contains("merged all the same"),
        "{output}"
    );
    let merged = fs::read(bench.path("disk.img"))?;
    // The last chunk was written, and comes with what was around it.
    let last = usize::try_from(ORIGIN_BYTES / CHUNK * CHUNK)?;
    ensure!(merged[last..] == bench.content[last..]);
    ensure!(merged != bench.content);
    ensure!(bench.status()?["origin_changing"] == false);
    Ok(())
}

#[test]
fn a_signal_ends_it_at_a_safe_place_and_the_same_command_goes_on() -> Result<()> {
    for (which, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let bench = Bench::new(&format!("signal-{code}"), 1500)?;
        let all = bench.status()?["exceptions_committed"].as_u64();
        let mut merge = bench.start()?;
        // When the first batches are cleared it is in the middle.
        let begun = Instant::now();
        while bench.status()?["exceptions_committed"].as_u64() == all {
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "it does not begin"
            );
        }
        signal(&merge, which)?;
        let status = wait(&mut merge, Duration::from_secs(30))?.context("it goes on and on")?;
        let mut said = String::new();
        merge
            .stderr
            .take()
            .context("piped")?
            .read_to_string(&mut said)?;
        ensure!(status.code() == Some(code), "{status}: {said}");
        ensure!(
            said.contains("told to stop, with ") && said.contains("\nhint: nothing is lost"),
            "{said}"
        );
        // Half-merged it shows what it showed.
        let status = bench.status()?;
        ensure!(status["origin_changing"] == true, "{status}");
        let left = status["exceptions_committed"].as_u64();
        ensure!(left > Some(0) && left < all, "{status}");
        let server = LAB
            .serve(&bench.path("disk.img"))?
            .cow(&bench.path("c.cow"));
        let server = server.args(&["--read-only"]).start()?;
        let shown = RawClient::connect(&server.socket())?.read_all()?;
        ensure!(
            shown == bench.content,
            "half-merged it shows something else"
        );
        let log = server.log()?;
        ensure!(log.contains("only its size was compared"), "{log}");
        server.stop()?;
        bench.merge(&[]).ok()?;
        bench.origin_is_the_snapshot()?;
    }
    Ok(())
}

#[test]
fn killed_at_any_moment_it_goes_on() -> Result<()> {
    let bench = Bench::new("killed", 1500)?;
    let (cow, origin) = (bench.path("c.cow"), bench.path("disk.img"));
    fs::copy(&cow, bench.path("kept.cow"))?;
    fs::copy(&origin, bench.path("kept.img"))?;
    let begun = Instant::now();
    let mut whole = bench.start()?;
    ensure!(whole.wait()?.success(), "it does not merge");
    let takes = u64::try_from(begun.elapsed().as_micros())?;
    bench.origin_is_the_snapshot()?;
    let merged = but_record(&cow)?;

    let kills = Scale::from_env()?.pick(10, 100);
    let mut rng = Rng::new(u64::try_from(begun.elapsed().as_nanos())?);
    let (mut killed, mut round) = (0, 0);
    while killed < kills {
        round += 1;
        fs::copy(bench.path("kept.cow"), &cow)?;
        // The record knows the origin by its content too: its time does not matter.
        fs::copy(bench.path("kept.img"), &origin)?;
        for _ in 0..=rng.below(3) {
            let mut merge = bench.start()?;
            thread::sleep(Duration::from_micros(rng.below(takes)));
            signal(&merge, Signal::KILL)?;
            let status = merge.wait()?;
            killed += u32::from(status.code().is_none());
        }
        bench
            .merge(&[])
            .ok()
            .with_context(|| format!("round {round}"))?;
        bench
            .origin_is_the_snapshot()
            .with_context(|| format!("round {round}"))?;
        ensure!(
            but_record(&cow)? == merged,
            "round {round}: the store is not what an undisturbed merge leaves"
        );
        ensure!(bench.status()?["origin_changing"] == false, "round {round}");
    }
    usnap_test_support::say(&format!("merge: {killed} kills in {round} rounds"))
}
