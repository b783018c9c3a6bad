//! Filling a table with what a store has, in bulk: counted first, so that every block gets its place
//! and its length at once. Both passes may run on several threads.
//!
//! > `Loading::new`, `count` every run, `make_room`, `add` every run again, `finish`
//!
//! Meanwhile a head's second word is a plain count at first, then a head whose length grows with
//! each run that is added, in the order in which they come. The end sorts each block, which is when
//! chunks that are mapped twice are found.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use usnap_format::{Exception, NewChunk, OldChunk};

use super::arena::Arena;
use super::head::{
    DENSE_WORDS, GRANULE_WORDS, Head, Place, REGION_CHUNKS, REGION_MASK, REGION_SHIFT, RUN_NEW_MAX,
    RUNS_MAX, RunWord, dense_word,
};
use super::{ExceptionTable, TOUCHED_CHUNKS};
use crate::error::Result;
use crate::num::to_usize;

/// A count with this bit has a run that only a dense block can hold.
const NEEDS_DENSE: u64 = 1 << 63;

/// Below that sorting takes less time than starting threads for it.
const PARALLEL_BYTES: u64 = 1 << 20;

/// Consecutive old chunks that are mapped to consecutive new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MappedRun {
    pub(crate) old: OldChunk,
    pub(crate) new: NewChunk,
    /// How many chunks.
    pub(crate) count: u64,
}

impl MappedRun {
    /// Its parts, each in one region, as far as they lie before `end`.
    #[inline]
    pub(super) fn in_regions(self, end: u64) -> impl Iterator<Item = Self> {
        let mut left = self.count.min(end.saturating_sub(self.old.0));
        let (mut old, mut new) = (self.old.0, self.new.0);
        std::iter::from_fn(move || {
            let count = left.min(REGION_CHUNKS - (old & REGION_MASK));
            let part = Self {
                old: OldChunk(old),
                new: NewChunk(new),
                count,
            };
            (left, old, new) = (left - count, old + count, new.saturating_add(count));
            (count > 0).then_some(part)
        })
    }

    fn needs_dense(self) -> bool {
        self.new.0.saturating_add(self.count) > RUN_NEW_MAX
    }
}

/// An old chunk with two exceptions: the lowest that was found. There may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TwiceMapped {
    pub(crate) old_chunk: OldChunk,
}

/// The first pass: how much room each region needs.
pub(crate) struct Loading {
    table: ExceptionTable,
}

/// The second pass: every run gets its place.
pub(crate) struct Filling {
    table: ExceptionTable,
    /// The lowest chunk that was found twice, and what found no room because it was not counted.
    odd: Mutex<(Option<TwiceMapped>, Vec<MappedRun>)>,
}

impl Loading {
    /// A table for a snapshot of `chunk_count` chunks is about to be filled.
    ///
    /// # Errors
    /// `Usage` where that is more than can be indexed.
    pub(crate) fn new(chunk_count: u64) -> Result<Self> {
        Ok(Self {
            table: ExceptionTable::new(chunk_count)?,
        })
    }

    /// How many old chunks there are.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.table.chunk_count()
    }

    /// Counts a run that will be added. What lies behind the last chunk is passed over, here and
    /// by `add`.
    pub(crate) fn count(&self, run: MappedRun) {
        for part in run.in_regions(self.table.chunk_count) {
            let region = part.old.0 >> REGION_SHIFT;
            let Some([present, block]) = self.table.heads.get(to_usize(region)) else {
                return;
            };
            block.fetch_add(1, Ordering::Relaxed);
            if part.needs_dense() {
                block.fetch_or(NEEDS_DENSE, Ordering::Relaxed);
            }
            self.table.set_present(present, part);
        }
    }

    /// All are counted.
    pub(crate) fn make_room(mut self) -> Filling {
        let parts = self.table.chunk_count.div_ceil(TOUCHED_CHUNKS);
        let blocks = || (0..parts).flat_map(|part| self.table.touched_heads(part));
        let total = blocks().map(|(_, [_, block])| words_for(block.load(Ordering::Relaxed)));
        let arena = Arena::new(total.sum());
        for (_, [_, block]) in blocks() {
            let capacity = words_for(block.load(Ordering::Relaxed));
            if capacity == 0 {
                continue;
            }
            let head = Head::after(Head(0), arena.take_next(capacity), capacity, 0);
            block.store(head.0, Ordering::Relaxed);
        }
        self.table.arena = arena;
        Filling {
            table: self.table,
            odd: Mutex::new((None, Vec::new())),
        }
    }
}

impl Filling {
    /// Adds a run that was counted, in any order.
    pub(crate) fn add(&self, run: MappedRun) {
        for part in run.in_regions(self.table.chunk_count) {
            self.add_part(part);
        }
    }

