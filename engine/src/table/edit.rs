//! Changing the index. All of this under the lock of the chunks that are changed (`claim.rs`), with
//! readers looking on: DESIGN.md, "The exception index", has the order of the stores.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use usnap_format::OldChunk;

use super::arena::grown;
use super::head::{
    DENSE_WORDS, Head, REGION_CHUNKS, REGION_MASK, REGION_SHIFT, RUN_NEW_MAX, RunWord, dense_word,
    presence,
};
use super::loading::MappedRun;
use super::search::{Around, around};
use super::{ExceptionTable, Slot, TOUCHED_CHUNKS};
use crate::num::to_usize;

/// A block that grew beyond that becomes dense: half of its size, so that what a write has to move
/// stays little.
const GROWN_MAX: u64 = if cfg!(miri) { 16 } else { 256 };

/// Some runs of a block that others take the place of.
struct Splice<'a> {
    from: usize,
    removed: usize,
    added: &'a [RunWord],
}

/// Where a claimed run goes in its block, as long as the head is the same.
#[derive(Clone, Copy)]
pub(super) struct Gap {
    head: Head,
    next: usize,
}

impl ExceptionTable {
    /// How many chunks from `first` on are not mapped, at most `max_count` (> 0), and where they go.
    /// The lock is held, so nobody changes that meanwhile.
    pub(super) fn free_at(&self, first: u64, max_count: u64) -> (u64, Option<Gap>) {
        let offset = first & REGION_MASK;
        let block = self.heads.get(to_usize(first >> REGION_SHIFT));
        let head = block.map_or(Head(0), |[_, block]| Head(block.load(Ordering::Relaxed)));
        if head.is_dense() || max_count > REGION_CHUNKS - offset {
            let run = self.run_at(OldChunk(first), max_count);
            let is_free = run.slot == Slot::Unmapped;
            return (if is_free { run.count } else { 0 }, None);
        }
        let words = self.runs(head);
        let around = around(words, offset);
        if around.before.is_some_and(|run| run.holds(offset)) {
            return (0, None);
        }
        let next = words.get(around.next);
        let next = next.map(|word| RunWord(word.load(Ordering::Relaxed)).start() - offset);
        let count = next.map_or(max_count, |next| next.min(max_count));
        let next = around.next;
        (count, Some(Gap { head, next }))
    }

    /// Enters a run of which no chunk is mapped. The lock is held. `gap` is what `free_at` said of its
    /// first chunk.
    pub(super) fn insert(&self, run: MappedRun, mut gap: Option<Gap>) {
        if (run.old.0 & REGION_MASK) + run.count <= REGION_CHUNKS {
            return self.insert_part(run, gap);
        }
        for part in run.in_regions(self.chunk_count) {
            self.insert_part(part, gap.take());
        }
    }

    /// What lies in one region.
    fn insert_part(&self, part: MappedRun, gap: Option<Gap>) {
        if let Some([present, block]) = self.heads.get(to_usize(part.old.0 >> REGION_SHIFT)) {
            self.insert_in(block, part.old.0 & REGION_MASK, part, gap);
            // Behind the block: who finds the bits set finds the run.
            self.set_present(present, part);
        }
    }

    /// Notes that chunks of a region may be mapped.
    #[inline]
    pub(super) fn set_present(&self, present: &AtomicU64, part: MappedRun) {
        let bits = presence(part.old.0 & REGION_MASK, part.count);
        let word = present.load(Ordering::Relaxed);
        if word & bits != bits && present.fetch_or(bits, Ordering::Release) == 0 {
            self.touch(part.old.0);
        }
    }

