//! What one connection does next, and whether what it read is what was written.

use std::sync::atomic::Ordering;

use super::order::{Permutation, Random};
use super::pattern;
use super::plan::{Plan, Tally};
use super::tracker::{Expected, Tracker};
use super::workload::{Operation, Order};

/// So often another block is drawn where a request is on its way to the one before.
const TRIES: u32 = 100;

/// A request to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// Never `Mix`.
    pub(super) operation: Operation,
    block: u64,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    /// What the block holds before it.
    expected: Expected,
    /// What tells the content of a write from another one's.
    salt: u64,
    hit: bool,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    Task(Task),
    /// Every block that was drawn is on its way.
    Later,
    /// Every block had its turn.
    End,
}

/// Where something was read that was never written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mismatch {
    pub(super) offset: u64,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "what was written at offset {} reads otherwise",
            self.offset
        )
    }
}

impl std::error::Error for Mismatch {}

/// One connection's requests.
pub(super) struct Source<'a> {
    plan: &'a Plan<'a>,
    random: Random,
    permutation: Permutation,
    scratch: Vec<u8>,
}

impl<'a> Source<'a> {
    /// Of the connection of that number.
    pub(super) fn new(plan: &'a Plan<'a>, connection: u64) -> Self {
        Self {
            plan,
            random: Random::new(plan.seed.wrapping_add(connection << 48)),
            permutation: plan.permutation(),
            scratch: Vec::new(),
        }
    }

    /// Draws the next request.
    #[inline]
    pub(super) fn next(&mut self) -> Next {
        for _ in 0..TRIES {
            let Some(block) = self.next_block() else {
                return Next::End;
            };
            if let Some(expected) = self.plan.tracker.take(block) {
                return Next::Task(self.task(block, expected));
            }
        }
        Next::Later
    }

    fn next_block(&mut self) -> Option<u64> {
        let plan = self.plan;
        let taken = || plan.taken.fetch_add(1, Ordering::Relaxed);
        let within = match plan.order {
            Order::Random => self.random.below(plan.blocks),
            Order::Around => taken() % plan.blocks.max(1),
            order => {
                let index = taken();
                if index >= plan.requests().unwrap_or(0) {
                    return None;
                }
                match order {
                    Order::Once => self.permutation.at(index) * u64::from(plan.span),
                    Order::EveryOther => index * 2,
                    _ => index * u64::from(plan.span),
                }
            }
        };
        Some(plan.first + within)
    }

    #[inline]
    fn task(&mut self, block: u64, expected: Expected) -> Task {
        let plan = self.plan;
        let operation = match plan.operation {
            Operation::Mix if self.random.below(100) < u64::from(plan.read_percent) => {
                Operation::Read
            }
            Operation::Mix => Operation::Write,
            operation => operation,
        };
        let left = plan.first + plan.blocks - block;
        let blocks = u64::from(plan.span).min(left);
        let mut hit = plan.tracker.hit(block, operation == Operation::Write);
        for next in block + 1..block + blocks {
            plan.tracker.take(next);
            hit &= plan.tracker.hit(next, operation == Operation::Write);
        }
        let bytes = blocks * u64::from(plan.block_bytes);
        Task {
            operation,
            block,
            offset: plan.offset + block * u64::from(plan.block_bytes),
            // At most a span, which is made to fit.
            bytes: u32::try_from(bytes).unwrap_or(plan.block_bytes),
            expected,
            salt: if plan.tracker.verifies() {
                Tracker::next(expected).into()
            } else if operation == Operation::Write {
                self.random.next()
            } else {
                0
            },
            hit,
        }
    }

    /// Writes the payload of a write.
    #[inline]
    pub(super) fn fill(&self, task: &Task, place: &mut [u8]) {
        let block_bytes = usize::try_from(self.plan.block_bytes).unwrap_or(usize::MAX);
        for (piece, block) in place.chunks_mut(block_bytes).zip(task.block..) {
            pattern::fill(piece, pattern::key(self.plan.seed, block, task.salt));
        }
    }

    /// Takes note of the end of a request: `data` is what a read brought, where contents are kept.
    ///
    /// # Errors
    /// Where it is not what was written.
    #[inline]
    pub(super) fn ended(
        &mut self,
        task: &Task,
        data: &[u8],
        tally: &mut Tally,
    ) -> Result<(), Mismatch> {
        let bytes = u64::from(task.bytes);
        tally.bytes += bytes;
        tally.hits += u64::from(task.hit);
        match task.operation {
            Operation::Read => tally.reads += 1,
            Operation::Write => {
                tally.writes += 1;
                tally.written_bytes += bytes;
                tally.write_hits += u64::from(task.hit);
            }
            Operation::Mix | Operation::Trim | Operation::Zero => tally.others += 1,
        }
        if self.plan.tracker.verifies() {
            self.verify(task, data)?;
        }
        Ok(())
    }

