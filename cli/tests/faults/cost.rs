//! What a 4 KiB first write costs on the COW device, beside the kernel's own dm-snapshot under the
//! same fio: writes, sectors and flushes, as the guest's /proc/diskstats counts them.
//!
//! `cargo test -p usnap --test faults cost -- --nocapture` prints the table.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use usnap_test_support::disks::{Mapped, device, sectors};
use usnap_test_support::lab::text;
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, MIB, Scratch, Tool, say};

use crate::machine::{attach, clear, detach, in_guest, serve};

/// First writes in each run; a multiple of none of the flush intervals but 1, so that the last flush
/// has something to do.
const WRITES: u64 = 2016;
const DEPTHS: [u64; 2] = [1, 32];
const FLUSH_EVERY: [u64; 3] = [1, 32, 1000];

const NAME: &str = "cost::what_a_first_write_costs_on_the_cow_device_beside_the_kernels";

#[test]
fn what_a_first_write_costs_on_the_cow_device_beside_the_kernels() -> Result<()> {
    let Some(said) = in_guest(NAME, prepare, measure_all)? else {
        return Ok(());
    };
    ensure!(said.contains("done yes"), "{said}");
    let mut table = String::from(
        "| depth | a flush every | usnap: requests | sectors | flushes | dm-snapshot: requests | \
         sectors | flushes |\n|---|---|---|---|---|---|---|---|\n",
    );
    for line in said.lines().filter(|line| line.starts_with("| ")) {
        writeln!(table, "{line}")?;
    }
    say(&table)
}

fn prepare(scratch: &Scratch) -> Result<Guest> {
    let origin = scratch.join("origin.img");
    random_file(&origin, 32 * MIB, 51)?;
    let cow = scratch.sparse_file("cow.img", 12 * MIB)?;
    Ok(Guest::new().disk("ORIGIN", &origin).disk("COW", &cow))
}

/// What a device did.
#[derive(Clone, Copy, Debug)]
struct Work {
    writes: u64,
    sectors: u64,
    flushes: u64,
}

impl Work {
    /// All that `device` did since the guest booted.
    fn of(device: &Path) -> Result<Self> {
        let name = device.file_name().context("no name")?;
        let stats = fs::read_to_string(Path::new("/sys/block").join(name).join("stat"))?;
        let numbers: Vec<u64> = stats
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        ensure!(numbers.len() >= 17, "this kernel does not count flushes");
        Ok(Self {
            writes: numbers[4],
            sectors: numbers[6],
            flushes: numbers[15],
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            sectors: self.sectors - before.sectors,
            flushes: self.flushes - before.flushes,
        }
    }

    /// For each of the first writes.
    fn cells(self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a few millions at most")]
        let each = |count: u64| count as f64 / WRITES as f64;
        format!(
            "{:.3} | {:.2} | {:.3}",
            each(self.writes),
            each(self.sectors),
            each(self.flushes)
        )
    }
}

fn measure_all() -> Result<()> {
    // Behind the line that the test harness has begun.
    println!();
    for depth in DEPTHS {
        for flush_every in FLUSH_EVERY {
            let ours = usnap(depth, flush_every, "flush")?;
            let kernels = dm_snapshot(depth, flush_every)?;
            // A commit is two flushes, and one for each further sector of 32 entries.
            let asked = WRITES / flush_every + 1;
            ensure!(
                ours.flushes <= 2 * asked + WRITES / 32,
                "depth {depth}, a flush every {flush_every}: {ours:?}"
            );
            // The kernel commits whenever no write is under way: at depth 1 after each, further on
            // as it happens.
            ensure!(
                depth > 1 || (ours.flushes <= kernels.flushes && ours.sectors <= kernels.sectors),
                "a flush every {flush_every}: {ours:?}, the kernel's {kernels:?}"
            );
            let (ours, kernels) = (ours.cells(), kernels.cells());
            println!("| {depth} | {flush_every} | {ours} | {kernels} |");
        }
    }
    for depth in DEPTHS {
        let ours = usnap(depth, WRITES, "every-write")?;
        let kernels = dm_snapshot(depth, WRITES)?;
        let (ours, kernels) = (ours.cells(), kernels.cells());
        println!("| {depth} | none; `every-write` | {ours} | {kernels} |");
    }
    println!("done yes");
    Ok(())
}

fn usnap(depth: u64, flush_every: u64, durability: &str) -> Result<Work> {
    let (origin, cow) = (device("ORIGIN")?, device("COW")?);
    clear(&cow)?;
    let server = serve(&origin, &cow)?
        .args(&["--chunk-size", "4K", "--durability", durability])
        .start()?;
    let export = Path::new("/dev/nbd0");
    attach(&server, export)?;
    let before = Work::of(&cow)?;
    fio(export, depth, flush_every)?;
    let work = Work::of(&cow)?.since(before);
    detach(export)?;
    server.stop()?;
    Ok(work)
}

fn dm_snapshot(depth: u64, flush_every: u64) -> Result<Work> {
    let (origin, cow) = (device("ORIGIN")?, device("COW")?);
    clear(&cow)?;
    let table = format!(
        "0 {} snapshot {} {} P 8",
        sectors(&origin)?,
        text(&origin)?,
        text(&cow)?
    );
    let snapshot = Mapped::create("snapshot", &table)?;
    let before = Work::of(&cow)?;
    fio(snapshot.path(), depth, flush_every)?;
    let work = Work::of(&cow)?.since(before);
    snapshot.remove()?;
    Ok(work)
}

/// Writes random blocks of 4 KiB, none twice, with flushes, one of them at the end.
fn fio(device: &Path, depth: u64, flush_every: u64) -> Result<()> {
    Tool::new("fio")
        .args(["--name=first", "--rw=randwrite", "--bs=4k", "--direct=1"])
        .args(["--ioengine=libaio", "--end_fsync=1", "--randseed=9"])
        .arg(format!("--filename={}", text(device)?))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--fsync={flush_every}"))
        .arg(format!("--io_size={}", WRITES * 4096))
        .ok()
        .map(drop)
}
