//! Whether the content chunks of a read add up to it: no byte twice, none missing.

use super::super::request::{Request, RequestKind};
use super::reply::{ReplyChunk, ReplyKind};

/// How many pieces the bytes of one read may be in before they touch; a server that sends more of
/// them out of order is up to no good.
const MAX_RANGES: usize = 4096;

/// Keeps account of the content chunks of one reply.
#[derive(Clone, Debug)]
pub struct Reassembly {
    start: u64,
    end: u64,
    dont_fragment: bool,
    chunks: u32,
    failed: bool,
    /// What has been described, in order; no two ranges touch.
    ranges: Vec<(u64, u64)>,
}

/// What does not add up in a reply to a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Incoherent {
    /// The reply ended well, but some bytes were not described.
    Incomplete,
    /// Some bytes were described twice.
    Overlap,
    /// The reply is in more pieces than anybody needs, or than the one that was asked for.
    TooManyChunks,
}

impl core::fmt::Display for Incoherent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "reply to a read ended before it was complete",
            Self::Overlap => "reply to a read describes the same bytes twice",
            Self::TooManyChunks => "reply to a read is in too many chunks",
        })
    }
}

impl core::error::Error for Incoherent {}

impl Reassembly {
    /// Begins with nothing described.
    #[must_use]
    pub const fn new(request: &Request) -> Self {
        let dont_fragment = matches!(
            request.kind,
            RequestKind::Read {
                dont_fragment: true,
                ..
            }
        );
        // Only a read is owed contents.
        let owed = match request.kind {
            RequestKind::Read { len, .. } => len as u64,
            _ => 0,
        };
        Self {
            start: request.offset,
            end: request.offset.saturating_add(owed),
            dont_fragment,
            chunks: 0,
            failed: false,
            ranges: Vec::new(),
        }
    }

    /// Takes the next chunk of the reply.
    ///
    /// # Errors
    /// If it does not fit those before it, or is the last and the read is not complete.
    pub fn chunk(&mut self, chunk: &ReplyChunk) -> Result<(), Incoherent> {
        match chunk.kind {
            ReplyKind::Data { offset } => self.add(offset, chunk.payload_len)?,
            ReplyKind::Hole { offset, len } => self.add(offset, len)?,
            ReplyKind::Error { .. } => self.failed = true,
            ReplyKind::Done | ReplyKind::BlockStatus => {}
        }
        // "When no error is detected, the server MUST send enough data chunks to cover the entire
        // region" (proto.md, "Request types").
        if chunk.done && !self.failed && !self.is_complete() {
            return Err(Incoherent::Incomplete);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.start == self.end || self.ranges == [(self.start, self.end)]
    }

    fn add(&mut self, start: u64, len: u32) -> Result<(), Incoherent> {
        let end = start.saturating_add(len.into());
        self.chunks = self.chunks.saturating_add(1);
        if self.dont_fragment && self.chunks > 1 {
            // "the server MUST send at most one content chunk".
            return Err(Incoherent::TooManyChunks);
        }
        let at = self.ranges.partition_point(|&(_, its_end)| its_end < start);
        // Neighbours that touch become one range, so that a reply in order needs only one.
        let mut merged = (start, end);
        let mut until = at;
        while let Some(&(its_start, its_end)) = self.ranges.get(until) {
            if its_start > end {
                break;
            }
            if its_start < end && start < its_end {
                return Err(Incoherent::Overlap);
            }
            merged = (merged.0.min(its_start), merged.1.max(its_end));
            until = until.saturating_add(1);
        }
        self.ranges.splice(at..until, [merged]);
        if self.ranges.len() > MAX_RANGES {
            return Err(Incoherent::TooManyChunks);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Incoherent, Reassembly};
    use crate::proto::client::{ReplyChunk, ReplyKind};
    use crate::proto::{Cookie, Request, RequestKind};

    fn request(dont_fragment: bool) -> Request {
        let kind = RequestKind::Read {
            len: 100,
            dont_fragment,
        };
        Request {
            cookie: Cookie(1),
            offset: 1000,
            kind,
        }
    }

    fn data(offset: u64, len: u32, done: bool) -> ReplyChunk {
        let kind = ReplyKind::Data { offset };
        ReplyChunk {
            request: request(false),
            done,
            kind,
            payload_len: len,
        }
    }

    #[test]
    fn chunks_in_any_order_make_a_read_if_they_cover_it() {
        let mut reply = Reassembly::new(&request(false));
        for chunk in [
            data(1050, 20, false),
            data(1000, 10, false),
            data(1070, 30, false),
        ] {
            assert_eq!(reply.chunk(&chunk), Ok(()));
        }
        assert_eq!(
            reply.clone().chunk(&data(1010, 39, true)),
            Err(Incoherent::Incomplete)
        );
        assert_eq!(reply.chunk(&data(1010, 40, true)), Ok(()));
    }

    #[test]
    fn a_reply_to_anything_but_a_read_owes_no_contents() {
        let kind = RequestKind::Write {
            len: 100,
            fua: false,
        };
        let request = Request {
            kind,
            ..request(false)
        };
        let chunk = ReplyChunk {
            request,
            done: true,
            kind: ReplyKind::Done,
            payload_len: 0,
        };
        assert_eq!(Reassembly::new(&request).chunk(&chunk), Ok(()));
    }

    #[test]
    fn a_byte_described_twice_is_refused() {
        let mut reply = Reassembly::new(&request(false));
        assert_eq!(reply.chunk(&data(1010, 40, false)), Ok(()));
        for (offset, len) in [(1049, 1), (1010, 1), (1000, 11), (1000, 100), (1020, 5)] {
            let result = reply.clone().chunk(&data(offset, len, false));
            assert_eq!(result, Err(Incoherent::Overlap), "{offset} {len}");
        }
        assert_eq!(reply.chunk(&data(1050, 50, false)), Ok(()));
        assert_eq!(reply.chunk(&data(1000, 10, true)), Ok(()));
    }

    #[test]
    fn a_read_in_more_pieces_than_anybody_needs_is_refused() {
        let kind = RequestKind::Read {
            len: 10_000,
            dont_fragment: false,
        };
        let request = Request {
            kind,
            ..request(false)
        };
        // Every other byte, so that no two pieces touch.
        let mut reply = Reassembly::new(&request);
        let mut pieces = (0..5000).map(|n| reply.chunk(&data(1000 + 2 * n, 1, false)));
        let taken = pieces.by_ref().take_while(Result::is_ok).count();
        assert_eq!(taken, super::MAX_RANGES);
        // In order they are one range, however many they are.
        let mut reply = Reassembly::new(&request);
        for n in 0..10_000 {
            assert_eq!(reply.chunk(&data(1000 + n, 1, n == 9999)), Ok(()));
        }
    }

    #[test]
    fn a_read_that_must_not_be_fragmented_is_one_chunk() {
        let mut reply = Reassembly::new(&request(true));
        assert_eq!(reply.chunk(&data(1000, 50, false)), Ok(()));
        assert_eq!(
            reply.chunk(&data(1050, 50, true)),
            Err(Incoherent::TooManyChunks)
        );
    }
}