    fn add_part(&self, part: MappedRun) {
        let region = part.old.0 >> REGION_SHIFT;
        let Some([present, block]) = self.table.heads.get(to_usize(region)) else {
            return;
        };
        // Nothing to do, but for what was not counted.
        self.table.set_present(present, part);
        let offset = part.old.0 & REGION_MASK;
        let head = Head(block.load(Ordering::Relaxed));
        if head.is_dense() {
            return self.add_dense(head, offset, part);
        }
        let longer = |head| {
            let head = Head(head);
            let longer = Head::after(head, head.place(), head.capacity(), head.len() + 1);
            (head.len() < head.capacity() && !part.needs_dense()).then_some(longer.0)
        };
        match block.fetch_update(Ordering::Relaxed, Ordering::Relaxed, longer) {
            Ok(head) => {
                let head = Head(head);
                let words = self.table.arena.words(head.place(), head.capacity());
                if let Some(word) = words.get(to_usize(head.len())) {
                    let run = RunWord::new(offset, part.count, part.new.0);
                    word.store(run.0, Ordering::Relaxed);
                }
            }
            Err(_) => self.odd().1.push(part),
        }
    }

    fn add_dense(&self, head: Head, offset: u64, part: MappedRun) {
        let words = self.table.arena.words(head.place(), DENSE_WORDS);
        for i in 0..part.count {
            let Some(word) = words.get(to_usize(offset + i)) else {
                return;
            };
            let new = dense_word(part.new.0 + i);
            let free = word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
            if free.is_err() {
                self.found_twice(part.old.0 + i);
            }
        }
    }

    /// The table, when all is added.
    ///
    /// # Errors
    /// An old chunk was added twice.
    pub(crate) fn finish(self) -> std::result::Result<ExceptionTable, TwiceMapped> {
        self.settle_all();
        let odd = self
            .odd
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let (mut twice, uncounted) = odd;
        for part in uncounted {
            for i in 0..part.count {
                let exception = Exception {
                    old_chunk: OldChunk(part.old.0 + i),
                    new_chunk: NewChunk(part.new.0 + i),
                };
                if !self.table.load(exception) {
                    note_lowest(&mut twice, exception.old_chunk.0);
                }
            }
        }
        match twice {
            Some(twice) => Err(twice),
            None => Ok(self.table),
        }
    }

    /// Sorts all blocks, on as many threads as there are processors.
    fn settle_all(&self) {
        let next = AtomicU64::new(0);
        let work = || {
            let mut runs = Vec::new();
            let parts = self.table.chunk_count.div_ceil(TOUCHED_CHUNKS);
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    return;
                }
                for (region, [_, block]) in self.table.touched_heads(part) {
                    self.settle(region, block, &mut runs);
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let is_large = self.table.arena.bytes() > PARALLEL_BYTES;
        std::thread::scope(|scope| {
            for _ in 1..if is_large { threads } else { 1 } {
                scope.spawn(work);
            }
            work();
        });
    }

    /// Sorts a block's runs and joins those that go on in each other.
    fn settle(&self, region: u64, block: &AtomicU64, runs: &mut Vec<RunWord>) {
        let head = Head(block.load(Ordering::Relaxed));
        if head.is_dense() || !head.has_block() {
            return;
        }
        let words = self.table.runs(head);
        runs.clear();
        runs.extend(
            words
                .iter()
                .map(|word| RunWord(word.load(Ordering::Relaxed))),
        );
        runs.sort_unstable();
        let mut end = 0;
        for run in &*runs {
            if run.start() < end {
                self.found_twice((region << REGION_SHIFT) + run.start());
            }
            end = end.max(run.end());
        }
        runs.dedup_by(|next, run| match run.joined(*next) {
            Some(joined) => {
                *run = joined;
                true
            }
            None => false,
        });
        for (word, run) in words.iter().zip(&*runs) {
            word.store(run.0, Ordering::Relaxed);
        }
        let len = runs.len() as u64;
        let capacity = len.next_multiple_of(GRANULE_WORDS);
        let settled = Head::after(head, head.place(), capacity, len);
        block.store(settled.0, Ordering::Relaxed);
        if capacity < head.capacity() {
            let rest = Place::new(head.place().segment(), head.place().word() + capacity);
            self.table.arena.give_back(rest, head.capacity() - capacity);
        }
    }

    fn found_twice(&self, old_chunk: u64) {
        note_lowest(&mut self.odd().0, old_chunk);
    }

    fn odd(&self) -> std::sync::MutexGuard<'_, (Option<TwiceMapped>, Vec<MappedRun>)> {
        self.odd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the block is for so many runs.
fn words_for(counted: u64) -> u64 {
    if counted > RUNS_MAX {
        DENSE_WORDS
    } else {
        counted.next_multiple_of(GRANULE_WORDS)
    }
}

fn note_lowest(lowest: &mut Option<TwiceMapped>, old_chunk: u64) {
    if lowest.is_none_or(|lowest| old_chunk < lowest.old_chunk.0) {
        *lowest = Some(TwiceMapped {
            old_chunk: OldChunk(old_chunk),
        });
    }
}
