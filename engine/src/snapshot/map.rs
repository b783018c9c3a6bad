//! From a byte range of the snapshot to the device that has it. No I/O, no locks.

use usnap_format::{NewChunk, OldChunk};

use super::Snapshot;
use crate::table::Slot;

/// A byte range of the snapshot whose content lies in one piece on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) place: Place,
    /// Length in bytes, > 0.
    pub(super) len: u64,
}

/// Where a piece lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the same offset of the origin. A writer may be at work on the chunk: who wants to write
    /// there finds out by a claim.
    Origin,
    /// At this offset, in bytes, of the COW device.
    Cow { offset: u64 },
}

impl Snapshot {
    /// Where the range that begins at `offset` lies, as far as it lies in one piece. `len` > 0 and
    /// the range inside the snapshot.
    #[inline]
    pub(super) fn map(&self, offset: u64, len: u64) -> Piece {
        let shift = self.chunk_size.shift();
        let first = offset >> shift;
        let last = (offset + len - 1) >> shift;
        let run = self.table.run_at(OldChunk(first), last - first + 1);
        let end = (first + run.count) << shift;
        let place = match run.slot {
            Slot::Unmapped => Place::Origin,
            Slot::Mapped(new_chunk) => Place::Cow {
                offset: self.cow_offset(new_chunk) + self.chunk_size.offset_in_chunk(offset),
            },
        };
        Piece {
            place,
            len: len.min(end - offset),
        }
    }

    /// Whether the content at `offset` is the COW device's, and for how many bytes that holds at
    /// least. `len` > 0 and the range inside the snapshot.
    pub(crate) fn changed_run(&self, offset: u64, len: u64) -> (bool, u64) {
        let piece = self.map(offset, len);
        (matches!(piece.place, Place::Cow { .. }), piece.len)
    }

    /// Where a new chunk begins on the COW device, in bytes. Every mapped chunk lies inside the
    /// device, so this can't overflow.
    #[inline]
    pub(super) fn cow_offset(&self, new_chunk: NewChunk) -> u64 {
        new_chunk.0 << self.chunk_size.shift()
    }
}
