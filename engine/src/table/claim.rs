//! A claim: one writer's hold on a run of unmapped chunks. Dropping it gives back what was not
//! published, so no error path can leave a chunk pending for ever.

use std::sync::atomic::Ordering;

use usnap_format::{NewChunk, OldChunk};

use super::{ExceptionTable, MAPPED, PENDING, UNMAPPED};

/// Consecutive old chunks that this writer alone may allocate for.
pub(crate) struct Claim<'a> {
    table: &'a ExceptionTable,
    first: OldChunk,
    count: u64,
}

impl ExceptionTable {
    /// Claims up to `max_count` consecutive unmapped chunks from `first` on, ascending, without
    /// waiting for any. None if `first` itself is not unmapped.
    pub(crate) fn claim(&self, first: OldChunk, max_count: u64) -> Option<Claim<'_>> {
        let mut count = 0;
        while count < max_count {
            let Some(slot) = self.slot_or_new(OldChunk(first.0 + count)) else {
                break;
            };
            // Acquire, as `lookup`: a failed claim may be followed by a read of what is there.
            let claimed =
                slot.compare_exchange(UNMAPPED, PENDING, Ordering::AcqRel, Ordering::Acquire);
            if claimed.is_err() {
                break;
            }
            count += 1;
        }
        (count > 0).then_some(Claim {
            table: self,
            first,
            count,
        })
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
        let count = count.min(self.count);
        for i in 0..count {
            if let Some(slot) = self.table.slot_or_new(OldChunk(self.first.0 + i)) {
                slot.store(new_chunk.0 + i + MAPPED, Ordering::SeqCst);
            }
        }
        self.first.0 += count;
        self.count -= count;
        self.table.wake_waiters();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        for i in 0..self.count {
            if let Some(slot) = self.table.slot_or_new(OldChunk(self.first.0 + i)) {
                slot.store(UNMAPPED, Ordering::SeqCst);
            }
        }
        self.table.wake_waiters();
    }
}
