//! The transmission phase of one connection: the hot path. One thread, blocking, no task. Nothing
//! is queued: what workers do not take at once, the thread does itself.
//!
//! One call receives what is there, every whole request in it is executed inline, and one call
//! sends the replies. Payloads are written from the receive buffer and read into the send buffer.
//! On reads and writes there is no heap allocation, no system call but the device's, and no lock
//! but the one that is taken to send.
//!
//! - A payload longer than a piece is handled piece by piece, so memory does not depend on what
//!   clients ask for.
//! - A read's header is only added once its data is there: it can still become an error.
//! - Requests that need a flush wait for the end of the batch and share one.
//! - What would wait for a disk is handed to a worker, if one is free; its answer overtakes others
//!   or is overtaken ("The server MAY reply to requests in any order").
//! - Between requests, and between the pieces of a long one, it ends if the connection was cut.

#[cfg(test)]
mod alloc_free;
mod answers;
mod block_status;
mod deferred;
mod holes;
mod job;
mod pace;
mod read;
mod write;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use usnap_engine::device::{Attempt, Extent};

use self::answers::Answers;
use self::deferred::Deferred;
use self::job::Work;
use self::pace::{LOOK, Pace};
use self::read::Patience;
use super::backlog::Pending;
use super::connection::Connection;
use super::limits::PIECE_BYTES;
use super::receiver::Receiver;
use super::sender::Sender;
use super::shared::Shared;
use crate::proto::{Cookie, Decoded, Errno, Fatal, Negotiated, Request, RequestKind};

pub(super) use self::job::Job;

/// Why transmission ended.
#[derive(Debug)]
pub(super) enum End {
    /// Sending or receiving failed: the client is gone.
    Broken(io::Error),
    /// The client closed between two requests, without saying so before.
    Closed,
    /// Nobody is there to be answered, or the server's end does not wait any longer.
    Cut,
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
            Self::Cut => f.write_str("it was cut, or the client is gone"),
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
    connection: &'a Arc<Connection>,
    negotiated: &'a Negotiated,
    receiver: Receiver,
    answers: Answers<'a>,
    deferred: Deferred,
    /// Kept from one block status to the next, so that they seldom allocate.
    extents: Vec<Extent>,
    status: Vec<u8>,
    pace: Pace,
    /// The server, or its export, was ending when the requests in the buffer came in.
    closing: bool,
}

