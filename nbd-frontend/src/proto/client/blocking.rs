//! A blocking client over any stream, for tools and tests: one call, one request, or several in
//! flight with [`Client::submit`] and [`Client::reap`].
//!
//! It checks that the server advertised what is asked for, reassembles reads, and holds every reply
//! against its request. The stream may be a socket, a pipe pair or a buffer.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};

use super::super::errno::Errno;
use super::super::request::{Cookie, Request, RequestKind};
use super::reassembly::{Incoherent, Reassembly};
use super::reply::{BadReply, Extent, ReplyChunk, ReplyKind, block_status_extents};
use super::{ClientHandshake, ClientNegotiated, ClientOptions, ClientProgress};

pub use super::error::{ClientError, Refusal};

/// Bytes taken from the stream at once; larger payloads go straight to their place.
const INBOX_BYTES: usize = 64 << 10;
/// Payloads up to this size are sent together with their header.
const GATHERED_BYTES: usize = 64 << 10;

type Outcome<T> = Result<T, ClientError>;

/// The end of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Completion {
    /// What [`Client::submit`] returned for it.
    pub cookie: Cookie,
    /// What came of it.
    pub result: Result<Answer, Refusal>,
}

/// What a request brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Nothing but success.
    Done,
    /// The contents that were read.
    Data(Vec<u8>),
    /// Id and extents of each metadata context.
    Status(Vec<(u32, Vec<Extent>)>),
}

/// A request that was sent, and what has come back of it.
#[derive(Debug)]
struct InFlight {
    request: Request,
    data: Vec<u8>,
    reassembly: Reassembly,
    status: Vec<(u32, Vec<Extent>)>,
    refusal: Option<Refusal>,
}

/// A client of one export.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    negotiated: ClientNegotiated,
    inbox: Inbox,
    outbox: Vec<u8>,
    next_cookie: u64,
    in_flight: HashMap<Cookie, InFlight>,
    /// Ends of submitted requests that came while another was waited for.
    finished: VecDeque<Completion>,
    /// Nothing may be sent any more.
    closed: bool,
}

impl<S: Read + Write> Client<S> {
    /// Shakes hands over `stream` and chooses an export.
    ///
    /// # Errors
    /// If the stream fails or the server refuses.
    pub fn connect(mut stream: S, options: ClientOptions) -> Outcome<Self> {
        let mut handshake = ClientHandshake::new(options);
        let mut inbox = Inbox::default();
        let mut outbox = Vec::new();
        loop {
            let (used, progress) = handshake.receive(inbox.bytes(), &mut outbox);
            inbox.consume(used);
            stream.write_all(&outbox)?;
            stream.flush()?;
            outbox.clear();
            match progress {
                ClientProgress::NeedMore => inbox.fill(&mut stream)?,
                ClientProgress::Failed(failure) => return Err(ClientError::Handshake(failure)),
                ClientProgress::Ready(negotiated) => {
                    return Ok(Self {
                        stream,
                        negotiated,
                        inbox,
                        outbox,
                        next_cookie: 1,
                        in_flight: HashMap::new(),
                        finished: VecDeque::new(),
                        closed: false,
                    });
                }
            }
        }
    }

    /// Fills `buf` from `offset` on, in as many requests as its size needs.
    ///
    /// # Errors
    /// If the server refuses, or the connection fails.
    pub fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Outcome<()> {
        let mut offset = offset;
        for part in buf.chunks_mut(self.max_request_bytes()) {
            let kind = RequestKind::Read {
                len: small(part.len()),
                dont_fragment: false,
            };
            match self.call(offset, kind, &[])? {
                Answer::Data(data) if data.len() == part.len() => part.copy_from_slice(&data),
                _ => return Err(ClientError::Incoherent(Incoherent::Incomplete)),
            }
            offset = offset.saturating_add(u64::from(small(part.len())));
        }
        Ok(())
    }

