//! `usnap bench`: the same workload over each of several devices.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::builder::ValueParser;

use crate::args::size_parser;
use crate::bench::report::Report;
use crate::bench::rounds::{Bench, Outcome};
use crate::bench::target::{self, Spec};
use crate::bench::workload::{ALL, Job, Workload};
use crate::bench::{picture, table};
use crate::commands::export::take_signals;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::{output, printable};

/// The largest request that any server need take.
const BLOCK_MAX: u64 = 32 << 20;

/// Measure NBD servers, and the engine without the wire, under the same workload
///
/// Runs each workload over each URI in turn, in rounds whose order rotates, and prints medians with
/// their spread, the ratio to the first URI (the median of the rounds' ratios) and latencies. What
/// is measured is nbd+unix:///EXPORT?socket=PATH, nbd://HOST:PORT/EXPORT, file:PATH, or
/// engine:ORIGIN with any of ,cow=FILE ,transient ,chunk-size=SIZE behind it: our engine in this
/// process, whose origin is never written; without cow= or transient its changes go to a temporary
/// file ($TMPDIR). A comma in such a path is written twice.
///
/// Without --write only workloads that read are run: those that write overwrite what the device
/// holds, for good.
#[derive(clap::Args, Debug)]
#[command(after_long_help = MORE)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_name = "URI", required_unless_present = "list", value_parser = ValueParser::new(target::parse))]
    uris: Vec<Spec>,
    /// Workloads by name, separated by commas, or all; each in every depth
    #[arg(
        long,
        short,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "read"
    )]
    workload: Vec<String>,
    /// Show the names of the workloads and what they do
    #[arg(long)]
    list: bool,
    /// Overwrite what the devices hold: needed by every workload that writes
    #[arg(long)]
    write: bool,
    /// Bytes of a request, instead of the workload's
    #[arg(long, value_name = "SIZE", value_parser = size_parser())]
    block_size: Option<u64>,
    /// Requests in flight on a connection, instead of the workload's; several, separated by commas
    #[arg(long, value_name = "COUNT", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: Vec<u32>,
    /// Connections (of engine: and file: threads), a thread each; one where the server does not
    /// offer several
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// Seconds that a sample lasts at the most
    #[arg(long, default_value_t = 2.0, value_parser = ValueParser::new(parse_seconds))]
    seconds: f64,
    /// Rounds: samples of each workload over each URI
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How much of each device is used; the size of the smallest, at most 1G
    #[arg(long, value_parser = size_parser())]
    size: Option<u64>,
    /// Where the range begins
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size_parser())]
    offset: u64,
    /// Seed of the order of random requests, and of what is written
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Flush after so many writes of a connection, when all of them were answered
    #[arg(long, value_name = "WRITES", value_parser = clap::value_parser!(u32).range(1..))]
    fsync: Option<u32>,
    /// Share of reads in a mix
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u32).range(0..=100))]
    read_percent: u32,
    /// Compare what is read with what was written, and read back all that was written after each
    /// sample, outside of the clock
    #[arg(long)]
    verify: bool,
    /// Give up where no answer comes for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = ValueParser::new(parse_seconds))]
    timeout: f64,
    /// Write every sample to FILE as JSON; - for standard output, instead of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw a chart
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const MORE: &str = "\
Workloads: --list tells them. first-write, seq-write and fsync-N divide the range: each of their samples has a part of its own, so that every round writes each block of it for the first time, and \
ends when all of it was written, or after --seconds. What was written before the command began, or by a workload named before, is written already; `first` in the table is how many really were first \
writes, where the device tells. overwrite and mix write the whole range once before they are timed.

The load is a closed loop: a request is made when another one was answered, so a server that stalls is asked less meanwhile, and the latencies are those of the requests that were made (coordinated \
omission). They count from handing a request to the socket to having its answer, within half a percent. On engine: and file: each thread makes a call after another: depth means nothing there. After a \
sample that writes there is a flush, outside of the clock.

Columns: ratio to the first URI; hits, the share of requests to blocks that the COW had (from the allocation depth, which usnap and qemu-nbd -A tell); ampl., bytes that went to the COW for each byte \
written, metadata included; first, writes to blocks that the COW did not have; copied, chunks completed from the origin. The last ones of a usnap on this machine with a COW file, or of engine:. \
- is not known.

JSON: version, machine, settings, uris, samples (a round each: requests, seconds, requests_per_second, bytes_per_second, latency with p50_us to max_us, cow with hit_rate, write_amplification, \
chunks_copied, server_requests) and results (over the rounds: median, least, most). Ctrl-C ends it and prints what was measured so far.

