//! The result: every sample, and what they come to. Its JSON is a contract: units are in the names.

use serde::Serialize;

use super::cow::CowStatistics;
use super::histogram::Histogram;
use super::machine::Machine;
use super::plan::Tally;
use super::workload::Job;

/// All that was measured, and on what.
#[derive(Serialize)]
pub(crate) struct Report {
    /// The version of this form.
    pub(crate) version: u32,
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) uris: Vec<UriPart>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) results: Vec<Summary>,
}

/// What all samples have in common.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) offset_bytes: u64,
    pub(crate) size_bytes: u64,
    pub(crate) seed: u64,
    pub(crate) verify: bool,
}

/// Something that was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct UriPart {
    pub(crate) uri: String,
    pub(crate) size_bytes: u64,
    pub(crate) read_only: bool,
    /// Threads, where it is in this process.
    pub(crate) connections: usize,
    pub(crate) about: String,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
    pub(crate) max_us: f64,
}

/// One run of one workload over one URI.
#[derive(Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) workload: &'static str,
    pub(crate) title: String,
    pub(crate) block_size_bytes: u32,
    pub(crate) depth: u32,
    pub(crate) fsync_every: Option<u32>,
    /// From 0.
    pub(crate) round: u32,
    /// Which of `uris`, from 0.
    pub(crate) uri_index: usize,
    /// `time`, `size` (every block had its turn) or `signal`.
    pub(crate) ended_by: &'static str,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) latency: Latency,
    /// Of flushes, where there were any.
    pub(crate) flush_latency: Option<Latency>,
    pub(crate) cow: CowStatistics,
    #[serde(skip)]
    pub(super) job: usize,
    #[serde(skip)]
    pub(super) tally: Tally,
}

/// A workload over a URI, all rounds.
#[derive(Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) workload: &'static str,
    pub(crate) title: String,
    pub(crate) uri_index: usize,
    pub(crate) rounds: usize,
    pub(crate) requests_per_second: Spread,
    pub(crate) bytes_per_second: Spread,
    /// Requests a second, against those of the first URI in the same round.
    pub(crate) ratio_to_first: Option<Spread>,
    /// Of all rounds together.
    pub(crate) latency: Latency,
    pub(crate) hit_rate: Option<f64>,
    pub(crate) write_amplification: Option<f64>,
    pub(crate) first_writes: Option<u64>,
    pub(crate) chunks_copied: Option<u64>,
    #[serde(skip)]
    pub(crate) counts_bytes: bool,
}

/// The median of some values, and the ends of their range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median = if values.len().is_multiple_of(2) {
            (values.get(middle - 1)? + upper) / 2.0
        } else {
            upper
        };
        Some(Self {
            median,
            least: *values.first()?,
            most: *values.last()?,
        })
    }
}

impl Latency {
    pub(super) fn of(histogram: &Histogram) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        Self {
            mean_us: histogram.mean_ns() / 1000.0,
            p50_us: us(histogram.quantile_ns(0.5)),
            p99_us: us(histogram.quantile_ns(0.99)),
            p99_9_us: us(histogram.quantile_ns(0.999)),
            max_us: us(histogram.max_ns()),
        }
    }
}

impl Sample {
    /// What came of a job in a round.
    pub(super) fn new(
        (index, job): (usize, &Job),
        (round, uri_index): (u32, usize),
        ended_by: &'static str,
        tally: Tally,
        cow: CowStatistics,
    ) -> Self {
        let seconds = tally.elapsed.as_secs_f64();
        let per_second = |count: u64| {
            if seconds > 0.0 {
                count as f64 / seconds
            } else {
                0.0
            }
        };
        let has_flushes = tally.flushes > 0;
        let first_writes = cow.first_writes.filter(|_| tally.writes > 0);
        let cow = CowStatistics {
            first_writes,
            ..cow
        };
        Self {
            workload: job.workload.name,
            title: job.title(),
            block_size_bytes: job.block_bytes,
            depth: job.depth,
            fsync_every: job.fsync,
            round,
            uri_index,
            ended_by,
            seconds,
            requests: tally.requests(),
            reads: tally.reads,
            writes: tally.writes,
            flushes: tally.flushes,
            requests_per_second: per_second(tally.requests()),
            bytes_per_second: per_second(tally.bytes),
            latency: Latency::of(&tally.latency),
            flush_latency: has_flushes.then(|| Latency::of(&tally.flush_latency)),
            cow,
            job: index,
            tally,
        }
    }
}

