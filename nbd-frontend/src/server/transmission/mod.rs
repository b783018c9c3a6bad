//! The transmission phase of one connection: the hot path. One thread, blocking, no task, no
//! queue.
//!
//! One call receives what is there, every whole request in it is executed inline, and one call
//! sends the replies. Payloads are written from the receive buffer and read into the send buffer.
//! On reads and writes there is no heap allocation, no lock and no system call but the device's.
//!
//! - A payload longer than a piece is handled piece by piece, so memory does not depend on what
//!   clients ask for.
//! - A read's header is only committed once its data is there: it can still become an error.
//! - Requests that need a flush wait for the end of the batch and share one.

#[cfg(test)]
mod alloc_free;
mod block_status;
mod deferred;
mod read;
mod write;

use std::fmt;
use std::io;
use std::sync::Arc;

use usnap_engine::device::{BlockDevice, Extent};

use self::deferred::Deferred;
use super::channel::Channel;
use super::counters::Tally;
use super::errno::errno_of;
use super::limits::{LOGGED_ERRORS, PIECE_BYTES};
use super::receiver::Receiver;
use super::sender::Sender;
use super::shared::Shared;
use crate::proto::{
    Decoded, Errno, Fatal, MAX_ERROR_REPLY, MAX_REPLY_HEADER, Negotiated, Replies, ReplyStyle,
    Request, RequestKind,
};

/// Why transmission ended.
#[derive(Debug)]
pub(super) enum End {
    /// Sending or receiving failed: the client is gone.
    Broken(io::Error),
    /// The client closed between two requests, without saying so before.
    Closed,
    /// The client asked for it.
    Disconnected,
    /// What the client sent makes no sense.
    Nonsense(Fatal),
    /// The device failed in the middle of a read whose simple reply had begun.
    ReadFailed,
    /// The client closed in the middle of a request.
    Truncated,
    /// The handshake left more than fits.
    TooEarly,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Closed => f.write_str("the client closed"),
            Self::Disconnected => f.write_str("the client disconnected"),
            Self::Nonsense(fatal) => write!(f, "the client broke the protocol: {fatal}"),
            Self::ReadFailed => f.write_str("a read failed behind its reply's header"),
            Self::Truncated => f.write_str("the client closed in the middle of a request"),
            Self::TooEarly => f.write_str("the client sent too much before it was its turn"),
        }
    }
}

impl From<Fatal> for End {
    fn from(fatal: Fatal) -> Self {
        Self::Nonsense(fatal)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Broken(error),
        }
    }
}

/// A connection in transmission.
pub(super) struct Transmission<'a> {
    shared: &'a Shared,
    id: u64,
    channel: &'a Channel,
    negotiated: &'a Negotiated,
    device: &'a dyn BlockDevice,
    replies: Replies,
    receiver: Receiver,
    sender: Sender,
    deferred: Deferred,
    /// Kept from one block status to the next, so that they seldom allocate.
    extents: Vec<Extent>,
    status: Vec<u8>,
    tally: Tally,
    logged_errors: u32,
    /// The server was ending when the requests in the buffer came in.
    closing: bool,
}

impl<'a> Transmission<'a> {
    /// `early` is what the client sent right behind the handshake.
    ///
    /// # Errors
    /// `TooEarly` if that is too much.
    pub(super) fn new(
        shared: &'a Shared,
        id: u64,
        channel: &'a Arc<Channel>,
        negotiated: &'a Negotiated,
        device: &'a Arc<dyn BlockDevice>,
        early: &[u8],
    ) -> Result<Self, End> {
        Ok(Self {
            shared,
            id,
            channel,
            negotiated,
            device: &**device,
            replies: negotiated.replies(),
            receiver: Receiver::new(early).ok_or(End::TooEarly)?,
            sender: Sender::new(),
            deferred: Deferred::new(),
            extents: Vec::new(),
            status: Vec::new(),
            tally: Tally::default(),
            logged_errors: 0,
            closing: false,
        })
    }

    /// Serves requests until the connection ends.
    pub(super) fn run(mut self) -> End {
        let end = loop {
            if let Err(end) = self.serve_batch() {
                break end;
            }
        };
        // What was executed is answered, unless nobody hears it or it would be taken for data.
        if !matches!(end, End::Broken(_) | End::ReadFailed) {
            drop(self.answer());
        }
        self.shared.counters.add(&mut self.tally);
        end
    }