Example: usnap bench --workload read,first-write --write 'nbd+unix:///?socket=a.sock' 'nbd+unix:///?socket=b.sock' engine:disk.img";

fn parse_seconds(text: &str) -> std::result::Result<f64, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    if (0.001..=86400.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("a millisecond to a day".to_owned())
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        output::print(&list())?;
        return Ok(ExitCode::Success);
    }
    let jobs = jobs(args)?;
    let writing = jobs.iter().find(|job| job.workload.writes());
    if let (Some(job), false) = (writing, args.write) {
        return Err(Failure::usage(format!(
            "cannot run {}: it overwrites what {} holds",
            job.workload.name,
            args.uris.first().map_or("the device", Spec::text)
        ))
        .with_hint("--write says that this may be lost"));
    }
    let interrupt = take_signals(true)?;
    let is_told = || {
        interrupt
            .as_ref()
            .is_some_and(|interrupt| interrupt.is_told())
    };
    let bench = Bench {
        specs: &args.uris,
        jobs,
        rounds: args.rounds,
        seconds: args.seconds,
        offset: args.offset,
        size_bytes: args.size,
        seed: args.seed,
        write: args.write,
        verify: args.verify,
        connections: usize::try_from(args.connections).unwrap_or(1),
        patience: Duration::from_secs_f64(args.timeout),
        is_told: &is_told,
    };
    let Outcome { report, failure } = bench.run()?;
    if !report.samples.is_empty() {
        show(args, &report)?;
    }
    match (failure, &interrupt) {
        (Some(failure), _) => Err(failure),
        (None, Some(interrupt)) if interrupt.is_told() => Ok(interrupt.exit_code()),
        (None, _) => Ok(ExitCode::Success),
    }
}

/// Prints the result, and writes the files.
fn show(args: &Args, report: &Report) -> Result<()> {
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if to_stdout {
        output::print_json(report)?;
    } else {
        output::print(&table::text(report))?;
    }
    if let (Some(path), false) = (&args.json, to_stdout) {
        let json = serde_json::to_string_pretty(report).context("cannot write JSON")?;
        save(path, &printable::json(&(json + "\n")))?;
    }
    if let Some(path) = &args.svg {
        save(path, &picture::svg(report))?;
    }
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<()> {
    let written = fs::write(path, text);
    Ok(written.with_context(|| format!("cannot write {}", path.display()))?)
}

fn list() -> String {
    let mut text = String::new();
    for workload in &ALL {
        let words = if workload.writes() {
            "; needs --write"
        } else {
            ""
        };
        let block = workload.block_bytes >> 10;
        let _ = writeln!(
            text,
            "{:<12} {}; {block}K, depth {}{words}",
            workload.name, workload.about, workload.depth
        );
    }
    text
}

/// What was typed as jobs: each workload in every depth.
fn jobs(args: &Args) -> Result<Vec<Job>> {
    let mut workloads = Vec::new();
    for name in &args.workload {
        match Workload::find(name) {
            _ if name == "all" => workloads.extend(ALL.iter()),
            Some(workload) => workloads.push(workload),
            None => {
                let names: Vec<_> = ALL.iter().map(|workload| workload.name).collect();
                return Err(Failure::usage(format!(
                    "cannot run {name:?}: there is no such workload"
                ))
                .with_hint(format!("all, or some of {}", names.join(", "))));
            }
        }
    }
    let block_bytes = match args.block_size {
        Some(bytes) if bytes == 0 || bytes > BLOCK_MAX => {
            return Err(Failure::usage(
                "cannot use such a --block-size: a request has 1 byte to 32 MiB",
            ));
        }
        bytes => bytes.and_then(|bytes| u32::try_from(bytes).ok()),
    };
    let mut jobs = Vec::new();
    for workload in workloads {
        let own = [workload.depth];
        let depths = if args.depth.is_empty() {
            &own[..]
        } else {
            &args.depth
        };
        for depth in depths {
            let job = Job {
                workload,
                block_bytes: block_bytes.unwrap_or(workload.block_bytes),
                depth: *depth,
                fsync: args.fsync.or(workload.fsync),
                read_percent: args.read_percent,
            };
            let is_twice = jobs.iter().any(|other: &Job| other.title() == job.title());
            if !is_twice {
                jobs.push(job);
            }
        }
    }
    Ok(jobs)
}
