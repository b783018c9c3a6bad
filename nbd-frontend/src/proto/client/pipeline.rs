//! Many requests in flight, without I/O and without an allocation a request: what load generators
//! and copies are made of.
//!
//! Requests are queued into one buffer, which the caller sends when it likes; what it receives it
//! puts into another one, and is told of each request that ended. So a batch costs one call of the
//! system each way, and nothing blocks here.

use super::super::request::{Cookie, Request, RequestKind};
use super::blocking::{ClientError, Refusal};
use super::reassembly::{Incoherent, Reassembly};
use super::reply::{BadReply, ReplyChunk, ReplyKind};
use super::{ClientHandshake, ClientNegotiated, ClientOptions, ClientProgress};

/// How many bytes are received at once.
const INBOX_BYTES: usize = 256 << 10;

type Outcome<T> = Result<T, ClientError>;

/// What became of a request.
#[derive(Debug)]
pub struct Ended<'a> {
    /// What [`Pipeline::queue`] returned for it: free again.
    pub slot: usize,
    /// The request.
    pub request: Request,
    /// The contents of a read, if contents are kept, and the payload of a block status; otherwise
    /// nothing but success or the error.
    pub result: Result<&'a [u8], Refusal>,
}

/// A request that is in flight, or a place for one.
#[derive(Debug)]
struct Slot {
    request: Request,
    in_flight: bool,
    data: Vec<u8>,
    /// Only of a reply in several pieces.
    reassembly: Option<Reassembly>,
    refusal: Option<Refusal>,
}

/// A payload of which some is still to come.
#[derive(Clone, Copy, Debug)]
struct Coming {
    slot: usize,
    chunk: ReplyChunk,
    /// How much came, in bytes.
    done: u32,
}

/// The client's end of a connection in transmission, with room for so many requests.
#[derive(Debug)]
pub struct Pipeline {
    negotiated: ClientNegotiated,
    slots: Vec<Slot>,
    free: Vec<usize>,
    serial: u64,
    keeps_contents: bool,
    /// Only `..queued` is in use; what is behind it was, and is overwritten.
    outbox: Vec<u8>,
    queued: usize,
    sent: usize,
    /// Received and not yet looked at: `start..end`.
    inbox: Vec<u8>,
    start: usize,
    end: usize,
    coming: Option<Coming>,
    /// The payload of an error, while it comes.
    details: Vec<u8>,
}

impl Pipeline {
    /// Room for `depth` requests in flight (at least one). Contents that are read are only looked
    /// at if they are kept: otherwise they are counted, and thrown away.
    #[must_use]
    pub fn new(negotiated: ClientNegotiated, depth: usize, keeps_contents: bool) -> Self {
        let depth = depth.max(1);
        let idle = Request {
            cookie: Cookie(0),
            offset: 0,
            kind: RequestKind::Flush,
        };
        let slots = (0..depth).map(|_| Slot {
            request: idle,
            in_flight: false,
            data: Vec::new(),
            reassembly: None,
            refusal: None,
        });
        Self {
            negotiated,
            slots: slots.collect(),
            free: (0..depth).rev().collect(),
            serial: 0,
            keeps_contents,
            outbox: Vec::new(),
            queued: 0,
            sent: 0,
            inbox: vec![0; INBOX_BYTES],
            start: 0,
            end: 0,
            coming: None,
            details: Vec::new(),
        }
    }

