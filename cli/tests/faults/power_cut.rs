//! Power cuts on a real filesystem: a server in the guest keeps its COW on ext4, on a disk whose
//! writes dm-log-writes notes in their order. From the log, each state that the disk had becomes a
//! disk again: behind each of the client's flushes, and at some place between it and the next.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use usnap_test_support::disks::{Mapped, Mount, device, sectors};
use usnap_test_support::guest::inside_guest;
use usnap_test_support::lab::{sha256_of_bytes, text};
use usnap_test_support::log_writes::WriteLog;
use usnap_test_support::pattern::random_file;
use usnap_test_support::raw_client::command;
use usnap_test_support::{GIB, Guest, MIB, Need, RawClient, Rng, Scratch, Tool, missing, say};

use crate::logged::{Event, Kind, Planned, Story, after_a_cut};
use crate::machine::{flush, run_dir, serve};
use crate::written::Written;
use crate::{LAB, knobs};

const ORIGIN_BYTES: u64 = 6 * MIB;
const COW_BYTES: u64 = 8 * MIB;
const DISK_BYTES: u64 = 40 * MIB;
const WRITERS: u64 = 3;
/// What a writer waits between requests, so that a flush has not too much to do.
const PAUSE: Duration = Duration::from_micros(300);

const NAME: &str = "power_cut::what_was_flushed_survives_a_power_cut_at_any_place_of_the_disks_log";

#[test]
fn what_was_flushed_survives_a_power_cut_at_any_place_of_the_disks_log() -> Result<()> {
    if inside_guest() {
        return write_and_mark();
    }
    if missing(&[
        Need::GuestKernel,
        Need::Program("mke2fs"),
        Need::Program("debugfs"),
    ])? {
        return Ok(());
    }
    let (marks, seed) = (knobs::rounds(12, 200)?, knobs::seed()?);
    for chunk in ["4K", "512"] {
        cuts(marks.div_ceil(2), seed, chunk)
            .with_context(|| format!("USNAP_FAULT_SEED={seed}, chunks of {chunk}"))?;
    }
    Ok(())
}

fn cuts(marks: u64, seed: u64, chunk: &str) -> Result<()> {
    let scratch = LAB.scratch("cut")?;
    let origin = scratch.join("origin.img");
    random_file(&origin, ORIGIN_BYTES, 21)?;
    let disk = scratch.sparse_file("disk.img", DISK_BYTES)?;
    let log = scratch.sparse_file("log.img", 4 * GIB)?;
    let story = scratch.join("story");
    Guest::new()
        .disk("DISK", &disk)
        .disk("LOG", &log)
        .variable("ORIGIN", text(&origin)?)
        .variable("STORY", text(&story)?)
        .variable("MARKS", &marks.to_string())
        .variable("SEED", &seed.to_string())
        .variable("CHUNK", chunk)
        .module("md/dm-log-writes")
        .limit(Duration::from_secs(120 + 5 * marks))
        .run_test(&scratch, NAME)?;

    let log = WriteLog::read(&log)?;
    let story = Story::load(&story)?;
    let origin_bytes = fs::read(&origin)?;
    let disk = File::create(&disk)?;
    disk.set_len(DISK_BYTES)?;
    let stores = scratch.sparse_file("stores.img", 2 * marks * COW_BYTES)?;
    let mut rng = Rng::new(seed ^ 0xc07);
    let (mut at, mut digests, mut seen) = (0, Vec::new(), 0);
    for mark in 1..=marks {
        let here = log.mark(&mark.to_string())?;
        let next = log
            .mark(&(mark + 1).to_string())
            .unwrap_or_else(|_| log.len());
        let between = here + usize::try_from(rng.below((next - here) as u64 + 1))?;
        for cut in [here, between] {
            log.replay(&disk, at, cut)?;
            at = cut;
            let written = after_a_cut(&origin_bytes, &story, mark)?;
            let content = survives(&scratch, &origin, &stores, digests.len() as u64, &written)
                .with_context(|| format!("cut behind mark {mark}, {} entries later", cut - here))?;
            digests.push(sha256_of_bytes(&content)?);
            // A judge that sees no loss where there must be one is worth nothing: a flush later,
            // there is more to be found.
            let later = after_a_cut(&origin_bytes, &story, mark + 1)?;
            seen += u64::from(cut == here && !later.judge(&content).is_empty());
        }
    }
    ensure!(
        seen * 4 >= marks,
        "of {marks} losses only {seen} would be seen"
    );
    let entries = log.len();
    say(&format!(
        "power cuts, chunks of {chunk}: {} states of a disk with {entries} logged writes, \
         {} events of clients",
        digests.len(),
        story.len()
    ))?;
    the_kernel_reads_the_same(&scratch, &origin, &stores, &digests)
}

/// What the disk of `scratch` holds now, after the filesystem's own recovery, is a sound store with
/// everything that it must have. A copy of it goes to `stores`; returns what it serves.
fn survives(
    scratch: &Scratch,
    origin: &Path,
    stores: &Path,
    index: u64,
    written: &Written,
) -> Result<Vec<u8>> {
    let (image, found) = (scratch.join("cut.img"), scratch.join("found"));
    let disk = scratch.join("disk.img");
    Tool::new("cp")
        .arg("--sparse=always")
        .args([&disk, &image])
        .ok()?;
    let output = Tool::new("e2fsck").arg("-fy").arg(&image).run()?;
    ensure!(matches!(output.status.code(), Some(0..=1)), "{output}");
    fs::create_dir(&found)?;
    let dump = format!("rdump / {}", text(&found)?);
    Tool::new("debugfs").args(["-R", &dump]).arg(&image).ok()?;
    let cow = found.join("c.cow");
    ensure!(cow.exists(), "the COW is gone");
    ensure!(fs::metadata(&cow)?.len() == COW_BYTES, "it is cut off");
    Tool::new("dd")
        .arg(format!("if={}", text(&cow)?))
        .arg(format!("of={}", text(stores)?))
        .args(["bs=1M", "conv=notrunc,sparse", "status=none"])
        .arg(format!("seek={}", index * COW_BYTES / MIB))
        .ok()?;
    LAB.check_is_clean(&cow)?;
    let server = LAB.serve(origin)?.cow(&cow).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let content = client.read_all()?;
    let wrong = written.judge(&content);
    ensure!(
        wrong.is_empty(),
        "{} sectors are wrong: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(8)]
    );
    client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&cow)?;
    fs::remove_dir_all(&found)?;
    Ok(content)
}