    /// Stores `data` from `offset` on, in as many requests as its size needs; with `fua` it is
    /// durable when this returns.
    ///
    /// # Errors
    /// If the server refuses, or the connection fails.
    pub fn write_at(&mut self, data: &[u8], offset: u64, fua: bool) -> Outcome<()> {
        let mut offset = offset;
        for part in data.chunks(self.max_request_bytes()) {
            self.call(
                offset,
                RequestKind::Write {
                    len: small(part.len()),
                    fua,
                },
                part,
            )?;
            offset = offset.saturating_add(u64::from(small(part.len())));
        }
        Ok(())
    }

    /// Makes everything durable that was written before.
    ///
    /// # Errors
    /// If the server refuses, or the connection fails.
    pub fn flush(&mut self) -> Outcome<()> {
        self.call(0, RequestKind::Flush, &[]).map(drop)
    }

    /// Tells the server that the range is no longer needed.
    ///
    /// # Errors
    /// If the server refuses, or the connection fails.
    pub fn trim(&mut self, offset: u64, len: u64, fua: bool) -> Outcome<()> {
        self.call(offset, RequestKind::Trim { len, fua }, &[])
            .map(drop)
    }

    /// Makes the range read as zeroes.
    ///
    /// # Errors
    /// If the server refuses (with `fast_zero` also because it would not be fast), or the
    /// connection fails.
    pub fn write_zeroes(&mut self, offset: u64, len: u64, how: Zeroing) -> Outcome<()> {
        let Zeroing {
            fua,
            no_hole,
            fast_zero,
        } = how;
        let kind = RequestKind::WriteZeroes {
            len,
            fua,
            no_hole,
            fast_zero,
        };
        self.call(offset, kind, &[]).map(drop)
    }

    /// Tells the server that the range will be read soon.
    ///
    /// # Errors
    /// If the server refuses, or the connection fails.
    pub fn cache(&mut self, offset: u64, len: u64) -> Outcome<()> {
        self.call(offset, RequestKind::Cache { len }, &[]).map(drop)
    }

    /// The extents of each selected context from `offset` on, with the context's id; they may cover
    /// less than `len` bytes.
    ///
    /// # Errors
    /// If no context was selected, the server refuses, or the connection fails.
    pub fn block_status(
        &mut self,
        offset: u64,
        len: u64,
        req_one: bool,
    ) -> Outcome<Vec<(u32, Vec<Extent>)>> {
        match self.call(offset, RequestKind::BlockStatus { len, req_one }, &[])? {
            Answer::Status(status) => Ok(status),
            Answer::Done | Answer::Data(_) => Ok(Vec::new()),
        }
    }

