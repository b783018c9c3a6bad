//! What clients ask for: each run of chunks goes where its entries say.

use std::sync::atomic::Ordering;

use usnap_format::OldChunk;

use super::OnlineMerge;
use super::gate::Leave;
use crate::device::{Attempt, BlockDevice, Extent, ZeroFlags, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::snapshot::Durability;
use crate::table::Slot;

/// A byte range that lies in one piece.
struct Piece {
    /// Where on the COW device; `None` for the origin, at the same offset.
    cow_offset: Option<u64>,
    first: OldChunk,
    /// Length in bytes, > 0.
    len: u64,
}

impl OnlineMerge {
    /// Where the range lies that begins at `offset`, as far as it lies in one piece. "The origin"
    /// stays true; "the COW device" is true for a read, and for a write inside the gate.
    fn map(&self, offset: u64, len: u64) -> Piece {
        let chunk_size = self.layout.chunk_size;
        let shift = chunk_size.shift();
        let (first, last) = (offset >> shift, (offset + len - 1) >> shift);
        let run = self.table.run_at(OldChunk(first), last - first + 1);
        let end = (first + run.count) << shift;
        let cow_offset = match run.slot {
            Slot::Unmapped => None,
            Slot::Mapped(new_chunk) => {
                Some((new_chunk.0 << shift) + chunk_size.offset_in_chunk(offset))
            }
        };
        Piece {
            cow_offset,
            first: OldChunk(first),
            len: len.min(end - offset),
        }
    }

    fn each_read(
        &self,
        mut buf: &mut [u8],
        mut offset: u64,
        read: impl Fn(&dyn BlockDevice, &mut [u8], u64) -> Result<Attempt>,
    ) -> Result<Attempt> {
        check_range(&self.name, self.size_bytes, offset, buf.len() as u64)?;
        while !buf.is_empty() {
            let piece = self.map(offset, buf.len() as u64);
            let len = to_usize(piece.len).min(buf.len());
            let (now, rest) = buf.split_at_mut(len);
            let attempt = match piece.cow_offset {
                None => read(&self.origin, now, offset)?,
                Some(cow_offset) => read(&self.cow, now, cow_offset)?,
            };
            if attempt == Attempt::WouldBlock {
                return Ok(attempt);
            }
            buf = rest;
            offset += piece.len;
        }
        Ok(Attempt::Done)
    }

    /// Changes a range run by run: `change` gets the device, where on it, where in the range, and how
    /// much.
    fn each_change(
        &self,
        offset: u64,
        len: u64,
        change: impl Fn(&dyn BlockDevice, u64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let piece = self.map(offset + done, len - done);
            done += if piece.cow_offset.is_none() {
                // A chunk that has no entry never gets one.
                change(&self.origin, offset + done, done, piece.len)?;
                piece.len
            } else {
                self.change_mapped(offset + done, len - done, |at, piece_len| {
                    change(&self.cow, at, done, piece_len)
                })?
            };
        }
        match self.options.durability {
            Durability::Flush => Ok(()),
            Durability::EveryWrite => self.flush(),
        }
    }

    /// Changes the mapped beginning of a range; how many bytes that was, 0 where the range is to be
    /// looked up again.
    fn change_mapped(
        &self,
        offset: u64,
        len: u64,
        change: impl Fn(u64, u64) -> Result<()>,
    ) -> Result<u64> {
        let chunk_size = self.layout.chunk_size;
        let inside = self.gate.enter();
        let piece = self.map(offset, len);
        let Some(cow_offset) = piece.cow_offset else {
            return Ok(0);
        };
        let count = chunk_size.chunk_of(offset + piece.len - 1) - piece.first.0 + 1;
        let leave = inside.leave_for(piece.first, count);
        match leave.refuse_if_never(piece.first)? {
            Leave::Chunks(count) => {
                let end = (piece.first.0 + count) << chunk_size.shift();
                let len = piece.len.min(end - offset);
                change(cow_offset, len).map_err(cut_off)?;
                Ok(len)
            }
            Leave::WaitFor(batch) => {
                drop(inside);
                self.gate.wait_for(batch);
                Ok(0)
            }
            Leave::Never => Ok(0),
        }
    }

    /// Whether a write there would have to wait for the batch under way. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn would_wait(&self, offset: u64, len: u64) -> bool {
        let chunk_size = self.layout.chunk_size;
        let (first, end) = (chunk_size.chunk_of(offset), offset + len);
        let count = chunk_size.chunks_to_hold(end) - first;
        let free = Leave::Chunks(count);
        self.gate.enter().leave_for(OldChunk(first), count) != free
    }

    fn check_change(&self, offset: u64, len: u64) -> Result<()> {
        check_range(&self.name, self.size_bytes, offset, len)?;
        // Which of the two a chunk lies on is not the client's affair: after a failed flush of one
        // no flush succeeds, so no write does.
        self.cow.refuse_if_latched()?;
        self.origin.refuse_if_latched()
    }
}

/// A COW device that ends before one of its chunks was cut off: no mistake of the client's.
#[cold]
fn cut_off(error: Error) -> Error {
    if error.kind() != ErrorKind::OutOfRange {
        return error;
    }
    error
        .context("cannot write a chunk: the COW device was cut off before it")
        .with_kind(ErrorKind::Io)
}

impl BlockDevice for OnlineMerge {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.each_read(buf, offset, |device, piece, at| {
            device.read_at(piece, at).map(|()| Attempt::Done)
        })
        .map(|_| ())
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.each_read(buf, offset, |device, piece, at| {
            device.try_read_at(piece, at)
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_change(offset, data.len() as u64)?;
        self.each_change(offset, data.len() as u64, |device, at, from, len| {
            let from = to_usize(from);
            let piece = data.get(from..from + to_usize(len)).unwrap_or_default();
            device.write_at(piece, at)
        })
    }

    /// Both: what was written lies on either.
    fn flush(&self) -> Result<()> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let of_cow = self.cow.flush();
        self.origin.flush().and(of_cow)
    }

    /// Does nothing, as the kernel's merge does.
    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check_change(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_change(offset, len)?;
        if flags.fast && (flags.no_hole || !self.can_zero_fast()) {
            let context = format!("cannot zero {len} bytes at {offset} of {} fast", self.name);
            return Err(Error::new(ErrorKind::NotSupported, context));
        }
        // Decided: a device that refused half-way would leave something changed.
        let flags = ZeroFlags {
            fast: false,
            ..flags
        };
        self.each_change(offset, len, |device, at, _, len| {
            device.zero_at(at, len, flags)
        })
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check_change(offset, len)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(&self.name, self.size_bytes, offset, len)?;
        if len == 0 {
            let context = format!("cannot tell what an empty range of {} is", self.name);
            return Err(Error::new(ErrorKind::OutOfRange, context));
        }
        let piece = self.map(offset, len);
        match piece.cow_offset {
            Some(cow_offset) => {
                let extent = self.cow.extent_at(cow_offset, piece.len)?;
                Ok(Extent { depth: 1, ..extent })
            }
            None => {
                let extent = self.origin.extent_at(offset, piece.len)?;
                let depth = if extent.depth == 0 {
                    0
                } else {
                    extent.depth + 1
                };
                Ok(Extent { depth, ..extent })
            }
        }
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn can_zero_fast(&self) -> bool {
        self.cow.can_zero_fast() && self.origin.can_zero_fast()
    }
}
