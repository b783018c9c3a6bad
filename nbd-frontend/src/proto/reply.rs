//! Replies: headers and small chunks, written into buffers of the caller. Nothing is allocated.
//!
//! Each reply is framed in the encoder's style. A server that negotiated structured replies may use
//! a simple encoder as well, for successes without contents: [`Replies::done`] is 4 bytes shorter.

use super::block_status::BlockStatusReply;
use super::consts::{
    EXTENDED_REPLY_LEN, EXTENDED_REPLY_MAGIC, REPLY_FLAG_DONE, REPLY_TYPE_ERROR,
    REPLY_TYPE_ERROR_OFFSET, REPLY_TYPE_NONE, REPLY_TYPE_OFFSET_DATA, REPLY_TYPE_OFFSET_HOLE,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use super::errno::Errno;
use super::request::Cookie;
use super::session::ReplyStyle;
use super::wire::{Put, truncated, wire_len};

/// The largest header of a reply that is not an error: an extended header, an offset and the length
/// of a hole.
pub const MAX_REPLY_HEADER: usize = EXTENDED_REPLY_LEN + 8 + 4;
/// The most bytes of an error's message that are sent; what is longer is cut.
pub const MAX_ERROR_MESSAGE_BYTES: usize = 210;
/// The largest error reply: an extended header, error, length of message, message, offset.
pub const MAX_ERROR_REPLY: usize = EXTENDED_REPLY_LEN + 4 + 2 + MAX_ERROR_MESSAGE_BYTES + 8;

/// Writes the replies of one session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Replies {
    style: ReplyStyle,
}

impl Replies {
    /// The encoder for replies of that style.
    #[inline]
    #[must_use]
    pub const fn new(style: ReplyStyle) -> Self {
        Self { style }
    }

    /// How its replies are framed.
    #[inline]
    #[must_use]
    pub const fn style(self) -> ReplyStyle {
        self.style
    }

    /// Writes what precedes `data_len` bytes of data read at `data_offset`, and returns how many
    /// bytes that is.
    ///
    /// `request` is the request's cookie and offset; `last` says that the reply ends with this
    /// data. Send it only once the data is at hand: after it there is no way to report an error but
    /// to disconnect or, with chunks, to pad the data and to follow with [`Self::error_at`]. A
    /// simple reply carries the whole read or nothing: `data_offset` and `last` play no part.
    /// `data_len` must not be 0 (use [`Self::done`]) nor more than
    /// [`Negotiated::max_chunk_bytes`](super::session::Negotiated::max_chunk_bytes).
    #[inline]
    pub fn read_data_header(
        self,
        buf: &mut [u8; MAX_REPLY_HEADER],
        request: (Cookie, u64),
        data_offset: u64,
        data_len: u32,
        last: bool,
    ) -> usize {
        debug_assert!(
            data_len > 0,
            "a content chunk must describe at least one byte"
        );
        let mut put = Put::new(buf);
        if self.style == ReplyStyle::Simple {
            simple(&mut put, request.0, 0);
        } else {
            let len = data_len.saturating_add(8);
            self.chunk(&mut put, request, REPLY_TYPE_OFFSET_DATA, last, len);
            put.u64(data_offset);
        }
        put.len()
    }

    /// Writes the chunk that says that `hole_len` bytes at `hole_offset` are zeroes, and returns
    /// its length in bytes.
    ///
    /// There is no such thing among simple replies: then nothing is written, 0 is returned, and the
    /// zeroes have to be sent as data. Not for reads that must not be fragmented unless the hole is
    /// the whole read.
    #[inline]
    pub fn read_hole(
        self,
        buf: &mut [u8; MAX_REPLY_HEADER],
        request: (Cookie, u64),
        hole_offset: u64,
        hole_len: u32,
        last: bool,
    ) -> usize {
        debug_assert!(hole_len > 0, "a hole must not be empty");
        if self.style == ReplyStyle::Simple {
            return 0;
        }
        let mut put = Put::new(buf);
        self.chunk(&mut put, request, REPLY_TYPE_OFFSET_HOLE, last, 12);
        put.u64(hole_offset);
        put.u32(hole_len);
        put.len()
    }