    fn verify(&mut self, task: &Task, data: &[u8]) -> Result<(), Mismatch> {
        let tracker = self.plan.tracker;
        let content = match task.operation {
            Operation::Read => {
                let at = match task.expected {
                    Expected::Anything => None,
                    Expected::Zeros => data.iter().position(|byte| *byte != 0),
                    Expected::Generation(generation) => {
                        let key = pattern::key(self.plan.seed, task.block, generation.into());
                        pattern::first_difference(data, key, &mut self.scratch)
                    }
                };
                if let Some(at) = at {
                    let offset = task.offset + at as u64;
                    return Err(Mismatch { offset });
                }
                task.expected
            }
            Operation::Write => Expected::Generation(u8::try_from(task.salt).unwrap_or(1)),
            Operation::Zero => Expected::Zeros,
            Operation::Mix | Operation::Trim => Expected::Anything,
        };
        let blocks = u64::from(task.bytes / self.plan.block_bytes.max(1));
        for block in task.block..task.block + blocks {
            tracker.give_back(block, content);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::time::Duration;

    use super::*;

    fn plan<'a>(tracker: &'a Tracker, operation: Operation, order: Order) -> Plan<'a> {
        Plan {
            operation,
            order,
            first: 10,
            blocks: 21,
            span: 1,
            block_bytes: 512,
            offset: 1 << 20,
            depth: 4,
            fsync: None,
            read_percent: 70,
            seed: 5,
            limit: None,
            patience: Duration::from_secs(1),
            tracker,
            is_told: &|| false,
            taken: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        }
    }

    fn drawn(plan: &Plan<'_>, count: usize) -> Vec<Task> {
        let mut source = Source::new(plan, 0);
        let mut tasks = Vec::new();
        while let (Next::Task(task), true) = (source.next(), tasks.len() < count) {
            tasks.push(task);
        }
        tasks
    }

    #[test]
    fn each_order_keeps_in_its_range_and_some_touch_each_block_once() {
        for (order, span, count) in [
            (Order::Random, 1, 200),
            (Order::Around, 1, 200),
            (Order::Once, 1, 21),
            (Order::Ascending, 1, 21),
            (Order::Ascending, 4, 6),
            (Order::EveryOther, 1, 11),
        ] {
            let tracker = Tracker::default();
            let plan = Plan {
                span,
                ..plan(&tracker, Operation::Write, order)
            };
            let tasks = drawn(&plan, 200);
            assert_eq!(tasks.len(), count, "{order:?}");
            let range = (1 << 20) + 10 * 512..(1 << 20) + 31 * 512;
            let mut touched = std::collections::BTreeSet::new();
            for task in &tasks {
                let end = task.offset + u64::from(task.bytes);
                assert!(range.contains(&task.offset) && end <= range.end, "{task:?}");
                touched.insert(task.offset);
            }
            if count <= 21 {
                assert_eq!(touched.len(), count, "{order:?}");
            }
            if order == Order::Ascending {
                let bytes: u32 = tasks.iter().map(|task| task.bytes).sum();
                assert_eq!(bytes, 21 * 512);
            }
        }
    }

    #[test]
    fn what_was_written_is_known_and_anything_else_is_noticed() {
        let tracker = Tracker::new(40, true);
        let writing = plan(&tracker, Operation::Write, Order::Once);
        let mut source = Source::new(&writing, 0);
        let mut content = vec![vec![0; 512]; 40];
        let mut tally = Tally::default();
        while let Next::Task(task) = source.next() {
            let place = &mut content[usize::try_from(task.block).unwrap()];
            source.fill(&task, place);
            source.ended(&task, &[], &mut tally).unwrap();
        }
        assert_eq!((tally.writes, tally.written_bytes), (21, 21 * 512));
        let reading = plan(&tracker, Operation::Read, Order::Ascending);
        let mut source = Source::new(&reading, 0);
        while let Next::Task(task) = source.next() {
            let found = &mut content[usize::try_from(task.block).unwrap()];
            if task.block == 20 {
                found[100] ^= 1;
                let mismatch = source.ended(&task, found, &mut tally).unwrap_err();
                assert_eq!(mismatch.offset, (1 << 20) + 20 * 512 + 100);
                return;
            }
            source.ended(&task, found, &mut tally).unwrap();
        }
        panic!("nothing was noticed");
    }

    #[test]
    fn a_mix_has_its_share_of_reads() {
        let tracker = Tracker::default();
        let plan = plan(&tracker, Operation::Mix, Order::Random);
        let tasks = drawn(&plan, 10_000);
        let reads = tasks
            .iter()
            .filter(|task| task.operation == Operation::Read);
        assert!((6500..7500).contains(&reads.count()));
    }
}