    /// Notes that a part of the index is not empty any more.
    fn touch(&self, old_chunk: u64) {
        let part = old_chunk / TOUCHED_CHUNKS;
        if let Some(word) = self.touched.get(to_usize(part / 64)) {
            let bit = 1 << (part % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Release);
            }
        }
    }

    fn insert_in(&self, block: &AtomicU64, offset: u64, part: MappedRun, gap: Option<Gap>) {
        let (count, new) = (part.count, part.new.0);
        let head = Head(block.load(Ordering::Relaxed));
        if head.is_dense() {
            return self.set_dense(head, offset, count, new);
        }
        if new.saturating_add(count) > RUN_NEW_MAX {
            let dense = self.make_dense(block, head);
            return self.set_dense(dense, offset, count, new);
        }
        let words = self.runs(head);
        let around = match gap {
            // The same head: the same runs, but for one that may have become longer or shorter.
            Some(gap) if gap.head == head => Around::at(words, gap.next),
            _ => around(words, offset),
        };
        let mut run = RunWord::new(offset, count, new);
        let (mut from, mut removed) = (around.next, 0);
        if let Some(joined) = around.before.and_then(|before| before.joined(run)) {
            (run, from, removed) = (joined, from - 1, 1);
        }
        let next = words.get(around.next);
        let next = next.map(|word| RunWord(word.load(Ordering::Relaxed)));
        if let Some(joined) = next.and_then(|next| run.joined(next)) {
            (run, removed) = (joined, removed + 1);
        }
        let splice = Splice {
            from,
            removed,
            added: &[run],
        };
        if !self.splice(block, head, &splice) {
            let dense = self.make_dense(block, head);
            self.set_dense(dense, offset, count, new);
        }
    }

    /// Takes out a chunk, if it is mapped. The lock is held.
    pub(super) fn remove(&self, old_chunk: u64) {
        let offset = old_chunk & REGION_MASK;
        let Some([present, block]) = self.heads.get(to_usize(old_chunk >> REGION_SHIFT)) else {
            return;
        };
        let head = Head(block.load(Ordering::Relaxed));
        if head.is_dense() {
            return self.clear_dense(head, offset);
        }
        let around = around(self.runs(head), offset);
        let Some(run) = around.before.filter(|run| run.holds(offset)) else {
            return;
        };
        let (left, right) = (offset - run.start(), run.end() - offset - 1);
        let left_run = || RunWord::new(run.start(), left, run.new_chunk());
        let right_run = || RunWord::new(offset + 1, right, run.new_chunk() + left + 1);
        let (both, one);
        let added: &[RunWord] = match (left > 0, right > 0) {
            (true, true) => {
                both = [left_run(), right_run()];
                &both
            }
            (true, false) => {
                one = [left_run()];
                &one
            }
            (false, true) => {
                one = [right_run()];
                &one
            }
            (false, false) => &[],
        };
        let splice = Splice {
            from: around.next - 1,
            removed: 1,
            added,
        };
        if !self.splice(block, head, &splice) {
            let dense = self.make_dense(block, head);
            self.clear_dense(dense, offset);
        }
        if !Head(block.load(Ordering::Relaxed)).has_block() {
            present.store(0, Ordering::Release);
        }
    }

    /// False, and nothing is done, where these would be too many runs.
    fn splice(&self, block: &AtomicU64, head: Head, splice: &Splice<'_>) -> bool {
        let len = to_usize(head.len());
        let behind = splice.from + splice.removed;
        let new_len = (len - splice.removed + splice.added.len()) as u64;
        if new_len > head.capacity().max(GROWN_MAX) {
            return false;
        }
        let words = self.arena.words(head.place(), head.capacity());
        if let ([word], [run]) = (
            words.get(splice.from..behind).unwrap_or_default(),
            splice.added,
        ) {
            // One store: readers find the one or the other. Release, as below.
            word.store(run.0, Ordering::Release);
            return true;
        }
        if new_len == 0 {
            block.store(Head::none_after(head).0, Ordering::Release);
            self.arena.give_back(head.place(), head.capacity());
            return true;
        }
        if new_len > head.capacity() {
            self.move_out(block, head, splice, new_len);
            return true;
        }
        if behind < len || splice.removed > 0 {
            block.store(head.busy().0, Ordering::Relaxed);
        }
        // A reader that sees one of the words below sees what the head is now, or later, when it
        // looks again. Without this one it may see an old head that fits.
        fence(Ordering::Release);
        if behind < len {
            shift(words, behind..len, splice.from + splice.added.len());
        }
        set(words, splice.from, splice.added);
        // Release: who finds this head finds the words, and what was written before they were
        // published.
        let after = Head::after(head, head.place(), head.capacity(), new_len);
        block.store(after.0, Ordering::Release);
        true
    }

    /// The same in a larger block.
    fn move_out(&self, block: &AtomicU64, head: Head, splice: &Splice<'_>, new_len: u64) {
        let capacity = grown(new_len);
        let place = self.arena.take(capacity);
        let (old, new) = (self.runs(head), self.arena.words(place, capacity));
        let behind = splice.from + splice.removed;
        copy(old.get(..splice.from).unwrap_or_default(), new);
        set(new, splice.from, splice.added);
        let rest = new.get(splice.from + splice.added.len()..);
        copy(
            old.get(behind..).unwrap_or_default(),
            rest.unwrap_or_default(),
        );
        let after = Head::after(head, place, capacity, new_len);
        block.store(after.0, Ordering::Release);
        if head.has_block() {
            self.arena.give_back(head.place(), head.capacity());
        }
    }

    /// Turns a block of runs, or none, into one with a word for each chunk.
    fn make_dense(&self, block: &AtomicU64, head: Head) -> Head {
        let place = self.arena.take(DENSE_WORDS);
        let dense = Head::after(head, place, DENSE_WORDS, 0);
        for word in self.arena.words(place, DENSE_WORDS) {
            word.store(0, Ordering::Relaxed);
        }
        for word in self.runs(head) {
            let run = RunWord(word.load(Ordering::Relaxed));
            self.set_dense(dense, run.start(), run.count(), run.new_chunk());
        }
        block.store(dense.0, Ordering::Release);
        if head.has_block() {
            self.arena.give_back(head.place(), head.capacity());
        }
        dense
    }

    fn set_dense(&self, head: Head, offset: u64, count: u64, new: u64) {
        let words = self.arena.words(head.place(), DENSE_WORDS).iter();
        let words = words.skip(to_usize(offset)).take(to_usize(count));
        for (word, new) in words.zip(new..) {
            // Release: who finds it finds what was written before it was published.
            word.store(dense_word(new), Ordering::Release);
        }
    }

    fn clear_dense(&self, head: Head, offset: u64) {
        let words = self.arena.words(head.place(), DENSE_WORDS);
        if let Some(word) = words.get(to_usize(offset)) {
            word.store(0, Ordering::Release);
        }
    }
}