/// dm-snapshot activates each of the stores as the cut left it, and shows what we show.
fn the_kernel_reads_the_same(
    scratch: &Scratch,
    origin: &Path,
    stores: &Path,
    digests: &[String],
) -> Result<()> {
    let said = Guest::new()
        .disk("ORIGIN", origin)
        .disk("STORES", stores)
        .variable("COUNT", &digests.len().to_string())
        .variable("SECTORS", &(COW_BYTES / 512).to_string())
        .limit(Duration::from_secs(120 + 5 * digests.len() as u64))
        .run(scratch, include_str!("kernel_reads.sh"))?;
    for (index, digest) in digests.iter().enumerate() {
        ensure!(
            said.value(&format!("store.{index}"))? == digest,
            "the kernel reads something else from store {index}"
        );
    }
    Ok(())
}

/// Inside the guest: writers, and a client that flushes and marks.
fn write_and_mark() -> Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("no {name}"));
    let (marks, seed): (u64, u64) = (variable("MARKS")?.parse()?, variable("SEED")?.parse()?);
    let (disk, log) = (device("DISK")?, device("LOG")?);
    let table = format!(
        "0 {} log-writes {} {}",
        sectors(&disk)?,
        text(&disk)?,
        text(&log)?
    );
    let disk = Mapped::create("logged", &table)?;
    let mount = Mount::new_ext4(disk.path(), &run_dir("point"))?;
    let cow = mount.join("c.cow");
    let origin = device("ORIGIN")?;
    let server = serve(&origin, &cow)?
        .args(&["--chunk-size", &variable("CHUNK")?, "--cow-size", "8M"])
        .args(&["--commit-interval", "0.05"])
        .start()?;
    let socket = server.socket();
    let (story, stop) = (Story::default(), AtomicBool::new(false));
    let shared = Shared {
        written: Mutex::new(Written::new(fs::read(&origin)?)),
        ids: AtomicU64::new(1),
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let rng = Rng::new(seed ^ (writer << 48));
                let (story, stop, socket, shared) = (&story, &stop, &socket, &shared);
                scope.spawn(move || shared.write(socket, story, rng, stop))
            })
            .collect();
        let flushed = (1..=marks).try_for_each(|number| {
            let mut client = RawClient::connect(&socket)?;
            thread::sleep(Duration::from_millis(1 + number % 17));
            story.note(Event::Flushing { number });
            ensure!(flush(&mut client)? == 0, "flush {number} failed");
            disk.message(&["mark", &number.to_string()])?;
            story.note(Event::Marked { number });
            client.disconnect()
        });
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        flushed
    })?;
    story.save(&device("STORY")?)?;
    server.stop()?;
    mount.unmount()?;
    disk.remove()
}

/// What the writers share: no two of them write to one sector at once.
struct Shared {
    written: Mutex<Written>,
    ids: AtomicU64,
}

impl Shared {
    fn write(&self, socket: &Path, story: &Story, mut rng: Rng, stop: &AtomicBool) -> Result<()> {
        let mut client = RawClient::connect(socket)?;
        while !stop.load(Ordering::Relaxed) {
            let what = plan(&mut rng);
            let change = what.change();
            let Some(number) = crate::load::lock(&self.written).begin(&change) else {
                continue;
            };
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            story.note(Event::Begun { id, what });
            let len = u32::try_from(what.len)?;
            let (command, payload) = match what.kind {
                Kind::Write => (command::WRITE, Rng::new(what.seed).bytes(what.len)),
                Kind::Zero => (command::WRITE_ZEROES, Vec::new()),
                Kind::Trim => (command::TRIM, Vec::new()),
            };
            let error = client.call(command, what.at as u64, len, &payload)?;
            ensure!(error == 0, "{what:?}: error {error}");
            story.note(Event::Done { id });
            crate::load::lock(&self.written).done(number);
            thread::sleep(PAUSE);
        }
        client.disconnect()
    }
}

fn plan(rng: &mut Rng) -> Planned {
    let (len, alignment) = match rng.below(10) {
        0..5 => (4096, 4096),
        5..7 => (1024, 512),
        7 => (1000, 1),
        8 => (16 << 10, 4096),
        _ => (64 << 10, 4096),
    };
    let kind = match rng.below(12) {
        0 => Kind::Zero,
        1 => Kind::Trim,
        _ => Kind::Write,
    };
    // Half of it goes to a part of the device, so that there are overwrites too.
    let bytes = if rng.below(2) == 0 { ORIGIN_BYTES } else { MIB };
    let places = (bytes - len) / alignment + 1;
    let at = rng.below(places) * alignment;
    Planned {
        kind,
        at: usize::try_from(at).unwrap_or(0),
        len: usize::try_from(len).unwrap_or(0),
        seed: rng.next_u64(),
    }
}