    /// Says goodbye and gives back the stream. Requests in flight are carried out, but their
    /// replies are lost.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn disconnect(mut self) -> Outcome<S> {
        self.send_disconnect()?;
        Ok(self.stream)
    }

    /// Sends a request without waiting for the reply; `payload` is what a write stores.
    ///
    /// Replies are only received by [`Self::reap`]: if many are in flight, the server may stop
    /// receiving before its replies are.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn submit(&mut self, offset: u64, kind: RequestKind, payload: &[u8]) -> Outcome<Cookie> {
        if self.closed {
            return Err(ClientError::Closed);
        }
        if !self.negotiated.supports(kind) {
            return Err(ClientError::Unsupported(kind));
        }
        let cookie = Cookie(self.next_cookie);
        let request = Request {
            cookie,
            offset,
            kind,
        };
        if usize::try_from(request.payload_len()) != Ok(payload.len()) {
            return Err(ClientError::WrongPayload);
        }
        self.send(&request, payload)?;
        self.next_cookie = self.next_cookie.wrapping_add(1);
        let data = match kind {
            RequestKind::Read { len, .. } => vec![0; big(len)],
            _ => Vec::new(),
        };
        let reassembly = Reassembly::new(&request);
        let in_flight = InFlight {
            request,
            data,
            reassembly,
            status: Vec::new(),
            refusal: None,
        };
        self.in_flight.insert(cookie, in_flight);
        Ok(cookie)
    }

    /// Waits for the end of any request in flight.
    ///
    /// # Errors
    /// If there is none, or the connection fails.
    pub fn reap(&mut self) -> Outcome<Completion> {
        match self.finished.pop_front() {
            Some(completion) => Ok(completion),
            None => self.next_completion(),
        }
    }

    /// What was agreed on with the server.
    #[must_use]
    pub const fn negotiated(&self) -> &ClientNegotiated {
        &self.negotiated
    }

    /// How many requests were submitted and not yet reaped.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len().saturating_add(self.finished.len())
    }

    /// Sends one request and waits for its end.
    fn call(&mut self, offset: u64, kind: RequestKind, payload: &[u8]) -> Outcome<Answer> {
        let cookie = self.submit(offset, kind, payload)?;
        loop {
            let completion = self.next_completion()?;
            if completion.cookie == cookie {
                return completion.result.map_err(ClientError::Refused);
            }
            self.finished.push_back(completion);
        }
    }

    fn next_completion(&mut self) -> Outcome<Completion> {
        loop {
            if self.in_flight.is_empty() {
                return Err(ClientError::NothingInFlight);
            }
            let received = self.receive();
            if received.is_err() {
                self.closed = true;
                self.in_flight.clear();
            }
            if let Some(completion) = received? {
                return Ok(completion);
            }
        }
    }

    fn send(&mut self, request: &Request, payload: &[u8]) -> Outcome<()> {
        let mut header = [0; 32];
        let len = self
            .negotiated
            .encode_request(&mut header, request)
            .map_err(ClientError::LengthTooLong)?;
        self.outbox.clear();
        self.outbox
            .extend_from_slice(header.get(..len).unwrap_or_default());
        let (gathered, rest) = if payload.len() <= GATHERED_BYTES {
            (payload, &[][..])
        } else {
            (&[][..], payload)
        };
        self.outbox.extend_from_slice(gathered);
        let sent = self
            .stream
            .write_all(&self.outbox)
            .and_then(|()| self.stream.write_all(rest))
            .and_then(|()| self.stream.flush());
        if sent.is_err() {
            // Half a request may be out.
            self.closed = true;
        }
        Ok(sent?)
    }

    fn send_disconnect(&mut self) -> Outcome<()> {
        if self.closed {
            return Ok(());
        }
        let kind = RequestKind::Disconnect;
        let goodbye = Request {
            cookie: Cookie(self.next_cookie),
            offset: 0,
            kind,
        };
        self.send(&goodbye, &[])?;
        // "A client MUST NOT send anything to the server after sending an `NBD_CMD_DISC` command".
        self.closed = true;
        Ok(())
    }

    /// Receives one chunk; returns the completion if it was the last of its request.
    fn receive(&mut self) -> Outcome<Option<Completion>> {
        let (chunk, used) = loop {
            let find = |cookie| self.in_flight.get(&cookie).map(|it| it.request);
            match self.negotiated.decode_reply(self.inbox.bytes(), find)? {
                Some(found) => break found,
                None => self.inbox.fill(&mut self.stream)?,
            }
        };
        self.inbox.consume(used);
        self.payload(&chunk)?;
        if !chunk.done {
            return Ok(None);
        }
        let cookie = chunk.request.cookie;
        let finished = self
            .in_flight
            .remove(&cookie)
            .ok_or(BadReply::UnknownCookie { cookie })?;
        let result = match (finished.refusal, finished.request.kind) {
            (Some(refusal), _) => Err(refusal),
            (None, RequestKind::Read { .. }) => Ok(Answer::Data(finished.data)),
            (None, RequestKind::BlockStatus { .. }) => {
                if finished.status.len() != self.negotiated.contexts.len() {
                    // "A successful block status request MUST have exactly one status chunk per
                    // negotiated metadata context ID".
                    let reason = "a block status lacks a metadata context";
                    return Err(BadReply::Inconsistent { reason }.into());
                }
                Ok(Answer::Status(finished.status))
            }
            (None, _) => Ok(Answer::Done),
        };
        if matches!(
            &result,
            Err(Refusal {
                errno: Errno::Shutdown,
                ..
            })
        ) {
            // "If the client receives an `NBD_ESHUTDOWN` error it MUST initiate a soft disconnect".
            self.send_disconnect()?;
        }
        Ok(Some(Completion { cookie, result }))
    }

    /// Receives what follows the header of `chunk`.
    fn payload(&mut self, chunk: &ReplyChunk) -> Outcome<()> {
        let cookie = chunk.request.cookie;
        let in_flight = self
            .in_flight
            .get_mut(&cookie)
            .ok_or(BadReply::UnknownCookie { cookie })?;
        in_flight
            .reassembly
            .chunk(chunk)
            .map_err(ClientError::Incoherent)?;
        let len = big(chunk.payload_len);
        match chunk.kind {
            ReplyKind::Done => {}
            // The buffer is zeroed, and no byte is described twice.
            ReplyKind::Hole { .. } => {}
            ReplyKind::Data { offset } => {
                // The decoder has checked that it lies within the request.
                let at = usize::try_from(offset.saturating_sub(chunk.request.offset)).ok();
                let place = at
                    .and_then(|at| in_flight.data.get_mut(at..)?.get_mut(..len))
                    .ok_or(ClientError::Incoherent(Incoherent::Overlap))?;
                self.inbox.read_exact(&mut self.stream, place)?;
            }
            ReplyKind::BlockStatus => {
                let mut payload = vec![0; len];
                self.inbox.read_exact(&mut self.stream, &mut payload)?;
                let style = self.negotiated.reply_style;
                let (id, extents) = block_status_extents(style, &chunk.request, &payload)?;
                let known = self
                    .negotiated
                    .contexts
                    .iter()
                    .any(|&(its_id, _)| its_id == id);
                if !known || in_flight.status.iter().any(|&(its_id, _)| its_id == id) {
                    let reason = "a block status has a metadata context twice or a foreign one";
                    return Err(BadReply::Inconsistent { reason }.into());
                }
                in_flight.status.push((id, extents));
            }
            ReplyKind::Error { errno, .. } => {
                let mut payload = vec![0; len];
                self.inbox.read_exact(&mut self.stream, &mut payload)?;
                let (message, offset) = chunk.error_details(&payload);
                let message = String::from_utf8_lossy(message).into_owned();
                // The first error is what went wrong; later ones add nothing for the caller.
                in_flight.refusal.get_or_insert(Refusal {
                    errno,
                    message,
                    offset,
                });
            }
        }
        Ok(())
    }

    fn max_request_bytes(&self) -> usize {
        // Reads and writes beyond 32 MiB gain nothing.
        big(self.negotiated.max_payload_bytes().clamp(1, 32 << 20))
    }
}

