//! Saving what a write to the origin is about to replace (DESIGN.md, "The origin, served writable").
//! The same steps as a first write: claim, number, whole chunk, record, publish; a run at a time.

use std::ops::Range;

use usnap_format::OldChunk;

use super::Snapshot;
use super::write::{BOUNCE, BOUNCE_BYTES, CLAIM_CHUNKS_MAX};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::table::{Claim, Slot};

/// Why something is not saved.
pub(crate) enum SaveFailure {
    /// The origin could not be read.
    Origin(Error),
    /// The COW device did not take it.
    Cow(Error),
}

impl Snapshot {
    /// The chunks that a range of the origin touches; none behind the snapshot's end.
    pub(crate) fn chunks_touched(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len).min(self.size_bytes);
        if offset >= end {
            return 0..0;
        }
        self.chunk_size.chunk_of(offset)..self.chunk_size.chunk_of(end - 1) + 1
    }

    /// How many chunks there are.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.table.chunk_count()
    }

    /// Calls `each` with every run of chunks that has exceptions.
    pub(crate) fn each_mapped(&self, mut each: impl FnMut(Range<u64>)) {
        let mut at = 0;
        while at < self.table.chunk_count() {
            let run = self
                .table
                .run_at(OldChunk(at), self.table.chunk_count() - at);
            if let Slot::Mapped(_) = run.slot {
                each(at..at + run.count);
            }
            at += run.count;
        }
    }

    /// Gives each of these chunks an exception with the origin's content, where it has none. Not
    /// committed yet. Holds no claim while it waits for another's.
    pub(crate) fn save_chunks(&self, chunks: Range<u64>) -> std::result::Result<(), SaveFailure> {
        let mut at = chunks.start;
        while at < chunks.end {
            let run = self.table.run_at(OldChunk(at), chunks.end - at);
            at += match run.slot {
                Slot::Mapped(_) => run.count,
                Slot::Unmapped => self.save_unmapped(OldChunk(at), run.count)?,
            };
        }
        Ok(())
    }

    /// Makes every exception that there is durable, so also those of the snapshot's own writes.
    ///
    /// # Errors
    /// As `flush`.
    pub(crate) fn commit_saved(&self) -> Result<()> {
        self.store.commit_recorded()
    }

    /// As `flush`, whether the snapshot has ended or not.
    pub(crate) fn flush_store(&self) -> Result<()> {
        self.store.flush()
    }

    /// How many chunks are done; 0 where they are to be looked up again.
    fn save_unmapped(&self, first: OldChunk, count: u64) -> std::result::Result<u64, SaveFailure> {
        let Some(mut claim) = self.table.claim(first, count.min(CLAIM_CHUNKS_MAX)) else {
            self.table.wait_while_pending(first);
            return Ok(0);
        };
        let claimed = claim.count();
        while claim.count() > 0 {
            self.save_claimed(&mut claim)?;
        }
        Ok(claimed)
    }

    /// Saves the first of the claimed chunks, as many as are copied at once and lie behind each other
    /// on the COW device.
    fn save_claimed(&self, claim: &mut Claim<'_>) -> std::result::Result<(), SaveFailure> {
        let shift = self.chunk_size.shift();
        let at_once = (BOUNCE_BYTES >> shift).max(1);
        let prepared = self
            .prepare(claim.count().min(at_once))
            .map_err(SaveFailure::Cow)?;
        let count = prepared.run.count;
        let origin_offset = claim.first().0 << shift;
        let cow_offset = self.cow_offset(prepared.run.first);
        let len = count << shift;
        let mut at = 0;
        while at < len {
            let piece = (len - at).min(BOUNCE_BYTES);
            self.save_piece(origin_offset + at, cow_offset + at, piece)?;
            at += piece;
        }
        prepared.finish(claim).map_err(SaveFailure::Cow)?;
        self.counters.copied_chunks(count, len);
        Ok(())
    }

    fn save_piece(
        &self,
        origin_offset: u64,
        cow_offset: u64,
        piece: u64,
    ) -> std::result::Result<(), SaveFailure> {
        let size = to_usize(piece);
        let mut bounce = BOUNCE.take();
        if bounce.len() < size {
            bounce.resize(size, 0);
        }
        let buf = bounce.get_mut(..size).unwrap_or_default();
        let result = self
            .read_origin(buf, origin_offset)
            .map_err(SaveFailure::Origin)
            .and_then(|()| {
                self.store
                    .device()
                    .write_at(buf, cow_offset)
                    .map_err(|e| self.cut_off(e, ErrorKind::NoSpace))
                    .inspect_err(|e| self.note_failure(e))
                    .map_err(SaveFailure::Cow)
            });
        BOUNCE.set(bounce);
        result
    }
}
