//! Runs a job with fio's NBD engine and reads its figures.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use usnap_test_support::Tool;
use usnap_test_support::lab::text;

use crate::job::Job;
use crate::options::Options;

/// What a job did.
#[derive(Debug)]
pub(crate) struct Done {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Requests a second.
    pub(crate) iops: f64,
    /// Bytes a second.
    pub(crate) bytes_per_second: f64,
    /// The latency that 99 % of the requests keep below, in microseconds.
    pub(crate) p99_us: f64,
}

#[derive(Deserialize)]
struct FioOutput {
    jobs: Vec<FioJob>,
}

#[derive(Deserialize)]
struct FioJob {
    error: i64,
    read: FioDirection,
    write: FioDirection,
}

#[derive(Deserialize)]
struct FioDirection {
    total_ios: u64,
    iops: f64,
    bw_bytes: f64,
    clat_ns: FioLatency,
}

#[derive(Default, Deserialize)]
struct FioLatency {
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, f64>,
}

/// Runs `job` against the default export behind `socket`.
pub(crate) fn run(job: &Job, options: &Options, socket: &Path, round: u32) -> Result<Done> {
    let size_mib = if job.block_kib > 4 {
        options.sequential_size_mib
    } else {
        options.size_mib
    };
    let mut fio = Tool::new("fio")
        .args([
            "--name=job",
            "--ioengine=nbd",
            "--output-format=json",
            "--thread",
        ])
        .arg(format!("--uri=nbd+unix:///?socket={}", text(socket)?))
        .arg(format!("--rw={}", job.fio_pattern()))
        .arg(format!("--bs={}k", job.block_kib))
        .arg(format!("--iodepth={}", job.depth))
        .arg(format!("--size={size_mib}m"))
        // Another order in each round, the same for all servers.
        .arg(format!("--randseed={}", options.seed + u64::from(round)))
        .limit(Duration::from_secs(600));
    if !job.ends_by_size() {
        fio = fio
            .arg("--time_based")
            .arg(format!("--runtime={}", options.seconds));
    }
    let said = fio.ok()?;
    let done = parse(&said)?;
    if job.ends_by_size() {
        let blocks = size_mib * 1024 / u64::from(job.block_kib);
        ensure!(
            done.requests == blocks,
            "{} requests for {blocks} blocks",
            done.requests
        );
    }
    Ok(done)
}

/// Reads fio's JSON, which notes may precede.
fn parse(said: &str) -> Result<Done> {
    let json = said
        .find('{')
        .map(|start| &said[start..])
        .context("fio printed no JSON")?;
    let output: FioOutput = serde_json::from_str(json).context("fio's JSON is not as expected")?;
    let job = output
        .jobs
        .into_iter()
        .next()
        .context("fio reports no job")?;
    ensure!(job.error == 0, "fio reports error {}", job.error);
    let did = if job.read.total_ios > 0 {
        job.read
    } else {
        job.write
    };
    ensure!(did.total_ios > 0, "fio did nothing");
    let p99_ns = did
        .clat_ns
        .percentile
        .get("99.000000")
        .copied()
        .unwrap_or(0.0);
    Ok(Done {
        requests: did.total_ios,
        iops: did.iops,
        bytes_per_second: did.bw_bytes,
        p99_us: p99_ns / 1000.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direction_that_did_something_is_read() -> Result<()> {
        let idle = r#"{"total_ios":0,"iops":0.0,"bw_bytes":0,"clat_ns":{}}"#;
        let busy = r#"{"total_ios":9,"iops":3.5,"bw_bytes":14336,
                       "clat_ns":{"percentile":{"99.000000":2500}}}"#;
        let said = format!(r#"note{{"jobs":[{{"error":0,"read":{idle},"write":{busy}}}]}}"#);
        let done = parse(&said)?;
        assert_eq!((done.requests, done.iops, done.p99_us), (9, 3.5, 2.5));
        Ok(())
    }
}
