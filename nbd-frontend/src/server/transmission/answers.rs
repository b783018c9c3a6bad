//! The answers of one thread to a connection's requests: encoded, counted, logged, sent. The
//! connection's own thread has one for all requests, a worker one for each.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::deferred::Deferred;
use super::{End, id_of};
use crate::proto::{
    Cookie, Errno, MAX_ERROR_REPLY, MAX_REPLY_HEADER, Replies, ReplyStyle, Request, RequestKind,
};
use crate::server::connection::Connection;
use crate::server::counters::Tally;
use crate::server::errno::errno_of;
use crate::server::limits::{LOGGED_ERRORS, SLOW_FLUSH};
use crate::server::sender::Sender;

/// Answers that were not yet sent, and what it takes to make more.
pub(super) struct Answers<'a> {
    pub(super) connection: &'a Connection,
    pub(super) sender: &'a mut Sender,
    pub(super) tally: Tally,
}

impl<'a> Answers<'a> {
    pub(super) fn new(connection: &'a Connection, sender: &'a mut Sender) -> Self {
        Self {
            connection,
            sender,
            tally: Tally::default(),
        }
    }

    #[inline]
    pub(super) fn replies(&self) -> Replies {
        self.connection.replies
    }

    /// Ends the transmission between two pieces of work if the connection was cut.
    #[inline]
    pub(super) fn check_cut(&self) -> Result<(), End> {
        if self.connection.channel.is_over() {
            return Err(End::Cut);
        }
        Ok(())
    }

    /// Does so also if the client is gone: for long work that only an answer is the purpose of.
    /// What a client asked to be changed before it went is changed.
    #[cold]
    pub(super) fn check_wanted(&self) -> Result<(), End> {
        if self.connection.channel.is_abandoned() {
            return Err(End::Cut);
        }
        Ok(())
    }

    /// Sends them all.
    pub(super) fn send(&mut self) -> io::Result<()> {
        // Counted first: who has an answer finds its request counted.
        self.connection.counters.add(&mut self.tally);
        self.sender.send(&self.connection.channel)
    }

    /// Sends them if there are so many that it is time.
    #[inline]
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        if self.sender.is_full() {
            self.send()?;
        }
        Ok(())
    }

    /// Answers with success.
    #[inline]
    pub(super) fn succeed(&mut self, request: &Request) {
        let mut buf = [0; MAX_REPLY_HEADER];
        // "MAY use either a simple reply or a structured reply to all other requests" (proto.md,
        // "Structured reply chunk message"); clients receive the shorter one in fewer calls.
        let replies = match (self.replies().style(), request.kind) {
            (ReplyStyle::Structured, RequestKind::Read { .. }) => self.replies(),
            (ReplyStyle::Structured, _) => Replies::new(ReplyStyle::Simple),
            _ => self.replies(),
        };
        let len = replies.done(&mut buf, request.cookie, request.offset);
        self.add(&buf[..len]);
    }

    /// Answers the request with that cookie and offset with an error.
    #[cold]
    pub(super) fn fail(&mut self, (cookie, offset): (Cookie, u64), errno: Errno, message: &str) {
        let mut buf = [0; MAX_ERROR_REPLY];
        let replies = self.replies();
        let len = replies.error(&mut buf, cookie, offset, errno, message);
        self.tally.errors += 1;
        self.add(&buf[..len]);
    }

    /// Answers with the device's error.
    #[cold]
    pub(super) fn fail_with(&mut self, request: &Request, error: &usnap_engine::Error) {
        let (errno, message) = self.judge(request, error);
        self.fail(id_of(request), errno, message);
    }

    /// Answers a read that failed at `offset`; what was added before it holds.
    #[cold]
    pub(super) fn fail_at(&mut self, request: &Request, offset: u64, error: &usnap_engine::Error) {
        let (errno, message) = self.judge(request, error);
        let mut buf = [0; MAX_ERROR_REPLY];
        let (cookie, start) = (request.cookie, request.offset);
        let replies = self.replies();
        let len = replies.error_at(&mut buf, cookie, start, errno, message, offset);
        self.tally.errors += 1;
        self.add(&buf[..len]);
    }

    /// Logs a device's error and says what it is on the wire.
    #[cold]
    pub(super) fn judge(
        &self,
        request: &Request,
        error: &usnap_engine::Error,
    ) -> (Errno, &'static str) {
        let fast = matches!(
            request.kind,
            RequestKind::WriteZeroes {
                fast_zero: true,
                ..
            }
        );
        let (errno, message) = errno_of(error.kind(), fast);
        let id = self.connection.id;
        if errno == Errno::NoSpc {
            self.connection.notices.no_space(error);
        }
        let logged = &self.connection.logged_errors;
        if errno == Errno::Io && logged.load(Ordering::Relaxed) < LOGGED_ERRORS {
            let count = logged.fetch_add(1, Ordering::Relaxed) + 1;
            let rest = if count == LOGGED_ERRORS {
                ", not logging more"
            } else {
                ""
            };
            tracing::warn!(connection = id, ?error, "answering with an I/O error{rest}");
        } else {
            tracing::debug!(connection = id, ?error, %errno, "answering with an error");
        }
        (errno, message)
    }

    /// Flushes the device once for all requests that wait for it, and answers them.
    pub(super) fn settle(&mut self, deferred: &Deferred) -> io::Result<()> {
        self.make_room()?;
        let begin = Instant::now();
        let result = self.connection.device.flush();
        let slow = begin.elapsed() > SLOW_FLUSH;
        self.connection.slow_flush.store(slow, Ordering::Relaxed);
        let failed = result.err().zip(deferred.first());
        let judged = failed.map(|(error, first)| self.judge(first, &error));
        for request in deferred.iter() {
            match judged {
                None => self.succeed(request),
                Some((errno, message)) => self.fail(id_of(request), errno, message),
            }
        }
        Ok(())
    }

    /// Adds a whole reply.
    #[inline]
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.sender.room()[..bytes.len()].copy_from_slice(bytes);
        self.sender.commit(bytes.len());
        self.tally.requests += 1;
    }
}
