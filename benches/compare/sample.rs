//! One measurement.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::Transport;
use crate::contender::Contender;
use crate::fio::{Done, as_f64};
use crate::job::Job;

/// What one run of one job over one server gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// What carried the requests.
    pub(crate) transport: Transport,
    /// The server's name.
    pub(crate) server: String,
    /// The job's name.
    pub(crate) job: String,
    /// The round, from 0.
    pub(crate) round: u32,
    /// Requests answered.
    pub(crate) requests: u64,
    /// Requests a second.
    pub(crate) iops: f64,
    /// 10^6 bytes a second.
    pub(crate) mb_per_second: f64,
    /// The server's processor time a request, in microseconds.
    pub(crate) cpu_us: f64,
    /// The latency that 99 % of the requests keep below, in microseconds.
    pub(crate) p99_us: f64,
    /// The rate of the slowest connection over the mean of all.
    pub(crate) slowest_to_mean: f64,
    /// Flushes of the disk a request, where the job flushes and the disk counts.
    pub(crate) flushes: Option<f64>,
}

/// Which figure of a sample is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Requests a second.
    Rate,
    /// 10^6 bytes a second.
    Bytes,
    /// Processor time a request.
    Cpu,
    /// The 99th percentile of latency.
    P99,
    /// The slowest connection over the mean.
    Slowest,
    /// Flushes a request.
    Flushes,
}

impl Sample {
    /// Puts together what fio, the server's processes and the disk say.
    pub(crate) fn new(
        (transport, contender, job, round): (Transport, Contender, &Job, u32),
        done: &Done,
        cpu: Duration,
        flushes: Option<u64>,
    ) -> Self {
        let requests = as_f64(done.requests);
        Self {
            transport,
            server: contender.to_string(),
            job: job.to_string(),
            round,
            requests: done.requests,
            iops: done.iops,
            mb_per_second: done.bytes_per_second / 1e6,
            cpu_us: cpu.as_secs_f64() * 1e6 / requests,
            p99_us: done.p99_us,
            slowest_to_mean: done.slowest_to_mean,
            flushes: flushes.map(|count| as_f64(count) / requests),
        }
    }

    /// One of its figures.
    pub(crate) fn figure(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Rate => Some(self.iops),
            Figure::Bytes => Some(self.mb_per_second),
            Figure::Cpu => Some(self.cpu_us),
            Figure::P99 => Some(self.p99_us),
            Figure::Slowest => Some(self.slowest_to_mean),
            Figure::Flushes => self.flushes,
        }
    }
}