    /// Writes the reply that says that the request succeeded, and returns its length in bytes.
    ///
    /// It also ends a read whose last content chunk was not sent as the last.
    #[inline]
    pub fn done(
        self,
        buf: &mut [u8; MAX_REPLY_HEADER],
        cookie: Cookie,
        request_offset: u64,
    ) -> usize {
        let mut put = Put::new(buf);
        if self.style == ReplyStyle::Simple {
            simple(&mut put, cookie, 0);
        } else {
            self.chunk(&mut put, (cookie, request_offset), REPLY_TYPE_NONE, true, 0);
        }
        put.len()
    }

    /// Writes the reply that says that the request failed, and returns its length in bytes.
    ///
    /// The message is for people; simple replies have no room for it.
    #[cold]
    pub fn error(
        self,
        buf: &mut [u8; MAX_ERROR_REPLY],
        cookie: Cookie,
        request_offset: u64,
        errno: Errno,
        message: &str,
    ) -> usize {
        let mut put = Put::new(buf);
        if self.style == ReplyStyle::Simple {
            simple(&mut put, cookie, errno.code());
        } else {
            let message = truncated(message, MAX_ERROR_MESSAGE_BYTES);
            let len = wire_len(message.len()).saturating_add(6);
            self.chunk(
                &mut put,
                (cookie, request_offset),
                REPLY_TYPE_ERROR,
                true,
                len,
            );
            error_payload(&mut put, errno, message);
        }
        put.len()
    }

    /// Writes the reply that says where in the request it failed, and returns its length in bytes.
    ///
    /// `at` "MUST lie within the original offset and length of the request" (proto.md, "Structured
    /// reply types"). What precedes it in the same reply stays valid. Without chunks it is the same
    /// as [`Self::error`].
    #[cold]
    pub fn error_at(
        self,
        buf: &mut [u8; MAX_ERROR_REPLY],
        cookie: Cookie,
        request_offset: u64,
        errno: Errno,
        message: &str,
        at: u64,
    ) -> usize {
        let mut put = Put::new(buf);
        if self.style == ReplyStyle::Simple {
            simple(&mut put, cookie, errno.code());
        } else {
            let message = truncated(message, MAX_ERROR_MESSAGE_BYTES);
            let len = wire_len(message.len()).saturating_add(14);
            self.chunk(
                &mut put,
                (cookie, request_offset),
                REPLY_TYPE_ERROR_OFFSET,
                true,
                len,
            );
            error_payload(&mut put, errno, message);
            put.u64(at);
        }
        put.len()
    }

    /// Begins the reply to a block status of `len` bytes, appended to `out`.
    #[inline]
    pub fn block_status<'a>(
        self,
        out: &'a mut Vec<u8>,
        cookie: Cookie,
        request_offset: u64,
        len: u64,
        req_one: bool,
    ) -> BlockStatusReply<'a> {
        BlockStatusReply::new(self, out, (cookie, request_offset), len, req_one)
    }

    /// Writes the header of a chunk with `len` bytes of payload.
    #[inline]
    pub(super) fn chunk(
        self,
        put: &mut Put<'_>,
        (cookie, request_offset): (Cookie, u64),
        chunk_type: u16,
        last: bool,
        len: u32,
    ) {
        let extended = self.style == ReplyStyle::Extended;
        put.u32(if extended {
            EXTENDED_REPLY_MAGIC
        } else {
            STRUCTURED_REPLY_MAGIC
        });
        put.u16(if last { REPLY_FLAG_DONE } else { 0 });
        put.u16(chunk_type);
        put.u64(cookie.0);
        if extended {
            // "*offset* which MUST match the *offset* of the client's request (even in reply types
            // such as `NBD_REPLY_TYPE_OFFSET_DATA`...)" (proto.md, extended headers, "Extended
            // reply chunk message").
            put.u64(request_offset);
            put.u64(u64::from(len));
        } else {
            put.u32(len);
        }
    }
}

#[inline]
fn simple(put: &mut Put<'_>, cookie: Cookie, error: u32) {
    put.u32(SIMPLE_REPLY_MAGIC);
    put.u32(error);
    put.u64(cookie.0);
}

fn error_payload(put: &mut Put<'_>, errno: Errno, message: &str) {
    put.u32(errno.code());
    put.u16(u16::try_from(message.len()).unwrap_or(0));
    put.bytes(message.as_bytes());
}
