//! Claims: each is one writer's hold on a run of unmapped chunks. Dropping it gives back what was
//! not published, so no error path can leave a chunk claimed for ever.
//!
//! They are kept beside the index, as ranges, in lists of their own for every few regions; the lock of
//! such a list is also what changes of those regions are made under. It is never held across I/O.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use usnap_format::{NewChunk, OldChunk};

use super::ExceptionTable;
use super::edit::Gap;
use super::head::REGION_CHUNKS;
use super::loading::MappedRun;
use crate::num::to_usize;

/// So many consecutive chunks, whole regions, share a lock.
const STRIPE_CHUNKS: u64 = 8 * REGION_CHUNKS;
const SHARDS: usize = 64;

/// The claims of all chunks.
pub(super) struct Shards(Box<[Shard]>);

/// Those of every 64th stripe. Alone in its cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Shard {
    claims: Mutex<Claims>,
    released: Condvar,
}

/// What is claimed and not yet published. No range reaches from one stripe into another.
#[derive(Default)]
pub(super) struct Claims {
    ranges: Vec<Range<u64>>,
    /// How many sleep until some are published or given back.
    waiters: usize,
}

impl Shards {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }

    fn of(&self, old_chunk: u64) -> Option<&Shard> {
        self.0.get(to_usize(old_chunk / STRIPE_CHUNKS) % SHARDS)
    }

    /// The lock under which this chunk's claims and mapping change.
    pub(super) fn lock(&self, old_chunk: OldChunk) -> Option<MutexGuard<'_, Claims>> {
        self.of(old_chunk.0).map(Shard::lock)
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a change. The lock was held for it, so nobody who saw the old state still has to fall
    /// asleep.
    fn wake(&self, claims: MutexGuard<'_, Claims>) {
        let is_anybody_asleep = claims.waiters > 0;
        drop(claims);
        if is_anybody_asleep {
            self.released.notify_all();
        }
    }
}

impl Claims {
    fn holds(&self, old_chunk: u64) -> bool {
        self.ranges.iter().any(|range| range.contains(&old_chunk))
    }

    /// Takes out the first `count` chunks of the range that begins at `first`.
    fn release(&mut self, first: u64, count: u64) {
        if let Some(at) = self.ranges.iter().position(|range| range.start == first)
            && let Some(range) = self.ranges.get_mut(at)
        {
            range.start += count;
            if range.is_empty() {
                self.ranges.swap_remove(at);
            }
        }
    }
}

/// Consecutive old chunks that this writer alone may allocate for.
pub(crate) struct Claim<'a> {
    table: &'a ExceptionTable,
    first: OldChunk,
    count: u64,
    gap: Option<Gap>,
}

impl ExceptionTable {
    /// Claims up to `max_count` consecutive chunks from `first` on that are neither mapped nor
    /// claimed, ascending, without waiting for any. None if `first` itself is not free.
    pub(crate) fn claim(&self, first: OldChunk, max_count: u64) -> Option<Claim<'_>> {
        let end = first.0.saturating_add(max_count).min(self.chunk_count);
        let piece_end = end.min(stripe_end(first.0));
        if first.0 >= piece_end {
            return None;
        }
        let (count, gap) = self.claim_piece(first.0, piece_end - first.0);
        let mut at = first.0 + count;
        while at < end && at.is_multiple_of(STRIPE_CHUNKS) && count > 0 {
            let piece_end = end.min(stripe_end(at));
            let (more, _) = self.claim_piece(at, piece_end - at);
            at += more;
            if at < piece_end {
                break;
            }
        }
        let count = at - first.0;
        (count > 0).then_some(Claim {
            table: self,
            first,
            count,
            gap,
        })
    }

    /// How many chunks were claimed, of one stripe, and where they will go.
    fn claim_piece(&self, first: u64, max_count: u64) -> (u64, Option<Gap>) {
        let Some(shard) = self.shards.of(first) else {
            return (0, None);
        };
        let mut claims = shard.lock();
        let mut end = first + max_count;
        for range in &claims.ranges {
            if range.contains(&first) {
                return (0, None);
            }
            if range.start > first {
                end = end.min(range.start);
            }
        }
        let (count, gap) = self.free_at(first, end - first);
        if count > 0 {
            claims.ranges.push(first..first + count);
        }
        (count, gap)
    }

    /// Waits until `old_chunk` is not claimed any more.
    pub(crate) fn wait_while_pending(&self, old_chunk: OldChunk) {
        let Some(shard) = self.shards.of(old_chunk.0) else {
            return;
        };
        let mut claims = shard.lock();
        while claims.holds(old_chunk.0) {
            claims.waiters += 1;
            claims = shard
                .released
                .wait(claims)
                .unwrap_or_else(PoisonError::into_inner);
            claims.waiters -= 1;
        }
    }

    /// Waits for the change that is just being made to this chunk's block, which takes some hundred
    /// stores at the most.
    #[cold]
    pub(super) fn wait_for_change(&self, old_chunk: OldChunk) {
        drop(self.shards.lock(old_chunk));
    }
}

impl Claim<'_> {
    /// How many chunks are claimed and not yet published.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The first of them.
    pub(crate) fn first(&self) -> OldChunk {
        self.first
    }

    /// Publishes the first `count` of the claimed chunks as mapped to `new_chunk` and those
    /// behind it: from here on everybody reads and writes them on the COW device.
    pub(crate) fn publish(&mut self, count: u64, new_chunk: NewChunk) {
        self.release(count.min(self.count), Some(new_chunk));
    }

    /// Gives back the first `count` chunks, mapped or as they were.
    fn release(&mut self, count: u64, new_chunk: Option<NewChunk>) {
        let mut done = 0;
        while done < count {
            let at = self.first.0 + done;
            let piece = (count - done).min(stripe_end(at) - at);
            if let Some(shard) = self.table.shards.of(at) {
                let mut claims = shard.lock();
                if let Some(new_chunk) = new_chunk {
                    let run = MappedRun {
                        old: OldChunk(at),
                        new: NewChunk(new_chunk.0 + done),
                        count: piece,
                    };
                    self.table.insert(run, self.gap.take());
                }
                claims.release(at, piece);
                shard.wake(claims);
            }
            done += piece;
        }
        self.first.0 += count;
        self.count -= count;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.release(self.count, None);
    }
}

fn stripe_end(old_chunk: u64) -> u64 {
    (old_chunk / STRIPE_CHUNKS + 1) * STRIPE_CHUNKS
}
