//! Reading the index: no lock, no waiting but for a change that is being made to the very block.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use usnap_format::OldChunk;

use super::head::{Head, REGION_CHUNKS, REGION_MASK, REGION_SHIFT, RunWord, absent, is_absent};
use super::search::{around, guess};
use super::{ExceptionTable, TOUCHED_CHUNKS};
use crate::num::to_usize;

/// Consecutive chunks of one region with one answer.
pub(super) struct Piece {
    /// Where the first of them is mapped to.
    pub(super) new: Option<u64>,
    pub(super) count: u64,
}

impl ExceptionTable {
    /// Where a chunk is mapped to.
    #[inline]
    pub(super) fn find(&self, old_chunk: u64) -> Option<u64> {
        let [presence, block] = self.heads.get(to_usize(old_chunk >> REGION_SHIFT))?;
        let offset = old_chunk & REGION_MASK;
        // Acquire: whoever finds the bit set finds a block that has the chunk.
        if is_absent(presence.load(Ordering::Acquire), offset) {
            return None;
        }
        let head = Head(block.load(Ordering::Acquire));
        if head.is_dense() {
            let new = self.dense_at(head, offset).checked_sub(1);
            // As in `read`; but a dense block stays dense, and where it is.
            fence(Ordering::Acquire);
            return new;
        }
        // One look at one word is enough more often than not. A head that is busy has no length.
        let index = guess(head.len(), offset);
        if index < head.len()
            && let Some(word) = self.arena.word(head.place(), index)
        {
            let run = RunWord(word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if run.holds(offset) && block.load(Ordering::Relaxed) == head.0 {
                return Some(run.new_chunk_at(offset));
            }
        }
        self.find_run(old_chunk, block)
    }

    #[inline(never)]
    fn find_run(&self, old_chunk: u64, block: &AtomicU64) -> Option<u64> {
        let offset = old_chunk & REGION_MASK;
        self.read(old_chunk, block, |head| {
            if head.is_dense() {
                return self.dense_at(head, offset).checked_sub(1);
            }
            let around = around(self.runs(head), offset);
            let run = around.before.filter(|run| run.holds(offset));
            run.map(|run| run.new_chunk_at(offset))
        })
    }

    /// The piece that begins at a chunk, at most `max_count` (> 0) long.
    pub(super) fn piece_at(&self, old_chunk: u64, max_count: u64) -> Piece {
        let Some([presence, block]) = self.heads.get(to_usize(old_chunk >> REGION_SHIFT)) else {
            return Piece {
                new: None,
                count: max_count,
            };
        };
        let offset = old_chunk & REGION_MASK;
        let absent = absent(presence.load(Ordering::Acquire), offset);
        if absent > 0 {
            let untouched = if absent == REGION_CHUNKS {
                self.untouched(old_chunk)
            } else {
                0
            };
            return Piece {
                new: None,
                count: absent.max(untouched).min(max_count),
            };
        }
        let max_count = max_count.min(REGION_CHUNKS - offset);
        self.read(old_chunk, block, |head| {
            if head.is_dense() {
                self.dense_piece(head, offset, max_count)
            } else {
                self.runs_piece(head, offset, max_count)
            }
        })
    }

    fn runs_piece(&self, head: Head, offset: u64, max_count: u64) -> Piece {
        let words = self.runs(head);
        let around = around(words, offset);
        if let Some(run) = around.before.filter(|run| run.holds(offset)) {
            return Piece {
                new: Some(run.new_chunk_at(offset)),
                count: max_count.min(run.end() - offset),
            };
        }
        let next = words.get(around.next).map(|word| {
            let run = RunWord(word.load(Ordering::Relaxed));
            // Never before `offset`, but where the block is being changed.
            run.start().saturating_sub(offset).max(1)
        });
        Piece {
            new: None,
            count: max_count.min(next.unwrap_or(REGION_CHUNKS)),
        }
    }

    fn dense_piece(&self, head: Head, offset: u64, max_count: u64) -> Piece {
        let first = self.dense_at(head, offset);
        let step = u64::from(first != 0);
        let mut count = 1;
        while count < max_count && self.dense_at(head, offset + count) == first + step * count {
            count += 1;
        }
        Piece {
            new: first.checked_sub(1),
            count,
        }
    }

    /// The heads of a part of the index in which something was entered, each with its region.
    pub(super) fn touched_heads(&self, part: u64) -> impl Iterator<Item = (u64, &[AtomicU64; 2])> {
        let regions = TOUCHED_CHUNKS / REGION_CHUNKS;
        let first = part * regions;
        let word = self.touched.get(to_usize(part / 64));
        let is_touched =
            word.is_some_and(|word| word.load(Ordering::Relaxed) >> (part % 64) & 1 != 0);
        let heads = self.heads.get(to_usize(first)..).unwrap_or_default();
        let heads = heads
            .iter()
            .take(if is_touched { to_usize(regions) } else { 0 });
        (first..).zip(heads)
    }

    /// How many chunks from `old_chunk` on lie in parts of the index that nothing was ever entered
    /// in.
    fn untouched(&self, old_chunk: u64) -> u64 {
        let part = old_chunk / TOUCHED_CHUNKS;
        let word = self.touched.get(to_usize(part / 64));
        // Acquire, as the presence word.
        let parts = word.map_or(0, |word| word.load(Ordering::Acquire)) >> (part % 64);
        let parts = u64::from(parts.trailing_zeros()).min(64 - part % 64);
        ((part + parts) * TOUCHED_CHUNKS).saturating_sub(old_chunk)
    }

    /// Looks at a block until it did not change meanwhile.
    #[inline]
    fn read<T>(&self, old_chunk: u64, block: &AtomicU64, look: impl Fn(Head) -> T) -> T {
        loop {
            let head = Head(block.load(Ordering::Acquire));
            if head.is_busy() {
                self.wait_for_change(OldChunk(old_chunk));
                continue;
            }
            let answer = look(head);
            // What was looked at was there before the head is looked at again; and what a writer
            // wrote before what was found is there to be read from here on.
            fence(Ordering::Acquire);
            if block.load(Ordering::Relaxed) == head.0 {
                return answer;
            }
        }
    }

    #[inline]
    pub(super) fn runs(&self, head: Head) -> &[AtomicU64] {
        self.arena.words(head.place(), head.len())
    }

    #[inline]
    fn dense_at(&self, head: Head, offset: u64) -> u64 {
        let word = self.arena.word(head.place(), offset);
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }
}