impl<'a> Transmission<'a> {
    /// `early` is what the client sent right behind the handshake.
    ///
    /// # Errors
    /// `TooEarly` if that is too much.
    pub(super) fn new(
        shared: &'a Shared,
        connection: &'a Arc<Connection>,
        negotiated: &'a Negotiated,
        sender: &'a mut Sender,
        early: &[u8],
    ) -> Result<Self, End> {
        Ok(Self {
            shared,
            connection,
            negotiated,
            receiver: Receiver::new(early).ok_or(End::TooEarly)?,
            answers: Answers::new(connection, sender),
            deferred: Deferred::new(),
            extents: Vec::new(),
            status: Vec::new(),
            pace: Pace::default(),
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
        if !matches!(end, End::Broken(_) | End::Cut | End::ReadFailed) {
            drop(self.answer());
        }
        self.connection.backlog.wait_until_empty();
        self.connection.counters.add(&mut self.answers.tally);
        end
    }

    /// Executes every whole request that was received, answers, waits for more.
    fn serve_batch(&mut self) -> Result<(), End> {
        let header_len = self.negotiated.header_len();
        let mut count = 0;
        while let Some(header) = self.receiver.buffered().get(..header_len) {
            self.answers.check_cut()?;
            let decoded = self.negotiated.decode_request(header)?;
            self.receiver.consume(header_len);
            count += 1;
            match decoded {
                Decoded::Request(request) if self.closing => self.refuse_late(&request)?,
                Decoded::Request(request) => self.execute(&request)?,
                Decoded::Refused(refused) => {
                    self.drain(refused.payload_len)?;
                    let id = (refused.cookie, refused.offset);
                    self.answers.fail(id, refused.errno, refused.message);
                }
            }
            self.answers.make_room()?;
        }
        self.answer()?;
        self.receive(count)
    }

    fn execute(&mut self, request: &Request) -> Result<(), End> {
        match request.kind {
            RequestKind::Read { len, dont_fragment } => {
                let patience = Patience::None;
                match self.answers.read(request, len, dont_fragment, patience)? {
                    Attempt::Done => Ok(()),
                    Attempt::WouldBlock => self.hand_over(Work::Read(*request)),
                }
            }
            RequestKind::Write { len, fua } => self.write(request, len, fua),
            RequestKind::Flush => self.succeed_after_flush(request),
            RequestKind::Trim { len, fua } => self.trim(request, len, fua),
            RequestKind::WriteZeroes {
                len,
                fua,
                no_hole,
                fast_zero,
            } => self.write_zeroes(request, len, fua, no_hole, fast_zero),
            RequestKind::Cache { .. } => self.hand_over(Work::Read(*request)),
            RequestKind::BlockStatus { len, req_one } => self.block_status(request, len, req_one),
            RequestKind::Disconnect => Err(End::Disconnected),
        }
    }

    /// Has a worker do it, or does it if none is free.
    #[cold]
    fn hand_over(&mut self, work: Work) -> Result<(), End> {
        let pending = Pending::new(self.connection);
        match self.shared.workers.submit(Job { pending, work }) {
            Ok(()) => Ok(()),
            Err(job) => {
                // It may take long, and nobody should wait for it who has an answer already.
                self.answers.send()?;
                self.answers.perform(&job.work)
            }
        }
    }

    /// Answers a request that came when the server, or the export, was ending already.
    ///
    /// "The error value issued in respect of these requests and any subsequently received requests
    /// SHOULD be `NBD_ESHUTDOWN`" (proto.md, "Terminating the transmission phase").
    #[cold]
    fn refuse_late(&mut self, request: &Request) -> Result<(), End> {
        if request.kind == RequestKind::Disconnect {
            return Err(End::Disconnected);
        }
        self.drain(u64::from(request.payload_len()))?;
        let message = if self.shared.shutdown.is_closing() {
            "the server is shutting down"
        } else {
            "the export was removed"
        };
        self.answers.fail(id_of(request), Errno::Shutdown, message);
        Ok(())
    }

    /// Sends all answers that are owed.
    fn answer(&mut self) -> Result<(), End> {
        self.settle()?;
        self.answers.send()?;
        Ok(())
    }

    /// Waits for more requests, between two of them or in the middle of a header.
    fn receive(&mut self, last_batch: u32) -> Result<(), End> {
        let channel = &self.connection.channel;
        let between_requests = self.receiver.buffered().is_empty();
        if between_requests {
            channel.set_waiting(true);
            if self.is_closing() {
                channel.end_input();
            }
        }
        let mut count = None;
        if self.pace.batch(last_batch) {
            count = self.receiver.receive_soon(channel, LOOK)?;
            self.pace.looked(count.is_some());
        }
        let count = match count {
            Some(count) => count,
            None => self.receiver.receive(channel)?,
        };
        if between_requests {
            channel.set_waiting(false);
        }
        self.closing = self.is_closing();
        match count {
            0 if between_requests => Err(End::Closed),
            0 => Err(End::Truncated),
            _ => Ok(()),
        }
    }

    /// Whether what arrives from now on is refused.
    fn is_closing(&self) -> bool {
        self.shared.shutdown.is_closing() || self.connection.closing.is_begun()
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
        self.answers.succeed(request);
        Ok(())
    }

    /// Sees to the flush that some requests wait for, if any do.
    fn settle(&mut self) -> Result<(), End> {
        if self.deferred.is_empty() {
            return Ok(());
        }
        if self.connection.slow_flush.load(Ordering::Relaxed) {
            let deferred = std::mem::replace(&mut self.deferred, Deferred::new());
            return self.hand_over(Work::Flush(deferred));
        }
        self.answers.settle(&self.deferred)?;
        self.deferred.clear();
        Ok(())
    }
}

/// What a reply says of the request it answers.
#[inline]
fn id_of(request: &Request) -> (Cookie, u64) {
    (request.cookie, request.offset)
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