/// What the samples of each job over each URI come to, in the order of jobs and URIs.
pub(super) fn summaries(jobs: &[Job], uris: usize, samples: &[Sample]) -> Vec<Summary> {
    let mut summaries = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        for uri_index in 0..uris {
            let own = samples_of(samples, index, uri_index);
            summaries.extend(summary(
                job,
                uri_index,
                &own,
                &samples_of(samples, index, 0),
            ));
        }
    }
    summaries
}

/// The samples of a job over a URI; those that a signal ended only where there are no others.
fn samples_of(samples: &[Sample], job: usize, uri_index: usize) -> Vec<&Sample> {
    let own = || {
        samples
            .iter()
            .filter(move |s| s.job == job && s.uri_index == uri_index)
    };
    let whole: Vec<_> = own().filter(|s| s.ended_by != "signal").collect();
    if whole.is_empty() {
        own().collect()
    } else {
        whole
    }
}

fn summary(job: &Job, uri_index: usize, own: &[&Sample], first: &[&Sample]) -> Option<Summary> {
    let spread = |value: fn(&Sample) -> f64| Spread::of(own.iter().map(|s| value(s)).collect());
    let ratios = own.iter().filter_map(|sample| {
        let other = first.iter().find(|other| other.round == sample.round)?;
        let ratio = sample.requests_per_second / other.requests_per_second;
        ratio.is_finite().then_some(ratio)
    });
    let mut latency = Histogram::default();
    own.iter()
        .for_each(|sample| latency.add(&sample.tally.latency));
    let mean = |value: fn(&CowStatistics) -> Option<f64>| {
        let known: Vec<f64> = own.iter().filter_map(|s| value(&s.cow)).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    let sum = |value: fn(&CowStatistics) -> Option<u64>| {
        let known: Vec<u64> = own.iter().filter_map(|s| value(&s.cow)).collect();
        (!known.is_empty()).then(|| known.iter().sum())
    };
    let writes = own.iter().any(|sample| sample.writes > 0);
    Some(Summary {
        workload: job.workload.name,
        title: job.title(),
        uri_index,
        rounds: own.len(),
        requests_per_second: spread(|sample| sample.requests_per_second)?,
        bytes_per_second: spread(|sample| sample.bytes_per_second)?,
        ratio_to_first: Spread::of(ratios.collect()),
        latency: Latency::of(&latency),
        hit_rate: mean(|cow| cow.hit_rate),
        write_amplification: mean(|cow| cow.write_amplification),
        first_writes: sum(|cow| cow.first_writes),
        chunks_copied: sum(|cow| cow.chunks_copied).filter(|_| writes),
        counts_bytes: job.counts_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::workload::Workload;
    use super::*;

    fn job() -> Job {
        Job {
            workload: Workload::find("read").unwrap(),
            block_bytes: 4096,
            depth: 1,
            fsync: None,
            read_percent: 70,
        }
    }

    fn sample(round: u32, uri_index: usize, reads: u64, ended_by: &'static str) -> Sample {
        let tally = Tally {
            reads,
            bytes: reads * 4096,
            elapsed: Duration::from_secs(2),
            ..Tally::default()
        };
        let cow = CowStatistics::default();
        Sample::new((0, &job()), (round, uri_index), ended_by, tally, cow)
    }

    #[test]
    fn medians_and_ratios_go_round_by_round() {
        let mut samples = Vec::new();
        for (round, (first, second)) in [(100, 300), (200, 400), (400, 600)].into_iter().enumerate()
        {
            let round = u32::try_from(round).unwrap();
            samples.push(sample(round, 0, first, "time"));
            samples.push(sample(round, 1, second, "time"));
        }
        samples.push(sample(3, 1, 1, "signal"));
        let told = summaries(&[job()], 2, &samples);
        let [first, second] = &told[..] else {
            panic!("{}", told.len())
        };
        assert_eq!(first.requests_per_second.median, 100.0);
        assert_eq!(first.ratio_to_first.unwrap().median, 1.0);
        let ratio = second.ratio_to_first.unwrap();
        assert_eq!((ratio.least, ratio.median, ratio.most), (1.5, 2.0, 3.0));
        assert_eq!(
            (second.rounds, second.requests_per_second.least),
            (3, 150.0)
        );
    }

    #[test]
    fn a_sample_that_was_cut_short_counts_where_there_is_no_other() {
        let told = summaries(&[job()], 2, &[sample(0, 0, 10, "signal")]);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].requests_per_second.median, 5.0);
    }

    #[test]
    fn an_even_number_of_values_has_its_median_between_two() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