    /// Shakes hands over a blocking stream, and begins with what the server sent behind that.
    ///
    /// # Errors
    /// If the stream fails or the server refuses.
    pub fn connect(
        stream: &mut (impl std::io::Read + std::io::Write),
        options: ClientOptions,
        depth: usize,
        keeps_contents: bool,
    ) -> Outcome<Self> {
        let mut handshake = ClientHandshake::new(options);
        let mut received = Vec::new();
        let mut out = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let (used, progress) = handshake.receive(&received, &mut out);
            received.drain(..used.min(received.len()));
            stream.write_all(&out)?;
            stream.flush()?;
            out.clear();
            match progress {
                ClientProgress::NeedMore => {}
                ClientProgress::Failed(failure) => return Err(ClientError::Handshake(failure)),
                ClientProgress::Ready(_) if !received.is_empty() => {
                    // No request was made, so there is nothing that it could be.
                    let reason = "it was sent before any request";
                    return Err(BadReply::Inconsistent { reason }.into());
                }
                ClientProgress::Ready(negotiated) => {
                    return Ok(Self::new(negotiated, depth, keeps_contents));
                }
            }
            match stream.read(&mut piece) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(len) => received.extend_from_slice(piece.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What was agreed on with the server.
    #[must_use]
    pub const fn negotiated(&self) -> &ClientNegotiated {
        &self.negotiated
    }

    /// How many requests were queued and have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// How many requests there is room for.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Whether another request can be queued.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Queues a request, whose payload (of a write) `fill` writes; which slot it has, less than the
    /// depth, until it ends.
    ///
    /// # Errors
    /// `NothingInFlight` where there is no room, `Unsupported`, `LengthTooLong`; nothing was queued
    /// then. Disconnect has no place here, and block status only with a single metadata context:
    /// the payload of its one chunk is what comes of it.
    pub fn queue(
        &mut self,
        offset: u64,
        kind: RequestKind,
        fill: impl FnOnce(&mut [u8]),
    ) -> Outcome<usize> {
        let has_no_place = match kind {
            RequestKind::BlockStatus { .. } => self.negotiated.contexts.len() != 1,
            kind => kind == RequestKind::Disconnect,
        };
        if has_no_place || !self.negotiated.supports(kind) {
            return Err(ClientError::Unsupported(kind));
        }
        let Some(&index) = self.free.last() else {
            return Err(ClientError::NothingInFlight);
        };
        let request = Request {
            // A late second reply has another number than whoever is in the slot by then.
            cookie: Cookie(self.serial.wrapping_shl(32) | index as u64),
            offset,
            kind,
        };
        let mut header = [0; 32];
        let len = self
            .negotiated
            .encode_request(&mut header, &request)
            .map_err(ClientError::LengthTooLong)?;
        let payload_at = self.queued.saturating_add(len);
        let end = payload_at.saturating_add(usize_of(request.payload_len()));
        if self.outbox.len() < end {
            self.outbox.resize(end, 0);
        }
        if let Some(place) = self.outbox.get_mut(self.queued..payload_at) {
            place.copy_from_slice(header.get(..len).unwrap_or_default());
        }
        fill(self.outbox.get_mut(payload_at..end).unwrap_or_default());
        self.queued = end;
        self.serial = self.serial.wrapping_add(1);
        self.free.pop();
        if let Some(slot) = self.slots.get_mut(index) {
            slot.request = request;
            slot.in_flight = true;
            slot.reassembly = None;
            slot.refusal = None;
            slot.data.clear();
            if let (RequestKind::Read { len, .. }, true) = (kind, self.keeps_contents) {
                // Holes are not sent.
                slot.data.resize(usize_of(len), 0);
            }
        }
        Ok(index)
    }

    /// What is to be sent.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        self.outbox.get(self.sent..self.queued).unwrap_or_default()
    }

    /// Says that so many bytes of it were sent.
    pub fn sent(&mut self, len: usize) {
        self.sent = self.sent.saturating_add(len).min(self.queued);
        if self.sent == self.queued {
            self.sent = 0;
            self.queued = 0;
        }
    }

    /// Where to put what is received; never empty.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end > self.inbox.len() / 2 {
            // Less than a header is left.
            self.inbox.copy_within(self.start..self.end, 0);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
        }
        self.inbox.get_mut(self.end..).unwrap_or_default()
    }

    /// Takes so many bytes that were put into the room, and tells of each request that ended.
    ///
    /// # Errors
    /// If the server breaks the protocol; the connection is of no more use.
    pub fn received(&mut self, len: usize, mut each: impl FnMut(Ended<'_>)) -> Outcome<()> {
        self.end = self.end.saturating_add(len).min(self.inbox.len());
        loop {
            if self.coming.is_some() && !self.take_payload(&mut each)? {
                return Ok(());
            }
            let input = self.inbox.get(self.start..self.end).unwrap_or_default();
            let find = |cookie: Cookie| {
                let slot = self.slots.get(slot_of(cookie))?;
                (slot.in_flight && slot.request.cookie == cookie).then_some(slot.request)
            };
            let Some((chunk, used)) = self.negotiated.decode_reply(input, find)? else {
                return Ok(());
            };
            self.start = self.start.saturating_add(used);
            self.account(&chunk)?;
            self.details.clear();
            self.coming = Some(Coming {
                slot: slot_of(chunk.request.cookie),
                chunk,
                done: 0,
            });
        }
    }

    /// Holds a chunk against those before it.
    fn account(&mut self, chunk: &ReplyChunk) -> Outcome<()> {
        let Some(slot) = self.slots.get_mut(slot_of(chunk.request.cookie)) else {
            return Ok(());
        };
        if slot.reassembly.is_none() && chunk.done {
            // One chunk is the whole reply: of a read that is what most are.
            let is_complete = match (chunk.kind, chunk.request.kind) {
                (ReplyKind::Data { .. }, RequestKind::Read { len, .. }) => chunk.payload_len == len,
                (ReplyKind::Hole { len: hole, .. }, RequestKind::Read { len, .. }) => hole == len,
                (ReplyKind::Done, RequestKind::Read { len, .. }) => len == 0,
                _ => true,
            };
            return if is_complete {
                Ok(())
            } else {
                Err(ClientError::Incoherent(Incoherent::Incomplete))
            };
        }
        slot.reassembly
            .get_or_insert_with(|| Reassembly::new(&chunk.request))
            .chunk(chunk)
            .map_err(ClientError::Incoherent)
    }

    /// Takes what is there of the payload that is coming; whether that was the rest of it.
    fn take_payload(&mut self, each: &mut impl FnMut(Ended<'_>)) -> Outcome<bool> {
        let Some(mut coming) = self.coming else {
            return Ok(true);
        };
        let here = self.inbox.get(self.start..self.end).unwrap_or_default();
        let left = coming.chunk.payload_len.saturating_sub(coming.done);
        let here = here.get(..usize_of(left)).unwrap_or(here);
        let slot = self.slots.get_mut(coming.slot);
        let slot = slot.ok_or(ClientError::NothingInFlight)?;
        match coming.chunk.kind {
            ReplyKind::Data { offset } if self.keeps_contents => {
                let at = offset.saturating_sub(coming.chunk.request.offset);
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let at = at.saturating_add(usize_of(coming.done));
                // The decoder has checked that it lies within the request.
                let place = slot.data.get_mut(at..at.saturating_add(here.len()));
                let place = place.ok_or(ClientError::Incoherent(Incoherent::Overlap))?;
                place.copy_from_slice(here);
            }
            ReplyKind::Error { .. } => self.details.extend_from_slice(here),
            ReplyKind::BlockStatus => slot.data.extend_from_slice(here),
            _ => {}
        }
        let len = u32::try_from(here.len()).unwrap_or(left);
        self.start = self.start.saturating_add(here.len());
        coming.done = coming.done.saturating_add(len);
        if coming.done < coming.chunk.payload_len {
            self.coming = Some(coming);
            return Ok(false);
        }
        self.coming = None;
        if let ReplyKind::Error { errno, .. } = coming.chunk.kind {
            let (message, offset) = coming.chunk.error_details(&self.details);
            let message = String::from_utf8_lossy(message).into_owned();
            slot.refusal.get_or_insert(Refusal {
                errno,
                message,
                offset,
            });
        }
        if coming.chunk.done {
            slot.in_flight = false;
            let result = match slot.refusal.take() {
                Some(refusal) => Err(refusal),
                None => Ok(&*slot.data),
            };
            each(Ended {
                slot: coming.slot,
                request: slot.request,
                result,
            });
            self.free.push(coming.slot);
        }
        Ok(true)
    }
}

/// The lower half of a cookie of ours.
fn slot_of(cookie: Cookie) -> usize {
    usize::try_from(cookie.0 & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

/// A length of a request as this machine counts.
fn usize_of(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
