//! One sample: what all its connections share, and what each of them counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::order::Permutation;
use super::tracker::Tracker;
use super::workload::{Operation, Order};

/// What a sample does, shared by its connections.
pub(super) struct Plan<'a> {
    pub(super) operation: Operation,
    pub(super) order: Order,
    /// The blocks it may touch: so many from that one on, counted from `offset`.
    pub(super) first: u64,
    pub(super) blocks: u64,
    /// Blocks of one request.
    pub(super) span: u32,
    pub(super) block_bytes: u32,
    /// Where in the device block 0 is, in bytes.
    pub(super) offset: u64,
    pub(super) depth: usize,
    pub(super) fsync: Option<u32>,
    pub(super) read_percent: u32,
    /// Of the order and of the content.
    pub(super) seed: u64,
    /// When it ends, unless it has done all its blocks before.
    pub(super) limit: Option<Duration>,
    /// How long it waits for an answer.
    pub(super) patience: Duration,
    pub(super) tracker: &'a Tracker,
    /// Whether the user wants it to end.
    pub(super) is_told: &'a (dyn Fn() -> bool + Sync),
    /// How many places of the order are taken.
    pub(super) taken: AtomicU64,
    /// A connection failed: the others need not go on.
    pub(super) has_failed: AtomicBool,
}

impl Plan<'_> {
    /// How many requests there are; `None` where they go on for ever.
    pub(super) fn requests(&self) -> Option<u64> {
        match self.order {
            Order::Random | Order::Around => None,
            Order::Once | Order::Ascending => Some(self.blocks.div_ceil(u64::from(self.span))),
            Order::EveryOther => Some(self.blocks.div_ceil(2)),
        }
    }

    /// The order of `Order::Once`.
    pub(super) fn permutation(&self) -> Permutation {
        Permutation::new(self.requests().unwrap_or(1), self.seed)
    }

    /// Whether no more requests are to be made.
    pub(super) fn is_over(&self, begun: Instant, now: Instant) -> bool {
        self.limit
            .is_some_and(|limit| now.saturating_duration_since(begun) >= limit)
            || self.has_failed.load(Ordering::Relaxed)
            || (self.is_told)()
    }
}

/// What was done, and how long it took.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) reads: u64,
    pub(super) writes: u64,
    /// Trims and zeroes.
    pub(super) others: u64,
    pub(super) flushes: u64,
    pub(super) bytes: u64,
    pub(super) written_bytes: u64,
    /// Requests to blocks that the COW had.
    pub(super) hits: u64,
    pub(super) write_hits: u64,
    pub(super) latency: Histogram,
    pub(super) flush_latency: Histogram,
    /// From the beginning to the last answer.
    pub(super) elapsed: Duration,
}

impl Tally {
    pub(super) fn requests(&self) -> u64 {
        self.reads + self.writes + self.others
    }

    /// Adds what another connection did meanwhile.
    pub(super) fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.others += other.others;
        self.flushes += other.flushes;
        self.bytes += other.bytes;
        self.written_bytes += other.written_bytes;
        self.hits += other.hits;
        self.write_hits += other.write_hits;
        self.latency.add(&other.latency);
        self.flush_latency.add(&other.flush_latency);
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}