    /// Executes every whole request that was received, answers, waits for more.
    fn serve_batch(&mut self) -> Result<(), End> {
        let header_len = self.negotiated.header_len();
        while let Some(header) = self.receiver.buffered().get(..header_len) {
            let decoded = self.negotiated.decode_request(header)?;
            self.receiver.consume(header_len);
            match decoded {
                Decoded::Request(request) if self.closing => self.refuse_late(&request)?,
                Decoded::Request(request) => self.execute(&request)?,
                Decoded::Refused(refused) => {
                    self.drain(refused.payload_len)?;
                    let request = Request {
                        cookie: refused.cookie,
                        offset: refused.offset,
                        // Only the cookie and the offset play a part in the answer.
                        kind: RequestKind::Flush,
                    };
                    self.fail(&request, refused.errno, refused.message);
                }
            }
            if self.sender.is_full() {
                self.sender.send(self.channel)?;
            }
        }
        self.answer()?;
        self.receive()
    }

    fn execute(&mut self, request: &Request) -> Result<(), End> {
        match request.kind {
            RequestKind::Read { len, dont_fragment } => self.read(request, len, dont_fragment),
            RequestKind::Write { len, fua } => self.write(request, len, fua),
            RequestKind::Flush => self.succeed_after_flush(request),
            RequestKind::Trim { len, fua } => self.trim(request, len, fua),
            RequestKind::WriteZeroes {
                len,
                fua,
                no_hole,
                fast_zero,
            } => self.write_zeroes(request, len, fua, no_hole, fast_zero),
            RequestKind::Cache { len } => self.cache(request, len),
            RequestKind::BlockStatus { len, req_one } => {
                self.block_status(request, len, req_one);
                Ok(())
            }
            RequestKind::Disconnect => Err(End::Disconnected),
        }
    }

    /// Answers a request that came when the server was ending already.
    ///
    /// "The error value issued in respect of these requests and any subsequently received requests
    /// SHOULD be `NBD_ESHUTDOWN`" (proto.md, "Terminating the transmission phase").
    #[cold]
    fn refuse_late(&mut self, request: &Request) -> Result<(), End> {
        if request.kind == RequestKind::Disconnect {
            return Err(End::Disconnected);
        }
        self.drain(u64::from(request.payload_len()))?;
        self.fail(request, Errno::Shutdown, "the server is shutting down");
        Ok(())
    }

    /// Sends all answers that are owed.
    fn answer(&mut self) -> Result<(), End> {
        self.settle()?;
        // Counted first: who has an answer finds its request counted.
        self.shared.counters.add(&mut self.tally);
        self.sender.send(self.channel)?;
        Ok(())
    }

    /// Waits for more requests, between two of them or in the middle of a header.
    fn receive(&mut self) -> Result<(), End> {
        let between_requests = self.receiver.buffered().is_empty();
        if between_requests {
            self.channel.set_waiting(true);
            if self.shared.shutdown.is_closing() {
                self.channel.end_input();
            }
        }
        let count = self.receiver.receive(self.channel)?;
        if between_requests {
            self.channel.set_waiting(false);
        }
        self.closing = self.shared.shutdown.is_closing();
        match count {
            0 if between_requests => Err(End::Closed),
            0 => Err(End::Truncated),
            _ => Ok(()),
        }
    }

    /// Answers with success.
    #[inline]
    fn succeed(&mut self, request: &Request) {
        let mut buf = [0; MAX_REPLY_HEADER];
        // "MAY use either a simple reply or a structured reply to all other requests" (proto.md,
        // "Structured reply chunk message"); clients receive the shorter one in fewer calls.
        let replies = match (self.replies.style(), request.kind) {
            (ReplyStyle::Structured, RequestKind::Read { .. }) => self.replies,
            (ReplyStyle::Structured, _) => Replies::new(ReplyStyle::Simple),
            _ => self.replies,
        };
        let len = replies.done(&mut buf, request.cookie, request.offset);
        self.reply(&buf[..len]);
    }

    /// Answers with success as soon as everything written so far is durable.
    fn succeed_after_flush(&mut self, request: &Request) -> Result<(), End> {
        if self.deferred.is_full() {
            self.settle()?;
        }
        self.deferred.push(request);
        Ok(())
    }

