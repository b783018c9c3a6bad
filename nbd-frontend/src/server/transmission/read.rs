//! Requests that send or look at contents.

use usnap_engine::Result as DeviceResult;

use super::super::limits::{
    CACHE_BYTES, PIECE_BYTES, SPARSE_HOLE_BYTES, SPARSE_READ_BYTES, SPARSE_READ_EXTENTS,
};
use super::{End, Transmission, piece_len};
use crate::proto::{Errno, MAX_ERROR_REPLY, MAX_REPLY_HEADER, ReplyStyle, Request};

/// A part of a read's range, in bytes.
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    len: u32,
    /// The reply ends with it.
    last: bool,
}

impl Transmission<'_> {
    /// Sends `len` bytes from the request's offset.
    pub(super) fn read(
        &mut self,
        request: &Request,
        len: u32,
        dont_fragment: bool,
    ) -> Result<(), End> {
        if len == 0 {
            self.succeed(request);
            return Ok(());
        }
        let fits = len <= PIECE_BYTES;
        match self.replies.style() {
            ReplyStyle::Simple if !fits => return self.read_simple_in_pieces(request, len),
            ReplyStyle::Structured | ReplyStyle::Extended if dont_fragment && !fits => {
                // "The server MUST support unfragmented reads in which the client's request length
                // does not exceed 65,536 bytes" (proto.md, "Structured replies"): no longer ones.
                self.fail(
                    request,
                    Errno::Overflow,
                    "too long for a reply in one piece",
                );
                return Ok(());
            }
            ReplyStyle::Structured | ReplyStyle::Extended if !dont_fragment => {
                return self.read_in_pieces(request, len);
            }
            _ => {}
        }
        let whole = Part {
            offset: request.offset,
            len,
            last: true,
        };
        match self.add_data(request, whole) {
            Ok(()) => self.count_read(len),
            Err(error) => self.fail_with(request, &error),
        }
        Ok(())
    }

    /// Sends as many chunks as there are pieces, and holes as holes.
    fn read_in_pieces(&mut self, request: &Request, len: u32) -> Result<(), End> {
        let end = request.offset + u64::from(len);
        let mut offset = request.offset;
        while offset < end {
            if self.sender.is_full() {
                self.sender.send(self.channel)?;
            }
            let left = end - offset;
            let len = piece_len(offset, left, self.negotiated.export.preferred_block_bytes);
            let part = Part {
                offset,
                len,
                last: u64::from(len) == left,
            };
            let result = if len >= SPARSE_READ_BYTES {
                self.add_sparse(request, part)
            } else {
                self.add_data(request, part)
                    .map_err(|error| (offset, error))
            };
            if let Err((at, error)) = result {
                self.fail_at(request, at, &error);
                return Ok(());
            }
            offset += u64::from(len);
        }
        self.count_read(len);
        Ok(())
    }

    /// Sends a long read as one simple reply. Behind its header there is no way to report an
    /// error but to close ("the server MUST initiate a hard disconnect", proto.md, "Simple reply
    /// message"), so the first piece is read before it is sent.
    fn read_simple_in_pieces(&mut self, request: &Request, len: u32) -> Result<(), End> {
        let block = self.negotiated.export.preferred_block_bytes;
        let first_len = piece_len(request.offset, len.into(), block);
        let first = Part {
            offset: request.offset,
            len: first_len,
            last: false,
        };
        if let Err(error) = self.add_data(request, first) {
            self.fail_with(request, &error);
            return Ok(());
        }
        let mut done = first_len;
        while done < len {
            self.sender.send(self.channel)?;
            let offset = request.offset + u64::from(done);
            let piece_len = piece_len(offset, u64::from(len - done), block);
            let piece = piece_len as usize;
            if let Err(error) = self
                .device
                .read_at(&mut self.sender.room()[..piece], offset)
            {
                self.judge(request, &error);
                return Err(End::ReadFailed);
            }
            self.sender.commit(piece);
            done += piece_len;
        }
        self.count_read(len);
        Ok(())
    }

    /// Adds a part: holes of some length as such, everything else as data. An error comes with the
    /// offset at which it happened; what was added before it is right.
    fn add_sparse(
        &mut self,
        request: &Request,
        part: Part,
    ) -> Result<(), (u64, usnap_engine::Error)> {
        let end = part.offset + u64::from(part.len);
        // Everything before `data` was added, from there to `offset` is data.
        let (mut data, mut offset) = (part.offset, part.offset);
        for _ in 0..SPARSE_READ_EXTENTS {
            if offset == end {
                break;
            }
            // Who can't tell holes may still be able to read.
            let Ok(extent) = self.device.extent_at(offset, end - offset) else {
                break;
            };
            let len = extent.len.clamp(1, end - offset);
            if extent.zero && len >= SPARSE_HOLE_BYTES {
                self.add_data_between(request, data, offset, false)
                    .map_err(|e| (data, e))?;
                self.add_hole(request, offset, len, part.last && offset + len == end);
                offset += len;
                data = offset;
            } else {
                offset += len;
            }
        }
        self.add_data_between(request, data, end, part.last)
            .map_err(|error| (data, error))
    }

    fn add_data_between(
        &mut self,
        request: &Request,
        offset: u64,
        end: u64,
        last: bool,
    ) -> DeviceResult<()> {
        match short(end - offset) {
            0 => Ok(()),
            len => self.add_data(request, Part { offset, len, last }),
        }
    }

    /// Adds a data chunk (or the header and data of a simple reply), or nothing at an error.
    #[inline]
    fn add_data(&mut self, request: &Request, part: Part) -> DeviceResult<()> {
        let mut header = [0; MAX_REPLY_HEADER];
        let header_len = self.replies.read_data_header(
            &mut header,
            (request.cookie, request.offset),
            part.offset,
            part.len,
            part.last,
        );
        let (head, data) = self.sender.room().split_at_mut(header_len);
        self.device
            .read_at(&mut data[..part.len as usize], part.offset)?;
        head.copy_from_slice(&header[..header_len]);
        self.sender.commit(header_len + part.len as usize);
        Ok(())
    }

    fn add_hole(&mut self, request: &Request, offset: u64, len: u64, last: bool) {
        let mut buf = [0; MAX_REPLY_HEADER];
        let request = (request.cookie, request.offset);
        let len = self
            .replies
            .read_hole(&mut buf, request, offset, short(len), last);
        self.sender.room()[..len].copy_from_slice(&buf[..len]);
        self.sender.commit(len);
    }

    /// Answers a read that failed at `offset`; what was sent before it holds.
    #[cold]
    fn fail_at(&mut self, request: &Request, offset: u64, error: &usnap_engine::Error) {
        let (errno, message) = self.judge(request, error);
        let mut buf = [0; MAX_ERROR_REPLY];
        let (cookie, start) = (request.cookie, request.offset);
        let len = self
            .replies
            .error_at(&mut buf, cookie, start, errno, message, offset);
        self.tally.errors += 1;
        self.reply(&buf[..len]);
    }

    fn count_read(&mut self, len: u32) {
        self.tally.requests += 1;
        self.tally.read_bytes += u64::from(len);
    }

    /// Reads ahead: into the page cache, or whatever the device has.
    ///
    /// "Even when this command reports success, there is no guarantee" (proto.md, "Request
    /// types"), so a range that no cache would hold is only begun.
    pub(super) fn cache(&mut self, request: &Request, len: u64) -> Result<(), End> {
        let block = self.negotiated.export.preferred_block_bytes;
        let len = len.min(CACHE_BYTES);
        let mut done = 0;
        while done < len {
            let offset = request.offset + done;
            let piece_len = piece_len(offset, len - done, block);
            let piece = piece_len as usize;
            // The room is free to use: nothing of it is committed.
            if let Err(error) = self
                .device
                .read_at(&mut self.sender.room()[..piece], offset)
            {
                self.fail_with(request, &error);
                return Ok(());
            }
            done += u64::from(piece_len);
        }
        self.succeed(request);
        Ok(())
    }
}

/// The length of something inside a piece.
fn short(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(PIECE_BYTES)
}
