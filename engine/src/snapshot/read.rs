//! Reading: a call a run, straight into the caller's buffer.

use usnap_format::OldChunk;

use super::Snapshot;
use super::map::Place;
use crate::device::{Attempt, BlockDevice, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

impl Snapshot {
    #[inline]
    pub(super) fn read_runs(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.each_run(buf, offset, |device, piece, at| {
            device.read_at(piece, at).map(|()| Attempt::Done)
        })
        .map(|_| ())
    }

    /// As `read_runs`, giving up at the first run that would have to wait for a disk.
    #[inline]
    pub(super) fn try_read_runs(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.each_run(buf, offset, |device, piece, at| {
            device.try_read_at(piece, at)
        })
    }

    #[inline]
    fn each_run(
        &self,
        mut buf: &mut [u8],
        mut offset: u64,
        read: impl Fn(&dyn BlockDevice, &mut [u8], u64) -> Result<Attempt>,
    ) -> Result<Attempt> {
        while !buf.is_empty() {
            let piece = self.map(offset, buf.len() as u64);
            let len = to_usize(piece.len).min(buf.len());
            let (now, rest) = buf.split_at_mut(len);
            let attempt = match piece.place {
                // Also while a write is under way: its reply has not been sent, so the old content is
                // right.
                Place::Origin => read(&*self.origin, now, offset)?,
                Place::Cow { offset: cow_offset } => {
                    self.refuse_if_lost(offset, piece.len)?;
                    self.refuse_if_gone(cow_offset, piece.len)?;
                    read(self.store.device(), now, cow_offset)?
                }
            };
            if attempt == Attempt::WouldBlock {
                return Ok(attempt);
            }
            buf = rest;
            offset += piece.len;
        }
        Ok(Attempt::Done)
    }

    /// After a failed flush, chunks whose exceptions were not committed may be gone from the page
    /// cache while their old content is still on the disk: neither may be shown.
    #[inline]
    pub(super) fn refuse_if_lost(&self, offset: u64, len: u64) -> Result<()> {
        match self.find_lost(offset, len) {
            Some(chunk) => Err(lost(&self.name, chunk)),
            None => Ok(()),
        }
    }

    #[inline]
    fn find_lost(&self, offset: u64, len: u64) -> Option<u64> {
        let shift = self.chunk_size.shift();
        let first = offset >> shift;
        let last = (offset + len - 1) >> shift;
        (first..=last).find(|chunk| self.store.is_lost(OldChunk(*chunk)))
    }

    pub(super) fn extent_of_run(&self, offset: u64, len: u64) -> Result<Extent> {
        self.placed_extent(offset, len).map(|(extent, _)| extent)
    }

    /// The extent, and whether it is the origin's.
    pub(super) fn placed_extent(&self, offset: u64, len: u64) -> Result<(Extent, bool)> {
        if len == 0 {
            let context = format!("cannot tell what an empty range of {} is", self.name);
            return Err(Error::new(ErrorKind::OutOfRange, context));
        }
        // Below an unmapped beginning the origin's extent comes first: looking for the end of the
        // unmapped run in what lies behind it would be done again for each extent. It is asked for
        // once, since it may be a snapshot that does the same.
        let below = match self.map(offset, 1).place {
            Place::Cow { .. } => None,
            Place::Origin => Some(self.origin.extent_at(offset, len)?),
        };
        let piece = self.map(offset, below.map_or(len, |extent| extent.len));
        match piece.place {
            Place::Origin => {
                let extent = match below {
                    Some(extent) => extent,
                    None => self.origin.extent_at(offset, piece.len)?,
                };
                let len = extent.len.min(piece.len);
                let depth = if extent.depth == 0 {
                    0
                } else {
                    extent.depth + 1
                };
                let extent = Extent {
                    len,
                    depth,
                    ..extent
                };
                Ok((extent, true))
            }
            Place::Cow { offset: cow_offset }
                if self.store.is_gone(cow_offset, piece.len)
                    || self.find_lost(offset, piece.len).is_some() =>
            {
                // Who is told of a hole copies zeros without a read, which is what would fail.
                let extent = Extent {
                    len: piece.len,
                    hole: false,
                    zero: false,
                    depth: 1,
                };
                Ok((extent, false))
            }
            Place::Cow { offset: cow_offset } => {
                // Punched chunks are holes of the COW file, but they are this device's own.
                let extent = self.store.device().extent_at(cow_offset, piece.len)?;
                Ok((Extent { depth: 1, ..extent }, false))
            }
        }
    }
}

#[cold]
fn lost(name: &str, chunk: u64) -> Error {
    Error::new(
        ErrorKind::Io,
        format!("cannot read chunk {chunk} of {name}: it was written but a flush failed"),
    )
}