    /// Answers with success: at once, or when it is durable.
    #[inline]
    fn succeed_with(&mut self, request: &Request, fua: bool) -> Result<(), End> {
        if fua {
            return self.succeed_after_flush(request);
        }
        self.succeed(request);
        Ok(())
    }

    /// Answers with an error.
    #[cold]
    fn fail(&mut self, request: &Request, errno: Errno, message: &str) {
        let mut buf = [0; MAX_ERROR_REPLY];
        let len = self
            .replies
            .error(&mut buf, request.cookie, request.offset, errno, message);
        self.tally.errors += 1;
        self.reply(&buf[..len]);
    }

    /// Answers with the device's error.
    #[cold]
    fn fail_with(&mut self, request: &Request, error: &usnap_engine::Error) {
        let (errno, message) = self.judge(request, error);
        self.fail(request, errno, message);
    }

    /// Logs a device's error and says what it is on the wire.
    #[cold]
    fn judge(&mut self, request: &Request, error: &usnap_engine::Error) -> (Errno, &'static str) {
        let fast = matches!(
            request.kind,
            RequestKind::WriteZeroes {
                fast_zero: true,
                ..
            }
        );
        let (errno, message) = errno_of(error.kind(), fast);
        if errno == Errno::Io && self.logged_errors < LOGGED_ERRORS {
            self.logged_errors += 1;
            let rest = if self.logged_errors == LOGGED_ERRORS {
                ", not logging more"
            } else {
                ""
            };
            tracing::warn!(
                connection = self.id,
                ?error,
                "answering with an I/O error{rest}"
            );
        } else {
            tracing::debug!(connection = self.id, ?error, %errno, "answering with an error");
        }
        (errno, message)
    }

    /// Flushes the device once for all requests that wait for it, and answers them.
    fn settle(&mut self) -> Result<(), End> {
        if self.deferred.is_empty() {
            return Ok(());
        }
        if self.sender.is_full() {
            self.sender.send(self.channel)?;
        }
        let result = self.device.flush();
        let deferred = std::mem::take(&mut self.deferred);
        let judged = result
            .err()
            .zip(deferred.first())
            .map(|(e, first)| self.judge(first, &e));
        for request in deferred.iter() {
            match judged {
                None => self.succeed(request),
                Some((errno, message)) => self.fail(request, errno, message),
            }
        }
        self.deferred = deferred.emptied();
        Ok(())
    }

    /// Adds a whole reply to what will be sent.
    #[inline]
    fn reply(&mut self, bytes: &[u8]) {
        self.sender.room()[..bytes.len()].copy_from_slice(bytes);
        self.sender.commit(bytes.len());
        self.tally.requests += 1;
    }
}

/// How much of `left` bytes at `offset` to handle in one piece: all if it fits, else up to a
/// multiple of the preferred block, so that no block is handled in two pieces.
#[inline]
fn piece_len(offset: u64, left: u64, preferred_block_bytes: u32) -> u32 {
    let past_block = offset.wrapping_add(PIECE_BYTES.into()) & u64::from(preferred_block_bytes - 1);
    match (u32::try_from(left), u32::try_from(past_block)) {
        (Ok(left), _) if left <= PIECE_BYTES => left,
        (_, Ok(past_block)) if past_block < PIECE_BYTES => PIECE_BYTES - past_block,
        // A block larger than a piece has to be split anyway.
        _ => PIECE_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_on_a_block_and_cover_everything() {
        for (offset, len, block) in [
            (0, 32 << 20, 4096),
            (1, 3 << 20, 4096),
            (511, (5 << 20) + 77, 65536),
            (12345, 9 << 20, 1 << 20),
            (12345, 9 << 20, 4 << 20),
            (7, 100, 4096),
            (u64::MAX - (4 << 20), 4 << 20, 512),
        ] {
            let (mut at, end) = (offset, offset + len);
            while at < end {
                let piece = piece_len(at, end - at, block);
                assert!(piece > 0 && piece <= PIECE_BYTES);
                at += u64::from(piece);
                let ends_on_block = at.is_multiple_of(u64::from(block));
                assert!(
                    at == end || block > PIECE_BYTES || ends_on_block,
                    "{offset} {at}"
                );
            }
            assert_eq!(at, end);
        }
    }
}
