//! One measurement, and what several of them say together.

use std::time::Duration;

use serde::Serialize;

use crate::contender::Contender;
use crate::fio::Done;
use crate::job::Job;

/// What one run of one job over one server gave.
#[derive(Debug, Serialize)]
pub(crate) struct Sample {
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
}

impl Sample {
    /// Puts together what fio and the server's process say.
    pub(crate) fn new(
        contender: Contender,
        job: &Job,
        round: u32,
        done: &Done,
        cpu: Duration,
    ) -> Self {
        Self {
            server: contender.to_string(),
            job: job.to_string(),
            round,
            requests: done.requests,
            iops: done.iops,
            mb_per_second: done.bytes_per_second / 1e6,
            cpu_us: cpu.as_secs_f64() * 1e6 / as_f64(done.requests),
            p99_us: done.p99_us,
        }
    }
}

/// The middle of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The smallest.
    pub(crate) least: f64,
    /// The median; of an even number, the mean of the middle two.
    pub(crate) median: f64,
    /// The largest.
    pub(crate) most: f64,
}

impl Spread {
    /// The spread of `figures`; `None` of none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted.len() / 2;
        let lower = sorted.len().div_ceil(2) - 1;
        Some(Self {
            least,
            median: f64::midpoint(sorted[lower], sorted[upper]),
            most,
        })
    }
}

/// Exact up to 2^53, far beyond any count here.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests are far below 2^53"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_two() {
        assert_eq!(Spread::of([]), None);
        let odd = Spread {
            least: 1.0,
            median: 2.0,
            most: 9.0,
        };
        assert_eq!(Spread::of([9.0, 1.0, 2.0]), Some(odd));
        let even = Spread {
            least: 1.0,
            median: 3.0,
            most: 9.0,
        };
        assert_eq!(Spread::of([4.0, 9.0, 1.0, 2.0]), Some(even));
    }
}