fn set(words: &[AtomicU64], from: usize, runs: &[RunWord]) {
    for (word, run) in words.iter().skip(from).zip(runs) {
        word.store(run.0, Ordering::Relaxed);
    }
}

fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    let (mut sources, mut targets) = (from.chunks_exact(8), to.chunks_exact(8));
    for (from, to) in sources.by_ref().zip(targets.by_ref()) {
        copy_eight(from, to);
    }
    let done = from.len() / 8 * 8;
    let rest = to.iter().skip(done);
    for (to, from) in rest.zip(sources.remainder()) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// All are loaded before one is stored.
#[inline]
fn copy_eight(from: &[AtomicU64], to: &[AtomicU64]) {
    if let (Ok(from), Ok(to)) = (<&[AtomicU64; 8]>::try_from(from), <&[_; 8]>::try_from(to)) {
        let words = from.each_ref().map(|word| word.load(Ordering::Relaxed));
        for (to, word) in to.each_ref().into_iter().zip(words) {
            AtomicU64::store(to, word, Ordering::Relaxed);
        }
    }
}

/// Moves words inside their block.
fn shift(words: &[AtomicU64], range: std::ops::Range<usize>, to: usize) {
    let end = to + range.len();
    let (Some(source), Some(target)) = (words.get(range.clone()), words.get(to..end)) else {
        return;
    };
    if to < range.start {
        return copy(source, target);
    }
    let (mut sources, mut targets) = (source.rchunks_exact(8), target.rchunks_exact(8));
    for (from, to) in sources.by_ref().zip(targets.by_ref()) {
        copy_eight(from, to);
    }
    for (to, from) in targets.remainder().iter().zip(sources.remainder()).rev() {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
