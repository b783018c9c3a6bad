//! Discard and zeroing. An exception never goes away, so neither gives back a chunk's number; both
//! give the space below it back to the COW file's filesystem, where whole blocks can be punched.
//!
//! - Discard of whole mapped chunks does what [`Discard`] says, of part of one nothing; of an
//!   unmapped chunk it does nothing, and the origin stays visible, as in the kernel.
//! - Zeroing always reads back as zeros: mapped ranges are punched or zeroed in place; unmapped
//!   chunks are taken, unless the origin is a hole there and so reads as zeros already.

use super::Snapshot;
use super::map::Place;
use super::write::Payload;
use crate::device::{BlockDevice, ZeroFlags};
use crate::error::{Error, ErrorKind, Result};

/// What a discard of whole mapped chunks does. To parts of chunks and to unmapped chunks it does
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// They read as zeros, and their space goes back to the COW file's filesystem, as far as it
    /// can punch holes.
    #[default]
    Punch,
    /// They read as zeros, and their space stays theirs: the kernel's `discard_zeroes_cow`.
    Zeroes,
    /// Nothing.
    Ignore,
}

impl Snapshot {
    pub(super) fn discard_runs(&self, mut offset: u64, mut len: u64) -> Result<()> {
        if self.discard == Discard::Ignore {
            return Ok(());
        }
        while len > 0 {
            let piece = self.map(offset, len);
            if let Place::Cow { offset: cow_offset } = piece.place {
                self.discard_whole_chunks(offset, piece.len, cow_offset)?;
            }
            offset += piece.len;
            len -= piece.len;
        }
        Ok(())
    }

    /// Discards the whole chunks of a mapped range. The snapshot's end counts as a chunk's end.
    fn discard_whole_chunks(&self, offset: u64, len: u64, cow_offset: u64) -> Result<()> {
        let chunk_bytes = self.chunk_size.bytes();
        let start = offset.next_multiple_of(chunk_bytes);
        let end = offset + len;
        let end = if end == self.size_bytes {
            end
        } else {
            end / chunk_bytes * chunk_bytes
        };
        if start >= end {
            return Ok(());
        }
        let (device, cow_offset) = (self.store.device(), cow_offset + (start - offset));
        let result = match self.discard {
            Discard::Ignore => return Ok(()),
            Discard::Punch => device.discard_at(cow_offset, end - start),
            Discard::Zeroes => {
                // Zeros are what it promises, so it can't be that nothing matters there.
                self.refuse_if_gone(cow_offset, end - start)?;
                let no_hole = ZeroFlags {
                    no_hole: true,
                    fast: false,
                };
                device.zero_at(cow_offset, end - start, no_hole)
            }
        };
        self.store.mark_dirty();
        result.map_err(|e| self.cut_off(e, ErrorKind::Io))
    }

    pub(super) fn zero_runs(&self, mut offset: u64, mut len: u64, flags: ZeroFlags) -> Result<()> {
        if flags.fast {
            self.refuse_if_slow(offset, len, flags)?;
        }
        // Decided: a device that refused half-way would leave something changed.
        let flags = ZeroFlags {
            fast: false,
            ..flags
        };
        while len > 0 {
            let done = match self.map(offset, 1).place {
                Place::Cow { .. } => self.zero_mapped(offset, len, flags)?,
                Place::Origin => self.zero_unmapped(offset, len, flags)?,
            };
            offset += done;
            len -= done;
        }
        Ok(())
    }

    /// Zeroes the mapped beginning of a range in place; how many bytes that was.
    fn zero_mapped(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<u64> {
        let piece = self.map(offset, len);
        let Place::Cow { offset: cow_offset } = piece.place else {
            // A mapped chunk stays mapped.
            return Ok(0);
        };
        self.refuse_if_gone(cow_offset, piece.len)?;
        let result = self.store.device().zero_at(cow_offset, piece.len, flags);
        self.store.mark_dirty();
        result.map_err(|e| self.cut_off(e, ErrorKind::Io))?;
        Ok(piece.len)
    }

    /// Zeroes the beginning of an unmapped range; how many bytes that was, or 0 where the range is
    /// to be looked up again. Where the origin reads as zeros nothing needs doing, unless space
    /// was asked for.
    fn zero_unmapped(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<u64> {
        if flags.no_hole {
            return self.write_unmapped(offset, len, Payload::Zeros(flags));
        }
        let extent = self.origin.extent_at(offset, len)?;
        if extent.zero {
            // As far as nothing is mapped over the hole; the origin may have become one just now.
            self.before_second_look();
            let piece = self.map(offset, extent.len);
            return Ok(if piece.place == Place::Origin {
                piece.len
            } else {
                0
            });
        }
        // Only the chunks that have data: a hole behind them is left alone.
        let data_end = (offset + extent.len).next_multiple_of(self.chunk_size.bytes());
        self.write_unmapped(offset, len.min(data_end - offset), Payload::Zeros(flags))
    }

    /// Fast is: no chunk has to be copied, and the COW device punches. Looked at beforehand, so
    /// that a refusal changes nothing.
    fn refuse_if_slow(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let refuse = || {
            let context = format!("cannot zero {len} bytes at {offset} of {} fast", self.name);
            Err(Error::new(ErrorKind::NotSupported, context))
        };
        if flags.no_hole || !self.can_zero_fast() {
            return refuse();
        }
        let chunk_bytes = self.chunk_size.bytes();
        let end = offset + len;
        let is_part = |at: u64| !at.is_multiple_of(chunk_bytes);
        if len > 0
            && (is_part(offset) && !self.is_mapped(offset)
                || is_part(end) && !self.is_mapped(end - 1))
        {
            return refuse();
        }
        Ok(())
    }

    fn is_mapped(&self, offset: u64) -> bool {
        matches!(self.map(offset, 1).place, Place::Cow { .. })
    }
}
