//! Runs a job with fio's NBD engine and reads its figures.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use usnap_test_support::Tool;

use crate::job::{Access, End, Job};

/// What a job did.
#[derive(Debug)]
pub(crate) struct Done {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Requests a second, of all connections together.
    pub(crate) iops: f64,
    /// Bytes a second, likewise.
    pub(crate) bytes_per_second: f64,
    /// The latency that 99 % of the requests keep below, in microseconds; the slowest connection's.
    pub(crate) p99_us: f64,
    /// The rate of the slowest connection over the mean of all; 1 of a single one.
    pub(crate) slowest_to_mean: f64,
}

#[derive(Deserialize)]
struct FioOutput {
    jobs: Vec<FioJob>,
}

#[derive(Deserialize)]
struct FioJob {
    error: i64,
    mixed: FioFigures,
}

#[derive(Deserialize)]
struct FioFigures {
    total_ios: u64,
    io_bytes: u64,
    /// Milliseconds.
    runtime: u64,
    iops: f64,
    clat_ns: FioLatency,
}

#[derive(Default, Deserialize)]
struct FioLatency {
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

/// Runs `job` against `uri`.
pub(crate) fn run(job: &Job, uri: &str, seed: u64) -> Result<Done> {
    let said = Tool::new("fio")
        .args(arguments(job, uri, seed))
        .limit(Duration::from_secs(600))
        .ok()?;
    let done = parse(&said)?;
    if job.end == End::EachBlockOnce {
        let span = job.span_kib / if job.skips_every_other() { 2 } else { 1 };
        let blocks = span / u64::from(job.block_kib);
        ensure!(
            done.requests == blocks,
            "{} requests for {blocks} blocks",
            done.requests
        );
    }
    Ok(done)
}

fn arguments(job: &Job, uri: &str, seed: u64) -> Vec<String> {
    let part_kib = job.span_kib / u64::from(job.connections);
    let pattern = match (job.access, job.random) {
        (Access::Read, true) => "randread",
        (Access::Read, false) => "read",
        (Access::Write, true) => "randwrite",
        (Access::Write, false) => "write",
        (Access::Mix, true) => "randrw",
        (Access::Mix, false) => "rw",
    };
    let mut arguments = vec![
        "--name=job".to_owned(),
        "--ioengine=nbd".to_owned(),
        "--output-format=json".to_owned(),
        "--thread".to_owned(),
        "--unified_rw_reporting=mixed".to_owned(),
        "--rwmixread=70".to_owned(),
        format!("--uri={uri}"),
        format!("--bs={}k", job.block_kib),
        format!("--iodepth={}", job.depth),
        format!("--size={part_kib}k"),
        format!("--randseed={seed}"),
    ];
    if job.skips_every_other() {
        // After each block it goes on by one more.
        arguments.push(format!("--rw={pattern}:{}k", job.block_kib));
        arguments.push(format!("--io_size={}k", part_kib / 2));
    } else {
        arguments.push(format!("--rw={pattern}"));
    }
    if job.connections > 1 {
        arguments.push(format!("--numjobs={}", job.connections));
        arguments.push(format!("--offset_increment={part_kib}k"));
    }
    if let Some(every) = job.fsync_every {
        arguments.push(format!("--fsync={every}"));
    }
    match job.end {
        End::EachBlockOnce => {}
        End::Clock(ms) => {
            arguments.push("--time_based".to_owned());
            arguments.push(format!("--runtime={ms}ms"));
        }
        End::OnceOrClock(ms) => arguments.push(format!("--runtime={ms}ms")),
    }
    arguments
}

/// Reads fio's JSON, which notes may precede.
fn parse(said: &str) -> Result<Done> {
    let json = said
        .find('{')
        .map(|start| &said[start..])
        .context("fio printed no JSON")?;
    let output: FioOutput = serde_json::from_str(json).context("fio's JSON is not as expected")?;
    let jobs = output.jobs;
    ensure!(!jobs.is_empty(), "fio reports no job");
    for job in &jobs {
        ensure!(job.error == 0, "fio reports error {}", job.error);
        ensure!(job.mixed.total_ios > 0, "a connection did nothing");
    }
    let figures = || jobs.iter().map(|job| &job.mixed);
    let requests = figures().map(|one| one.total_ios).sum();
    let bytes: u64 = figures().map(|one| one.io_bytes).sum();
    // All begin together, so the longest is the time that all of it took.
    let longest = figures().map(|one| one.runtime).max().unwrap_or(0).max(1);
    let seconds = Duration::from_millis(longest).as_secs_f64();
    let mean = figures().map(|one| one.iops).sum::<f64>() / as_f64(jobs.len() as u64);
    let slowest = figures().map(|one| one.iops).fold(f64::INFINITY, f64::min);
    let p99 = |one: &FioFigures| one.clat_ns.percentile.get("99.000000").copied();
    let p99_ns = figures().filter_map(p99).fold(0.0, f64::max);
    Ok(Done {
        requests,
        iops: as_f64(requests) / seconds,
        bytes_per_second: as_f64(bytes) / seconds,
        p99_us: p99_ns / 1000.0,
        slowest_to_mean: slowest / mean,
    })
}

/// Exact up to 2^53, far beyond any count here.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests and bytes are far below 2^53"
)]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(error: i64, requests: u64, runtime_ms: u64, p99_ns: u64) -> String {
        let bytes = requests * 4096;
        let iops = requests * 1000 / runtime_ms;
        format!(
            r#"{{"error":{error},"mixed":{{"total_ios":{requests},"io_bytes":{bytes},
               "runtime":{runtime_ms},"iops":{iops},
               "clat_ns":{{"percentile":{{"99.000000":{p99_ns}}}}}}}}}"#
        )
    }

    #[test]
    fn connections_add_up_and_the_slowest_is_told() -> Result<()> {
        let (fast, slow) = (job(0, 300, 1000, 2500), job(0, 100, 1000, 9000));
        let done = parse(&format!(r#"note{{"jobs":[{fast},{slow}]}}"#))?;
        assert_eq!((done.requests, done.iops, done.p99_us), (400, 400.0, 9.0));
        assert_eq!(done.slowest_to_mean, 0.5);
        assert_eq!(done.bytes_per_second, 400.0 * 4096.0);
        Ok(())
    }

    #[test]
    fn a_job_that_failed_or_did_nothing_is_no_figure() {
        for bad in [job(5, 300, 1000, 1), job(0, 0, 1, 1)] {
            assert!(parse(&format!(r#"{{"jobs":[{bad}]}}"#)).is_err());
        }
        assert!(parse(r#"{"jobs":[]}"#).is_err());
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn what_a_job_says_is_what_fio_is_told() {
        for job in Job::all() {
            let told = arguments(&job, "nbd://x", 7).join(" ");
            assert_eq!(told.contains("--numjobs"), job.connections > 1, "{job}");
            assert_eq!(told.contains("--fsync"), job.fsync_every.is_some(), "{job}");
            assert_eq!(told.contains("--rw=rand"), job.random, "{job}");
            if let Some(fill) = job.fill() {
                let fills = arguments(&fill, "nbd://x", 7).join(" ");
                assert!(fills.contains("--rw=write"), "{fills}");
            }
        }
    }
}
