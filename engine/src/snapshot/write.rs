//! Writing. To a mapped chunk: one call a run, nothing else. To an unmapped one:
//!
//! > claim the chunk, take a new chunk, write it whole, hand the exception to the store, publish,
//! > reply
//!
//! Claim and new chunk are guards: whatever fails, they are given back. A writer that meets
//! somebody else's claim waits, holding none of its own, so claims cannot deadlock.

use std::cell::RefCell;

use usnap_format::OldChunk;

use super::Snapshot;
use super::map::Place;
use crate::device::ZeroFlags;
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::store::{ExceptionStore, NewRun};
use crate::table::Claim;

/// So many chunks are claimed at once at the most: a large request that finds no room must not
/// make the index grow as if it had.
pub(super) const CLAIM_CHUNKS_MAX: u64 = 1 << 12;

/// A chunk that is written in part is put together in pieces of at most this size.
pub(super) const BOUNCE_BYTES: u64 = 1 << 20;

thread_local! {
    /// Where a chunk is put together, a piece at a time. Grows to a piece once, then stays.
    pub(super) static BOUNCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is to be written: a client's bytes, or zeros.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    Bytes(&'a [u8]),
    Zeros(ZeroFlags),
}

impl<'a> Payload<'a> {
    /// The part that begins `from` bytes in. Zeros have no end.
    fn from(self, from: u64) -> Self {
        match self {
            Self::Bytes(bytes) => {
                let from = to_usize(from);
                Self::Bytes(bytes.get(from..).unwrap_or_default())
            }
            zeros @ Self::Zeros(_) => zeros,
        }
    }

    fn copy_to(self, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Bytes(bytes) => match bytes.get(..out.len()) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => return Err(broken("a payload ends before its range")),
            },
            Self::Zeros(_) => out.fill(0),
        }
        Ok(())
    }
}

/// New chunks on their way to becoming exceptions; given back when dropped.
pub(super) struct Prepared<'a> {
    store: &'a dyn ExceptionStore,
    pub(super) run: NewRun,
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if self.run.count > 0 {
            self.store.abort_exceptions(self.run);
        }
    }
}

impl Prepared<'_> {
    /// The data is written: the exceptions are the store's, then everybody's.
    pub(super) fn finish(mut self, claim: &mut Claim<'_>) -> Result<()> {
        let run = self.run;
        self.store.commit_exceptions(claim.first(), run)?;
        self.run.count = 0;
        claim.publish(run.count, run.first);
        Ok(())
    }
}

impl Snapshot {
    #[inline]
    pub(super) fn write_runs(&self, mut data: &[u8], mut offset: u64) -> Result<()> {
        while !data.is_empty() {
            let piece = self.map(offset, data.len() as u64);
            let done = match piece.place {
                Place::Cow { offset: cow_offset } => {
                    let len = to_usize(piece.len).min(data.len());
                    let (now, _) = data.split_at(len);
                    self.refuse_if_gone(cow_offset, piece.len)?;
                    let result = self.store.device().write_at(now, cow_offset);
                    // Also if it failed: some of it may be written.
                    self.store.mark_dirty();
                    result.map_err(|e| self.cut_off(e, ErrorKind::Io))?;
                    piece.len
                }
                Place::Origin => self.write_unmapped(offset, piece.len, Payload::Bytes(data))?,
            };
            let len = to_usize(done).min(data.len());
            data = data.split_at(len).1;
            offset += done;
        }
        Ok(())
    }

