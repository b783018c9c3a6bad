//! Sending contents: straight from the device into the send buffer, zeros as holes.

use usnap_engine::Result as DeviceResult;
use usnap_engine::device::Attempt;

use super::answers::Answers;
use super::{End, holes, id_of, piece_len};
use crate::proto::{Errno, MAX_REPLY_HEADER, ReplyStyle, Request};
use crate::server::limits::{CACHE_BYTES, PIECE_BYTES, SPARSE_READ_BYTES};

/// Whether a read may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Better not: others are in line.
    None,
    /// As long as it takes.
    Wait,
}

/// A part of a read's range, in bytes.
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    len: u32,
    /// The reply ends with it.
    last: bool,
}

impl Answers<'_> {
    /// Answers with `len` bytes from the request's offset. `WouldBlock` only without patience, and
    /// then nothing was answered. A read longer than a piece always waits.
    #[inline]
    pub(super) fn read(
        &mut self,
        request: &Request,
        len: u32,
        dont_fragment: bool,
        patience: Patience,
    ) -> Result<Attempt, End> {
        if len == 0 {
            self.succeed(request);
            return Ok(Attempt::Done);
        }
        if len > PIECE_BYTES {
            self.read_long(request, len, dont_fragment)?;
            return Ok(Attempt::Done);
        }
        let whole = Part {
            offset: request.offset,
            len,
            last: true,
        };
        let chunks = !dont_fragment && self.replies().style().has_chunks();
        match self.add_part(request, whole, chunks, patience) {
            Ok(Attempt::WouldBlock) => return Ok(Attempt::WouldBlock),
            Ok(Attempt::Done) => self.count_read(len),
            Err(error) => self.fail_with(request, &error),
        }
        Ok(Attempt::Done)
    }

    /// Answers a read that is longer than a piece.
    #[cold]
    fn read_long(&mut self, request: &Request, len: u32, dont_fragment: bool) -> Result<(), End> {
        match self.replies().style() {
            ReplyStyle::Simple => self.read_long_simple(request, len),
            ReplyStyle::Structured | ReplyStyle::Extended if dont_fragment => {
                // "The server MUST support unfragmented reads in which the client's request length
                // does not exceed 65,536 bytes" (proto.md, "Size constraints"): no longer ones.
                let message = "too long for a reply in one piece";
                self.fail(id_of(request), Errno::Overflow, message);
                Ok(())
            }
            ReplyStyle::Structured | ReplyStyle::Extended => self.read_long_chunks(request, len),
        }
    }

    /// Answers with as many chunks as there are pieces, or more.
    fn read_long_chunks(&mut self, request: &Request, len: u32) -> Result<(), End> {
        let end = request.offset + u64::from(len);
        let mut offset = request.offset;
        while offset < end {
            self.check_cut()?;
            self.make_room()?;
            let left = end - offset;
            let len = piece_len(offset, left, self.connection.preferred_block_bytes);
            let part = Part {
                offset,
                len,
                last: u64::from(len) == left,
            };
            if let Err(error) = self.add_part(request, part, true, Patience::Wait) {
                self.fail_at(request, offset, &error);
                return Ok(());
            }
            offset += u64::from(len);
        }
        self.count_read(len);
        Ok(())
    }

    /// Answers with one simple reply. If there is an error behind its header, "the server MUST
    /// immediately initiate a hard disconnect; it MUST NOT send any further data to the client"
    /// (proto.md, "Request types"); so the first piece is read before anything is sent.
    fn read_long_simple(&mut self, request: &Request, len: u32) -> Result<(), End> {
        let block = self.connection.preferred_block_bytes;
        let mut done = piece_len(request.offset, len.into(), block);
        let first = Part {
            offset: request.offset,
            len: done,
            last: false,
        };
        if let Err(error) = self.add_part(request, first, false, Patience::Wait) {
            self.fail_with(request, &error);
            return Ok(());
        }
        // Nobody else may send before the reply is whole.
        let connection = self.connection;
        let mut output = connection.channel.output();
        while done < len {
            self.sender.send_part(&mut output)?;
            let offset = request.offset + u64::from(done);
            let piece = piece_len(offset, u64::from(len - done), block);
            let room = &mut self.sender.room()[..piece as usize];
            if let Err(error) = connection.device.read_at(room, offset) {
                output.give_up();
                self.judge(request, &error);
                return Err(End::ReadFailed);
            }
            self.sender.commit(piece as usize);
            done += piece;
        }
        // Counted first, as everywhere.
        self.count_read(len);
        connection.counters.add(&mut self.tally);
        self.sender.send_part(&mut output)?;
        Ok(())
    }

    /// Adds a part, or nothing if it can't be had. With `chunks`, long runs of zeros become holes.
    #[inline]
    fn add_part(
        &mut self,
        request: &Request,
        part: Part,
        chunks: bool,
        patience: Patience,
    ) -> DeviceResult<Attempt> {
        let mut header = [0; MAX_REPLY_HEADER];
        let id = id_of(request);
        let replies = self.replies();
        let header_len =
            replies.read_data_header(&mut header, id, part.offset, part.len, part.last);
        let room = self.sender.room();
        let data = &mut room[header_len..header_len + part.len as usize];
        match patience {
            Patience::None => {
                if self.connection.device.try_read_at(data, part.offset)? == Attempt::WouldBlock {
                    return Ok(Attempt::WouldBlock);
                }
            }
            Patience::Wait => self.connection.device.read_at(data, part.offset)?,
        }
        let added = if chunks
            && part.len >= SPARSE_READ_BYTES
            && let Some(first) = holes::next(data, 0, part.offset)
        {
            let layout = holes::Layout {
                replies,
                id,
                offset: part.offset,
                last: part.last,
            };
            layout.leave_out(room, header_len, part.len as usize, first)
        } else {
            room[..header_len].copy_from_slice(&header[..header_len]);
            header_len + part.len as usize
        };
        self.sender.commit(added);
        Ok(Attempt::Done)
    }

    fn count_read(&mut self, len: u32) {
        self.tally.requests += 1;
        self.tally.read_bytes += u64::from(len);
    }

    /// Reads ahead: into the page cache, or whatever the device has.
    ///
    /// "Even when this command reports success, there is no guarantee of an actual performance
    /// gain" (proto.md, "Request types"), so a range that no cache would hold is only begun.
    pub(super) fn cache(&mut self, request: &Request, len: u64) -> Result<(), End> {
        let len = len.min(CACHE_BYTES);
        let mut done = 0;
        while done < len {
            self.check_wanted()?;
            let offset = request.offset + done;
            let piece = piece_len(offset, len - done, self.connection.preferred_block_bytes);
            // The room is free to use: nothing of it is committed.
            let room = &mut self.sender.room()[..piece as usize];
            if let Err(error) = self.connection.device.read_at(room, offset) {
                self.fail_with(request, &error);
                return Ok(());
            }
            done += u64::from(piece);
        }
        self.succeed(request);
        Ok(())
    }
}