/// How to write zeroes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Zeroing {
    /// Durable when the call returns.
    pub fua: bool,
    /// Keep the space allocated.
    pub no_hole: bool,
    /// Fail at once unless it is faster than writing.
    pub fast_zero: bool,
}

/// Bytes received and not yet used.
#[derive(Debug, Default)]
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    const fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len);
    }

    /// Receives more, at least one byte.
    fn fill(&mut self, stream: &mut impl Read) -> io::Result<()> {
        self.bytes.drain(..self.start.min(self.bytes.len()));
        self.start = 0;
        let have = self.bytes.len();
        // What is kept is less than one message, whose length the protocol bounds.
        self.bytes.resize(have.saturating_add(INBOX_BYTES), 0);
        let room = self.bytes.get_mut(have..).unwrap_or_default();
        let read = loop {
            match stream.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.bytes
            .truncate(have.saturating_add(*read.as_ref().unwrap_or(&0)));
        match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Fills `place`, first with what is here.
    fn read_exact(&mut self, stream: &mut impl Read, place: &mut [u8]) -> io::Result<()> {
        let here = self.bytes();
        let len = here.len().min(place.len());
        let (from_here, from_stream) = place.split_at_mut(len);
        from_here.copy_from_slice(here.get(..len).unwrap_or_default());
        self.consume(len);
        stream.read_exact(from_stream)
    }
}

/// A length of at most 32 MiB as a request carries it.
fn small(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A length of a request as this machine counts.
fn big(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