    /// Writes some of an unmapped range, or waits for somebody else's claim on it: how many bytes
    /// were done, 0 where the range is to be looked up again.
    pub(super) fn write_unmapped(
        &self,
        offset: u64,
        len: u64,
        payload: Payload<'_>,
    ) -> Result<u64> {
        let chunk_bytes = self.chunk_size.bytes();
        let first = self.chunk_size.chunk_of(offset);
        let within = self.chunk_size.offset_in_chunk(offset);
        // The last chunk may be shorter than a chunk; a write to its end is never a whole one, as
        // in the kernel.
        let whole = if within == 0 {
            (len / chunk_bytes).min(CLAIM_CHUNKS_MAX)
        } else {
            0
        };
        let Some(mut claim) = self.table.claim(OldChunk(first), whole.max(1)) else {
            self.table.wait_while_pending(OldChunk(first));
            return Ok(0);
        };
        if whole == 0 {
            let len = len.min(chunk_bytes - within);
            self.write_part(&mut claim, within, len, payload)?;
            return Ok(len);
        }
        let mut done = 0;
        while claim.count() > 0 {
            done += self.write_whole(&mut claim, payload.from(done))?;
        }
        Ok(done)
    }

    /// Writes whole chunks, as many of the claimed ones as lie behind each other on the COW
    /// device; how many bytes that was.
    fn write_whole(&self, claim: &mut Claim<'_>, payload: Payload<'_>) -> Result<u64> {
        let prepared = self.prepare(claim.count())?;
        let count = prepared.run.count;
        let len = count << self.chunk_size.shift();
        let offset = self.cow_offset(prepared.run.first);
        match payload {
            Payload::Bytes(bytes) => {
                let Some(bytes) = bytes.get(..to_usize(len)) else {
                    return Err(broken("a claim is longer than its payload"));
                };
                self.store.device().write_at(bytes, offset)
            }
            // The chunk may have been somebody's before: what looks like a hole may not be one.
            Payload::Zeros(flags) => self.store.device().zero_at(offset, len, flags),
        }
        .map_err(|e| self.cut_off(e, ErrorKind::NoSpace))
        .inspect_err(|e| self.note_failure(e))?;
        prepared.finish(claim)?;
        self.counters.whole_first_writes(count);
        Ok(len)
    }

    /// Writes part of a chunk: the rest of it is the origin's, and the whole is written before it is
    /// published.
    fn write_part(
        &self,
        claim: &mut Claim<'_>,
        within: u64,
        len: u64,
        payload: Payload<'_>,
    ) -> Result<()> {
        let prepared = self.prepare(1)?;
        let chunk_bytes = self.chunk_size.bytes();
        let origin_offset = claim.first().0 << self.chunk_size.shift();
        let cow_offset = self.cow_offset(prepared.run.first);
        let mut at = 0;
        while at < chunk_bytes {
            let piece = (chunk_bytes - at).min(BOUNCE_BYTES);
            let new = Overlap::of(at, piece, within, len);
            self.write_piece(origin_offset + at, cow_offset + at, piece, new, payload)?;
            at += piece;
        }
        prepared.finish(claim)?;
        let sent = match payload {
            Payload::Bytes(_) => len,
            Payload::Zeros(_) => 0,
        };
        self.counters.copied_chunks(1, chunk_bytes - sent);
        Ok(())
    }

    /// Puts together `piece` bytes of a chunk and writes them.
    fn write_piece(
        &self,
        origin_offset: u64,
        cow_offset: u64,
        piece: u64,
        new: Overlap,
        payload: Payload<'_>,
    ) -> Result<()> {
        // Taken out of its place meanwhile: the device may be a snapshot too, which does the same.
        let mut bounce = BOUNCE.take();
        let result = self.put_together(&mut bounce, origin_offset, piece, new, payload);
        let result = result.and_then(|buf| {
            let result = self.store.device().write_at(buf, cow_offset);
            result.map_err(|e| self.cut_off(e, ErrorKind::NoSpace))
        });
        BOUNCE.set(bounce);
        result.inspect_err(|e| self.note_failure(e))
    }

