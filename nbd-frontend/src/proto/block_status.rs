//! The reply to a block status: one chunk for each metadata context, built extent by extent.
//!
//! Whatever the caller pushes, what is sent obeys proto.md, "Structured reply types":
//! - at least one extent a chunk, none of them empty;
//! - the extents of a chunk never cover more than was asked for, so the sum of all but the last is
//!   less than that, no extent exceeds what a 32-bit length can hold, and `NBD_CMD_FLAG_REQ_ONE`
//!   needs no further clamping;
//! - neighbours have different flags ("SHOULD use different *status* values between consecutive
//!   descriptors");
//! - at most [`MAX_EXTENTS`] extents, far below the 2^20 a server should not exceed.

use super::consts::{
    EXTENDED_REPLY_LEN, REPLY_TYPE_BLOCK_STATUS, REPLY_TYPE_BLOCK_STATUS_EXT, STRUCTURED_REPLY_LEN,
};
use super::reply::Replies;
use super::request::Cookie;
use super::session::ReplyStyle;
use super::wire::{Put, wire_len};

/// The most extents in one chunk: 128 KiB of reply at most. A client asks again from where they
/// end.
pub const MAX_EXTENTS: u32 = 8192;

/// Builds the reply to one block status at the end of a buffer of the caller, which is worth
/// keeping for the next.
///
/// For each selected context: [`begin`](Self::begin), [`push`](Self::push) until it returns false
/// or nothing is left to say, [`finish`](Self::finish). If something fails in between,
/// [`abandon`](Self::abandon) takes everything back so that an error can be sent instead.
#[derive(Debug)]
pub struct BlockStatusReply<'a> {
    replies: Replies,
    out: &'a mut Vec<u8>,
    /// Where the reply began in `out`.
    reply_start: usize,
    /// Where the open chunk began in `out`.
    chunk_start: usize,
    request: (Cookie, u64),
    /// How many bytes the request is about.
    len: u64,
    max_extents: u32,
    context_id: u32,
    /// How many bytes the extents pushed so far cover, the pending one included.
    covered: u64,
    /// How many extents were written, the pending one not included.
    extents: u32,
    /// The last extent (length, flags), held back because the next may continue it.
    pending: Option<(u64, u64)>,
    /// An extent was turned away.
    full: bool,
}

impl<'a> BlockStatusReply<'a> {
    pub(super) const fn new(
        replies: Replies,
        out: &'a mut Vec<u8>,
        request: (Cookie, u64),
        len: u64,
        req_one: bool,
    ) -> Self {
        let start = out.len();
        // Compact requests have 32-bit lengths, and so have the extents that answer them.
        let wide = matches!(replies.style(), ReplyStyle::Extended);
        let len = if !wide && len > u32::MAX as u64 {
            u32::MAX as u64
        } else {
            len
        };
        Self {
            replies,
            out,
            reply_start: start,
            chunk_start: start,
            request,
            len,
            max_extents: if req_one { 1 } else { MAX_EXTENTS },
            context_id: 0,
            covered: 0,
            extents: 0,
            pending: None,
            full: false,
        }
    }

    /// Begins the chunk of the context with that id.
    pub fn begin(&mut self, context_id: u32) {
        self.chunk_start = self.out.len();
        self.context_id = context_id;
        self.covered = 0;
        self.extents = 0;
        self.pending = None;
        self.full = false;
        // The header is written by `finish`, when the length is known.
        self.out
            .resize(self.chunk_start.saturating_add(self.prefix_len()), 0);
    }

    /// Adds an extent of `len` bytes where the last one ended; returns whether another one is
    /// wanted.
    ///
    /// An extent that is empty or goes past what was asked for is cut; one with the flags of the
    /// last continues it.
    pub fn push(&mut self, len: u64, flags: u64) -> bool {
        let left = self.len.saturating_sub(self.covered);
        if self.full || left == 0 {
            return false;
        }
        if len == 0 {
            return true;
        }
        let len = len.min(left);
        match &mut self.pending {
            Some((pending_len, pending_flags)) if *pending_flags == flags => {
                *pending_len = pending_len.saturating_add(len);
            }
            _ => {
                // The pending extent becomes final only if there is room for one more.
                if self.pending.is_some() && self.extents.saturating_add(1) >= self.max_extents {
                    // What comes after a gap must not be taken for what comes next.
                    self.full = true;
                    return false;
                }
                self.flush_pending();
                self.pending = Some((len, flags));
            }
        }
        self.covered = self.covered.saturating_add(len);
        self.covered < self.len
    }

    /// Ends the chunk; `last` if it is the last context's.
    ///
    /// If nothing was pushed, the chunk says what is always safe: flags 0 over all that was asked
    /// for. "The status flags are intentionally defined so that a server MAY always safely report a
    /// status of 0 for any block".
    pub fn finish(&mut self, last: bool) {
        if self.pending.is_none() {
            self.push(self.len, 0);
        }
        self.flush_pending();
        let start = self.chunk_start;
        let payload_len = self
            .out
            .len()
            .saturating_sub(start)
            .saturating_sub(self.header_len());
        let extended = self.is_extended();
        let Some(prefix) = self.out.get_mut(start..) else {
            return;
        };
        let mut put = Put::new(prefix);
        let payload_len = wire_len(payload_len);
        if extended {
            self.replies.chunk(
                &mut put,
                self.request,
                REPLY_TYPE_BLOCK_STATUS_EXT,
                last,
                payload_len,
            );
            put.u32(self.context_id);
            put.u32(self.extents);
        } else {
            self.replies.chunk(
                &mut put,
                self.request,
                REPLY_TYPE_BLOCK_STATUS,
                last,
                payload_len,
            );
            put.u32(self.context_id);
        }
    }

    /// Takes back every chunk of this reply.
    pub fn abandon(self) {
        self.out.truncate(self.reply_start);
    }

    fn flush_pending(&mut self) {
        let Some((len, flags)) = self.pending.take() else {
            return;
        };
        if self.is_extended() {
            self.out.extend_from_slice(&len.to_be_bytes());
            self.out.extend_from_slice(&flags.to_be_bytes());
        } else {
            // The length fits: it is at most what was asked for. Our contexts use 32 bits of flags
            // at most.
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            let flags = u32::try_from(flags).unwrap_or(u32::MAX);
            self.out.extend_from_slice(&len.to_be_bytes());
            self.out.extend_from_slice(&flags.to_be_bytes());
        }
        self.extents = self.extents.saturating_add(1);
    }

    fn is_extended(&self) -> bool {
        self.replies.style() == ReplyStyle::Extended
    }

    fn header_len(&self) -> usize {
        if self.is_extended() {
            EXTENDED_REPLY_LEN
        } else {
            STRUCTURED_REPLY_LEN
        }
    }

    /// Bytes before the first extent: the header, the context's id and, extended, the number of
    /// extents.
    fn prefix_len(&self) -> usize {
        self.header_len()
            .saturating_add(if self.is_extended() { 8 } else { 4 })
    }
}
