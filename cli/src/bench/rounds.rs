//! Runs each workload over each URI in turn, round by round, so that what a noisy machine does hits
//! all of them alike.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use anyhow::Context;

use super::cow::CowStatistics;
use super::machine::Machine;
use super::plan::{Plan, Tally};
use super::report::{Report, Sample, Settings, UriPart, summaries};
use super::target::{Opening, Spec, Target};
use super::tracker::{Tracker, VERIFIED_BLOCKS_MAX};
use super::workload::{Before, Job, Operation, Order};
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::size;

/// How much is used of a large device where nobody says.
const SIZE_DEFAULT: u64 = 1 << 30;
/// Requests that write everything before a sample are about so long.
const FILL_BYTES: u32 = 256 << 10;

/// What is to be run.
pub(crate) struct Bench<'a> {
    pub(crate) specs: &'a [Spec],
    pub(crate) jobs: Vec<Job>,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) offset: u64,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) write: bool,
    pub(crate) verify: bool,
    pub(crate) connections: usize,
    pub(crate) patience: Duration,
    /// Whether the user wants it to end.
    pub(crate) is_told: &'a (dyn Fn() -> bool + Sync),
}

/// A part of the range, in bytes from its beginning.
#[derive(Clone, Copy)]
struct Slice {
    start: u64,
    len: u64,
}

/// What was measured until it ended, and why it ended early.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) failure: Option<Failure>,
}

