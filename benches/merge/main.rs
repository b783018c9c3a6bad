//! How fast a merge is beside a plain copy of the same chunks: one `pread` and one `pwrite` a chunk,
//! in the order in which the store has them, and one `fsync` at the end. The merge does more: it
//! flushes the origin at each checkpoint and clears the store's entries durably.

mod store;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::fs::{Advice, fadvise};
use usnap_test_support::{MIB, Scratch};

use crate::store::Store;

/// Merges a store of scattered chunks, and copies the same chunks plainly, in turns.
#[derive(Debug, Parser)]
#[command(name = "merge")]
struct Options {
    /// Rounds; each measures both, beginning with the other one
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// MiB of the origin
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    origin_mib: u64,
    /// Exceptions of 4 KiB, scattered over the origin at random
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    exceptions: u64,
    /// Passed on to `usnap merge`
    #[arg(long, value_name = "SIZE")]
    batch: Option<String>,
    /// The usnap to measure; without it `cargo build --release` makes one
    #[arg(long, value_name = "PROGRAM")]
    usnap: Option<PathBuf>,
    /// Where the files go; a filesystem on a real disk
    #[arg(long, default_value = "/tmp", value_name = "DIR")]
    directory: PathBuf,
    /// Leave both files in the page cache before each measurement
    #[arg(long)]
    warm: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("merge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let usnap = match &options.usnap {
        Some(program) => program.clone(),
        None => built()?,
    };
    let scratch = Scratch::new(&options.directory, "usnap-merge-bench")?;
    let store = Store::make(&scratch, options.origin_mib * MIB, options.exceptions)?;
    let copied_mib = options.exceptions * store::CHUNK / MIB;
    println!(
        "{} chunks of 4 KiB ({copied_mib} MiB) into an origin of {} MiB, {}",
        options.exceptions,
        options.origin_mib,
        if options.warm { "warm" } else { "cold" }
    );
    let (mut copies, mut merges, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let copy = || measured(options, &store, || plain_copy(&store));
        let merge = || measured(options, &store, || merged(options, &usnap, &store));
        let (copy, merge) = if round % 2 == 0 {
            (copy()?, merge()?)
        } else {
            let merge = merge()?;
            (copy()?, merge)
        };
        store.check_origin()?;
        println!(
            "round {}: plain copy {copy:.2} s, merge {merge:.2} s",
            round + 1
        );
        copies.push(copy);
        merges.push(merge);
        ratios.push(copy / merge);
    }
    let speed = |seconds: f64| f64::from(u32::try_from(copied_mib).unwrap_or(0)) / seconds;
    let (copy, merge) = (median(&mut copies), median(&mut merges));
    println!("plain copy: median {copy:.2} s, {:.0} MiB/s", speed(copy));
    println!("merge:      median {merge:.2} s, {:.0} MiB/s", speed(merge));
    println!(
        "speed of the merge beside the copy, median of the rounds' ratios: {:.2}",
        median(&mut ratios)
    );
    Ok(())
}

/// The seconds that `work` takes, on a store that is whole and files that are on the disk.
fn measured(options: &Options, store: &Store, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    store.refill()?;
    for path in [&store.origin, &store.cow] {
        let file = File::open(path)?;
        file.sync_all()?;
        if !options.warm {
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    // The disk's own queue is to be empty.
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

fn plain_copy(store: &Store) -> Result<()> {
    let cow = File::open(&store.cow)?;
    let origin = File::options().write(true).open(&store.origin)?;
    let mut chunk = vec![0; usize::try_from(store::CHUNK)?];
    for (old_chunk, new_chunk) in &store.exceptions {
        cow.read_exact_at(&mut chunk, new_chunk * store::CHUNK)?;
        origin.write_all_at(&chunk, old_chunk * store::CHUNK)?;
    }
    origin.sync_all()?;
    Ok(())
}

fn merged(options: &Options, usnap: &Path, store: &Store) -> Result<()> {
    let mut command = Command::new(usnap);
    command.arg("merge").arg(&store.cow).arg(&store.origin);
    if let Some(batch) = &options.batch {
        command.args(["--batch", batch]);
    }
    let output = command.output().context("cannot start usnap")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "usnap merge failed: {said}");
    Ok(())
}

/// The `usnap` of this workspace, built for release.
fn built() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "-q", "-p", "usnap"])
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "usnap does not build");
    let own = std::env::current_exe().context("cannot find this program")?;
    let program = own.with_file_name("usnap");
    ensure!(
        program.exists(),
        "no {}: --usnap names it",
        program.display()
    );
    Ok(program)
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match samples {
        [] => 0.0,
        _ if samples.len().is_multiple_of(2) => (samples[middle - 1] + samples[middle]) / 2.0,
        _ => samples[middle],
    }
}