    /// Lays what is new over the origin's bytes.
    fn put_together<'b>(
        &self,
        bounce: &'b mut Vec<u8>,
        origin_offset: u64,
        piece: u64,
        new: Overlap,
        payload: Payload<'_>,
    ) -> Result<&'b [u8]> {
        let size = to_usize(piece);
        if bounce.len() < size {
            bounce.resize(size, 0);
        }
        let buf = bounce.get_mut(..size).unwrap_or_default();
        let (start, end) = (to_usize(new.start), to_usize(new.end));
        if start > 0 && end < size {
            // One read of all is cheaper than one on each side.
            self.read_origin(buf, origin_offset)?;
        } else if start > 0 {
            let head = buf.get_mut(..start).unwrap_or_default();
            self.read_origin(head, origin_offset)?;
        } else {
            let tail = buf.get_mut(end..).unwrap_or_default();
            self.read_origin(tail, origin_offset + new.end)?;
        }
        if let Some(middle) = buf.get_mut(start..end) {
            payload.from(new.payload_from).copy_to(middle)?;
        }
        Ok(buf)
    }

    /// Reads from the origin; what lies behind its end is zeros (DESIGN.md, "Where a write goes").
    pub(super) fn read_origin(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let available = self.size_bytes.saturating_sub(offset).min(buf.len() as u64);
        let (inside, behind) = buf.split_at_mut(to_usize(available));
        behind.fill(0);
        if inside.is_empty() {
            return Ok(());
        }
        self.origin.read_at(inside, offset).map_err(|e| {
            let chunk = self.chunk_size.chunk_of(offset);
            e.context(format!(
                "cannot copy chunk {chunk} of origin {}",
                self.origin.name()
            ))
        })
    }

    /// A COW device that ends before one of its chunks was cut off: for the client that is no
    /// mistake of its own. `kind` is what it is instead.
    #[cold]
    pub(super) fn cut_off(&self, error: Error, kind: ErrorKind) -> Error {
        if error.kind() != ErrorKind::OutOfRange {
            return error;
        }
        // Looks at the size, so that no more chunks are handed out behind the end.
        self.store.counts();
        error
            .context("cannot write a chunk: the COW device was cut off before it")
            .with_kind(kind)
            .with_hint("make the COW file as long as it was (truncate -s)")
    }

    pub(super) fn prepare(&self, max_count: u64) -> Result<Prepared<'_>> {
        let store = &*self.store;
        let run = store
            .prepare_exceptions(max_count)
            .inspect_err(|e| self.note_failure(e))?;
        Ok(Prepared { store, run })
    }

    #[cold]
    pub(super) fn note_failure(&self, error: &Error) {
        if error.kind() == ErrorKind::NoSpace {
            self.counters.refused_for_space();
            self.store.alarm().ring();
        }
    }
}

/// An invariant of this file that does not hold: the request fails, nothing is published.
#[cold]
fn broken(what: &str) -> Error {
    Error::new(
        ErrorKind::Io,
        format!("cannot write, a bug in usnap: {what}"),
    )
}

/// Which bytes of a piece of a chunk are new, and where in the payload they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Overlap {
    start: u64,
    end: u64,
    payload_from: u64,
}

impl Overlap {
    /// For the piece `at`..`at + piece` of a chunk of which `within`..`within + len` is new.
    fn of(at: u64, piece: u64, within: u64, len: u64) -> Self {
        let start = within.clamp(at, at + piece);
        let end = (within + len).clamp(at, at + piece);
        Self {
            start: start - at,
            end: end - at,
            payload_from: start.saturating_sub(within),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Overlap;

    #[test]
    fn a_piece_takes_its_share_of_the_payload() {
        let share = |at, piece, within, len| {
            let overlap = Overlap::of(at, piece, within, len);
            (overlap.start, overlap.end, overlap.payload_from)
        };
        assert_eq!(share(0, 4096, 100, 50), (100, 150, 0));
        assert_eq!(share(0, 4096, 4000, 200), (4000, 4096, 0));
        assert_eq!(share(4096, 4096, 4000, 200), (0, 104, 96));
        let (start, end, _) = share(8192, 4096, 4000, 200);
        assert_eq!(start, end, "nothing of it");
    }
}