impl Bench<'_> {
    /// Runs all of it.
    ///
    /// # Errors
    /// Where nothing could be begun. What fails later is told with what was measured before.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let depth = self.jobs.iter().map(|job| job.depth).max().unwrap_or(1);
        let opening = Opening {
            write: self.write,
            connections: self.connections,
            depth: usize::try_from(depth).unwrap_or(1),
            verify: self.verify,
            patience: self.patience,
        };
        let mut targets = Vec::new();
        for spec in self.specs {
            let opened = Target::open(spec, &opening).map_err(|e| cannot(spec.text(), e))?;
            targets.push(opened);
        }
        let size_bytes = self.size(&targets)?;
        self.refuse_misfits(&targets, size_bytes)?;
        let slice_bytes = self.slice_bytes(size_bytes)?;
        let mut samples = Vec::new();
        let failure = self
            .samples(&mut targets, size_bytes, slice_bytes, &mut samples)
            .err();
        let uris = targets.iter().map(|target| UriPart {
            uri: target.text.clone(),
            size_bytes: target.size_bytes,
            read_only: target.is_read_only,
            connections: target.connections,
            about: target.about.clone(),
        });
        let report = Report {
            version: 1,
            machine: Machine::here(),
            settings: Settings {
                rounds: self.rounds,
                seconds: self.seconds,
                offset_bytes: self.offset,
                size_bytes,
                seed: self.seed,
                verify: self.verify,
            },
            uris: uris.collect(),
            results: summaries(&self.jobs, targets.len(), &samples),
            samples,
        };
        let mut failure = failure;
        for target in targets {
            let text = target.text.clone();
            if let Err(error) = target.close() {
                failure.get_or_insert(cannot(&text, error));
            }
        }
        Ok(Outcome { report, failure })
    }

    fn size(&self, targets: &[Target]) -> Result<u64> {
        let least = targets.iter().min_by_key(|target| target.size_bytes);
        let Some(least) = least else {
            return Err(Failure::usage("cannot bench nothing"));
        };
        let room = least.size_bytes.saturating_sub(self.offset);
        let wanted = self.size_bytes.unwrap_or(room.min(SIZE_DEFAULT));
        let longest = self.jobs.iter().map(|job| u64::from(job.block_bytes)).max();
        if wanted > room || wanted < longest.unwrap_or(1) {
            return Err(Failure::new(format!(
                "cannot bench {}: {} of {} behind {} is not a range with room for a request",
                least.text,
                size::human(wanted),
                size::human(least.size_bytes),
                self.offset
            ))
            .with_hint("choose another --size, --offset or --block-size"));
        }
        Ok(wanted)
    }

    /// Everything that a device can't do is said before anything is done.
    fn refuse_misfits(&self, targets: &[Target], size_bytes: u64) -> Result<()> {
        for target in targets {
            let text = &target.text;
            for job in &self.jobs {
                if job.workload.writes() && target.is_read_only {
                    return Err(Failure::new(format!(
                        "cannot bench {text}: it is read-only, and {} writes",
                        job.workload.name
                    ))
                    .with_hint("choose workloads that read: --workload read,seq-read"));
                }
                let minimum = target.min_block_bytes.max(1);
                let is_fit = job.block_bytes.is_multiple_of(minimum)
                    && self.offset.is_multiple_of(minimum.into())
                    && job.block_bytes <= target.max_request_bytes;
                if !is_fit {
                    return Err(Failure::new(format!(
                        "cannot bench {text}: it takes requests of {minimum} to {} bytes at \
                         multiples of {minimum}",
                        target.max_request_bytes
                    ))
                    .with_hint("choose another --block-size or --offset"));
                }
                if self.verify && size_bytes / u64::from(job.block_bytes) > VERIFIED_BLOCKS_MAX {
                    return Err(Failure::usage(
                        "cannot verify so many blocks: choose a smaller --size",
                    ));
                }
            }
        }
        Ok(())
    }

    /// How many parts of the range must not have been written to before.
    fn untouched_slices(&self) -> u64 {
        let of = |job: &Job| match job.workload.before {
            Before::Untouched => u64::from(self.rounds),
            Before::Half => 1,
            Before::Nothing | Before::All => 0,
        };
        self.jobs.iter().map(of).sum()
    }

    fn slice_bytes(&self, size_bytes: u64) -> Result<u64> {
        let slices = self.untouched_slices().max(1);
        let blocks = self.jobs.iter().map(|job| u64::from(job.block_bytes));
        let unit = blocks.fold(1, least_common_multiple);
        let slice = size_bytes / slices / unit * unit;
        if slice == 0 {
            return Err(Failure::new(format!(
                "cannot divide {} into {slices} parts, one for each sample of first writes",
                size::human(size_bytes)
            ))
            .with_hint("choose a larger --size, fewer --rounds or fewer workloads"));
        }
        Ok(slice)
    }

    fn samples(
        &self,
        targets: &mut [Target],
        size_bytes: u64,
        slice_bytes: u64,
        samples: &mut Vec<Sample>,
    ) -> Result<()> {
        let total = self.jobs.len() as u64 * u64::from(self.rounds) * targets.len() as u64;
        let mut progress = Progress::new("measuring", "samples", Some(total));
        let mut slice = 0;
        let whole = Slice {
            start: 0,
            len: size_bytes,
        };
        for (index, job) in self.jobs.iter().enumerate() {
            for round in 0..self.rounds {
                let range = match job.workload.before {
                    Before::Nothing | Before::All => whole,
                    Before::Untouched | Before::Half => Slice {
                        start: slice * slice_bytes,
                        len: slice_bytes,
                    },
                };
                for turn in 0..targets.len() {
                    if (self.is_told)() {
                        return Ok(());
                    }
                    progress.set(samples.len() as u64);
                    let uri_index = (turn + usize::try_from(round).unwrap_or(0)) % targets.len();
                    let Some(target) = targets.get_mut(uri_index) else {
                        continue;
                    };
                    let place = ((index, job), (round, uri_index));
                    let sample = self.sample(target, place, range, whole);
                    samples.extend(sample.map_err(|error| cannot(&target.text, error))?);
                }
                slice += u64::from(job.workload.before == Before::Untouched);
            }
            slice += u64::from(job.workload.before == Before::Half);
        }
        Ok(())
    }

    /// One sample, with what must come before and after it; `None` where a signal ended it before.
    fn sample(
        &self,
        target: &mut Target,
        place: ((usize, &Job), (u32, usize)),
        range: Slice,
        whole: Slice,
    ) -> anyhow::Result<Option<Sample>> {
        let ((index, job), (round, uri_index)) = place;
        if target.tracked_block_bytes != job.block_bytes {
            let blocks = whole.len / u64::from(job.block_bytes);
            target.tracker = Tracker::new(blocks, self.verify);
            target.tracked_block_bytes = job.block_bytes;
        }
        self.prepare(target, job, round, range, whole)
            .context("writing what the workload needs")?;
        self.look_at_map(target, job, whole)?;
        let before = target.counters().counts();
        if (self.is_told)() {
            return Ok(None);
        }
        let workload = job.workload;
        let limit = Some(Duration::from_secs_f64(self.seconds));
        let salt = u64::from(round) << 32;
        let tally = self.load(target, job, range, |plan| Plan {
            operation: workload.operation,
            order: workload.order,
            limit,
            fsync: job.fsync,
            seed: plan.seed ^ salt_of(self.verify, salt),
            ..plan
        })?;
        if workload.writes() {
            // Outside of the clock: the next sample is not to pay for it, and metadata counts.
            target.flush(self.patience)?;
        }
        let after = target.counters().counts();
        let counts = before.zip(after);
        let cow = CowStatistics::between(counts, &tally, target.tracker.knows_mapped());
        let ended_by = self.ended_by(job, range, &tally);
        if matches!(workload.operation, Operation::Trim | Operation::Zero) {
            target.is_filled = false;
        }
        if self.verify && workload.writes() && ended_by != "signal" {
            // What was written is read back, all of it.
            self.load(target, job, range, |plan| Plan {
                operation: Operation::Read,
                order: Order::Ascending,
                ..plan
            })
            .context("reading back what was written")?;
        }
        let sample = Sample::new((index, job), (round, uri_index), ended_by, tally, cow);
        Ok((sample.requests > 0).then_some(sample))
    }

    fn ended_by(&self, job: &Job, range: Slice, tally: &Tally) -> &'static str {
        let blocks = range.len / u64::from(job.block_bytes);
        match job.workload.order {
            Order::Once | Order::Ascending if tally.requests() == blocks => "size",
            _ if (self.is_told)() => "signal",
            _ => "time",
        }
    }

    /// Writes what must be there before the sample, unless it was written already.
    fn prepare(
        &self,
        target: &mut Target,
        job: &Job,
        round: u32,
        range: Slice,
        whole: Slice,
    ) -> anyhow::Result<()> {
        let (order, span, part) = match job.workload.before {
            Before::All if !target.is_filled => {
                let longest = FILL_BYTES.min(target.max_request_bytes);
                (Order::Ascending, (longest / job.block_bytes).max(1), whole)
            }
            Before::Half if round == 0 => (Order::EveryOther, 1, range),
            _ => return Ok(()),
        };
        self.load(target, job, part, |plan| Plan {
            operation: Operation::Write,
            order,
            span,
            depth: plan.depth.min(8),
            ..plan
        })?;
        target.flush(self.patience)?;
        target.is_filled = job.workload.before == Before::All && !(self.is_told)();
        Ok(())
    }

    /// Asks the device which blocks it holds itself.
    fn look_at_map(&self, target: &mut Target, job: &Job, whole: Slice) -> anyhow::Result<()> {
        let parts = target.own_parts(self.offset, whole.len, self.patience)?;
        let block_bytes = u64::from(job.block_bytes);
        let blocks = whole.len / block_bytes;
        let offset = self.offset;
        let mapped = parts.map(|parts| {
            parts.into_iter().flat_map(move |(start, end)| {
                // Whole blocks only.
                let first = (start - offset).div_ceil(block_bytes);
                first..(end - offset) / block_bytes
            })
        });
        target.tracker.set_mapped(blocks, mapped);
        Ok(())
    }

    fn load(
        &self,
        target: &mut Target,
        job: &Job,
        range: Slice,
        adapt: impl for<'t> FnOnce(Plan<'t>) -> Plan<'t>,
    ) -> anyhow::Result<Tally> {
        let block_bytes = u64::from(job.block_bytes);
        let (patience, is_told) = (self.patience, self.is_told);
        target.load(|tracker| {
            adapt(Plan {
                operation: job.workload.operation,
                order: job.workload.order,
                first: range.start / block_bytes,
                blocks: range.len / block_bytes,
                span: 1,
                block_bytes: job.block_bytes,
                offset: self.offset,
                depth: usize::try_from(job.depth).unwrap_or(1),
                fsync: None,
                read_percent: job.read_percent,
                seed: self.seed,
                limit: None,
                patience,
                tracker,
                is_told,
                taken: AtomicU64::new(0),
                has_failed: AtomicBool::new(false),
            })
        })
    }
}

/// Another order and other content in each round; where content is verified it has generations.
fn salt_of(verify: bool, salt: u64) -> u64 {
    if verify { 0 } else { salt }
}

fn cannot(uri: &str, error: anyhow::Error) -> Failure {
    let lost = error
        .chain()
        .any(|cause| cause.is::<super::source::Mismatch>());
    let failure = Failure::from(error.context(format!("cannot bench {uri}")));
    if lost {
        return failure.with_hint("the server lost or changed what it was given");
    }
    failure
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use super::least_common_multiple;

    #[test]
    fn slices_begin_where_blocks_of_every_size_do() {
        assert_eq!(least_common_multiple(1, 4096), 4096);
        assert_eq!(least_common_multiple(4096, 262_144), 262_144);
        assert_eq!(least_common_multiple(12, 18), 36);
    }
}
