//! Replies as a client reads them: headers, held against the request they answer.

use core::fmt;

use super::super::consts::{
    EXTENDED_REPLY_MAGIC, REPLY_FLAG_DONE, REPLY_TYPE_BLOCK_STATUS, REPLY_TYPE_BLOCK_STATUS_EXT,
    REPLY_TYPE_ERROR, REPLY_TYPE_ERROR_BIT, REPLY_TYPE_ERROR_OFFSET, REPLY_TYPE_NONE,
    REPLY_TYPE_OFFSET_DATA, REPLY_TYPE_OFFSET_HOLE, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use super::super::errno::Errno;
use super::super::request::{Cookie, Request, RequestKind};
use super::super::session::ReplyStyle;
use super::super::wire::Get;
use super::ClientNegotiated;

/// "Servers SHOULD NOT send more than 2^20 extents in a single reply chunk".
const MAX_EXTENTS: u64 = 1 << 20;
/// The longest error chunk that is taken: the longest message and a few numbers, with room.
const MAX_ERROR_BYTES: u64 = 8 << 10;

/// The header of a reply, of which `payload_len` bytes are still to come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReplyChunk {
    /// The request it answers.
    pub request: Request,
    /// Whether it ends the reply; then the cookie is free.
    pub done: bool,
    /// What it says.
    pub kind: ReplyKind,
    /// Bytes that follow the header, and belong to it.
    pub payload_len: u32,
}

/// What a reply says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyKind {
    /// Nothing (more): success, unless an error came before.
    Done,
    /// The payload is the contents at that offset.
    Data {
        /// Offset in the export, in bytes.
        offset: u64,
    },
    /// There are zeroes.
    Hole {
        /// Offset in the export, in bytes.
        offset: u64,
        /// How many, in bytes.
        len: u32,
    },
    /// The payload is for [`block_status_extents`].
    BlockStatus,
    /// The request failed; the payload is for [`ReplyChunk::error_details`].
    Error {
        /// The error.
        errno: Errno,
        /// How much of the payload is the message, in bytes.
        message_len: u16,
        /// Whether the offset of the error follows the message.
        has_offset: bool,
    },
}

impl ReplyChunk {
    /// The message and the offset in the payload of an error.
    #[must_use]
    pub fn error_details<'a>(&self, payload: &'a [u8]) -> (&'a [u8], Option<u64>) {
        let ReplyKind::Error {
            message_len,
            has_offset,
            ..
        } = self.kind
        else {
            return (&[], None);
        };
        let mut get = Get::new(payload);
        let message = get.bytes(message_len.into()).unwrap_or_default();
        (message, if has_offset { get.u64() } else { None })
    }
}

/// What is wrong with a reply; the connection has to be dropped, because nothing after it can be
/// trusted to be what it looks like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum BadReply {
    /// The type or the contents do not belong to the request or to what was negotiated.
    Inconsistent {
        /// What is wrong.
        reason: &'static str,
    },
    /// It begins with a number that is no magic here.
    Magic {
        /// The number.
        found: u32,
    },
    /// Its payload is longer than any sensible one.
    TooLong {
        /// The length in bytes.
        len: u64,
    },
    /// No request in flight has that cookie.
    UnknownCookie {
        /// The cookie.
        cookie: Cookie,
    },
}

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inconsistent { reason } => write!(f, "reply is inconsistent: {reason}"),
            Self::Magic { found } => write!(f, "reply begins with {found:#010x}, not a magic"),
            Self::TooLong { len } => write!(f, "reply has a payload of {len} bytes"),
            Self::UnknownCookie { cookie } => {
                write!(f, "reply to a request that was not made ({:#x})", cookie.0)
            }
        }
    }
}

impl core::error::Error for BadReply {}

type Outcome<T> = Result<T, BadReply>;

const fn inconsistent(reason: &'static str) -> BadReply {
    BadReply::Inconsistent { reason }
}

impl ClientNegotiated {
    /// Reads the header of a reply from the front of `input`: `None` if it is not whole, else the
    /// chunk and how many bytes the header takes. Its payload follows.
    ///
    /// `in_flight` finds the request with a cookie, as long as no reply with `done` came for it.
    ///
    /// # Errors
    /// If the server breaks the protocol; drop the connection.
    pub fn decode_reply(
        &self,
        input: &[u8],
        in_flight: impl FnOnce(Cookie) -> Option<Request>,
    ) -> Result<Option<(ReplyChunk, usize)>, BadReply> {
        let mut get = Get::new(input);
        let Some(magic) = get.u32() else {
            return Ok(None);
        };
        let chunk = match (magic, self.reply_style) {
            (SIMPLE_REPLY_MAGIC, ReplyStyle::Simple | ReplyStyle::Structured) => {
                self.simple(&mut get, in_flight)?
            }
            (STRUCTURED_REPLY_MAGIC, ReplyStyle::Structured)
            | (EXTENDED_REPLY_MAGIC, ReplyStyle::Extended) => self.chunk(&mut get, in_flight)?,
            (found, _) => return Err(BadReply::Magic { found }),
        };
        Ok(chunk.map(|chunk| (chunk, input.len().saturating_sub(get.rest().len()))))
    }

    fn simple(
        &self,
        get: &mut Get<'_>,
        in_flight: impl FnOnce(Cookie) -> Option<Request>,
    ) -> Outcome<Option<ReplyChunk>> {
        let (Some(error), Some(cookie)) = (get.u32(), get.u64()) else {
            return Ok(None);
        };
        let cookie = Cookie(cookie);
        let request = in_flight(cookie).ok_or(BadReply::UnknownCookie { cookie })?;
        if self.reply_style == ReplyStyle::Structured {
            // "MUST NOT use a simple reply for `NBD_CMD_READ`", nor for any reply with a payload.
            match request.kind {
                RequestKind::Read { .. } => return Err(inconsistent("a simple reply to a read")),
                RequestKind::BlockStatus { .. } if error == 0 => {
                    return Err(inconsistent("a simple reply to a block status"));
                }
                _ => {}
            }
        }
        let (kind, payload_len) = match (error, request.kind) {
            (0, RequestKind::Read { len, .. }) if len > 0 => (
                ReplyKind::Data {
                    offset: request.offset,
                },
                len,
            ),
            (0, _) => (ReplyKind::Done, 0),
            (code, _) => {
                let errno = Errno::from_code(code);
                (
                    ReplyKind::Error {
                        errno,
                        message_len: 0,
                        has_offset: false,
                    },
                    0,
                )
            }
        };
        Ok(Some(ReplyChunk {
            request,
            done: true,
            kind,
            payload_len,
        }))
    }

    fn chunk(
        &self,
        get: &mut Get<'_>,
        in_flight: impl FnOnce(Cookie) -> Option<Request>,
    ) -> Outcome<Option<ReplyChunk>> {
        let (Some(flags), Some(chunk_type), Some(cookie)) = (get.u16(), get.u16(), get.u64())
        else {
            return Ok(None);
        };
        let extended = self.reply_style == ReplyStyle::Extended;
        let (offset, len) = if extended {
            (get.u64(), get.u64())
        } else {
            (None, get.u32().map(u64::from))
        };
        let Some(len) = len else { return Ok(None) };
        let cookie = Cookie(cookie);
        let request = in_flight(cookie).ok_or(BadReply::UnknownCookie { cookie })?;
        if offset.is_some_and(|offset| offset != request.offset) {
            return Err(inconsistent("it does not echo the offset of the request"));
        }
        let done = flags & REPLY_FLAG_DONE != 0;
        let Some((kind, payload_len)) = self.body(chunk_type, done, len, request, get)? else {
            return Ok(None);
        };
        Ok(Some(ReplyChunk {
            request,
            done,
            kind,
            payload_len,
        }))
    }

    /// Reads the fixed part of a chunk's payload; what is left of it is the payload to come.
    fn body(
        &self,
        chunk_type: u16,
        done: bool,
        len: u64,
        request: Request,
        get: &mut Get<'_>,
    ) -> Outcome<Option<(ReplyKind, u32)>> {
        let is_read = matches!(request.kind, RequestKind::Read { .. });
        let is_status = matches!(request.kind, RequestKind::BlockStatus { .. });
        let extended = self.reply_style == ReplyStyle::Extended;
        match chunk_type {
            REPLY_TYPE_NONE if len != 0 || !done => Err(inconsistent(
                "NBD_REPLY_TYPE_NONE has a payload or is not the last",
            )),
            REPLY_TYPE_NONE => Ok(Some((ReplyKind::Done, 0))),
            REPLY_TYPE_OFFSET_DATA if is_read => data(len, request, get),
            REPLY_TYPE_OFFSET_HOLE if is_read => hole(len, request, get),
            REPLY_TYPE_BLOCK_STATUS if is_status && !extended => {
                extents_len(len, 4, 8).map(|len| Some((ReplyKind::BlockStatus, len)))
            }
            REPLY_TYPE_BLOCK_STATUS_EXT if is_status && extended => {
                extents_len(len, 8, 16).map(|len| Some((ReplyKind::BlockStatus, len)))
            }
            // "If the client receives an unknown or unexpected type with bit 15 set, it MUST
            // consider the current reply as errored".
            _ if chunk_type & REPLY_TYPE_ERROR_BIT != 0 => error(chunk_type, len, get),
            // "If the client receives an unknown or unexpected type, other than an *error chunk*,
            // it MUST initiate a hard disconnect".
            _ => Err(inconsistent("its type does not belong to the request")),
        }
    }
}

/// "*length* MUST be at least 9"; "The data MUST lie within the bounds of the original offset and
/// length of the client's request".
fn data(len: u64, request: Request, get: &mut Get<'_>) -> Outcome<Option<(ReplyKind, u32)>> {
    let data_len = match len.checked_sub(8).map(u32::try_from) {
        Some(Ok(data_len)) if data_len > 0 => data_len,
        _ => {
            return Err(inconsistent(
                "NBD_REPLY_TYPE_OFFSET_DATA has no data or too much",
            ));
        }
    };
    let Some(offset) = get.u64() else {
        return Ok(None);
    };
    within(request, offset, data_len.into())?;
    Ok(Some((ReplyKind::Data { offset }, data_len)))
}

/// "*length* MUST be exactly 12"; "hole size (unsigned, MUST be nonzero)".
fn hole(len: u64, request: Request, get: &mut Get<'_>) -> Outcome<Option<(ReplyKind, u32)>> {
    if len != 12 {
        return Err(inconsistent("NBD_REPLY_TYPE_OFFSET_HOLE is not 12 bytes"));
    }
    let Some((offset, len)) = get.u64().zip(get.u32()) else {
        return Ok(None);
    };
    if len == 0 {
        return Err(inconsistent("a hole is empty"));
    }
    within(request, offset, len.into())?;
    Ok(Some((ReplyKind::Hole { offset, len }, 0)))
}

fn within(request: Request, offset: u64, len: u64) -> Outcome<()> {
    let end = request.offset.saturating_add(request.kind.effect_len());
    match offset.checked_add(len) {
        Some(chunk_end) if offset >= request.offset && chunk_end <= end => Ok(()),
        _ => Err(inconsistent("it describes bytes outside the request")),
    }
}

/// "*length* MUST be 4 + (a positive integer multiple of 8)"; "8 + (a positive multiple of 16)".
fn extents_len(len: u64, prefix: u64, extent: u64) -> Outcome<u32> {
    if len > prefix + extent * MAX_EXTENTS {
        return Err(BadReply::TooLong { len });
    }
    match len.checked_sub(prefix) {
        Some(extents) if extents > 0 && extents % extent == 0 => {
            u32::try_from(len).map_err(|_| BadReply::TooLong { len })
        }
        _ => Err(inconsistent("a block status does not hold whole extents")),
    }
}

/// "All error chunk types have bit 15 set, and begin with the same *error*, *message length*, and
/// optional *message* fields"; a message length that does not fit ends the session.
fn error(chunk_type: u16, len: u64, get: &mut Get<'_>) -> Outcome<Option<(ReplyKind, u32)>> {
    if len > MAX_ERROR_BYTES {
        return Err(BadReply::TooLong { len });
    }
    let has_offset = chunk_type == REPLY_TYPE_ERROR_OFFSET;
    let fixed_len = if has_offset { 14 } else { 6 };
    let Some(room) = len.checked_sub(fixed_len) else {
        return Err(inconsistent("an error chunk is too short"));
    };
    let Some((code, message_len)) = get.u32().zip(get.u16()) else {
        return Ok(None);
    };
    if code == 0 && (chunk_type == REPLY_TYPE_ERROR || has_offset) {
        return Err(inconsistent("an error chunk carries no error"));
    }
    if u64::from(message_len) > room {
        return Err(inconsistent("an error message is longer than its chunk"));
    }
    let payload_len = u32::try_from(len.saturating_sub(6)).unwrap_or(0);
    let errno = Errno::from_code(code);
    Ok(Some((
        ReplyKind::Error {
            errno,
            message_len,
            has_offset,
        },
        payload_len,
    )))
}

/// An extent of a metadata context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// How long it is, in bytes; never 0.
    pub len: u64,
    /// Its status, whose meaning is the context's.
    pub flags: u64,
}

/// Reads the payload of a block status: the id of the context, and its extents.
///
/// # Errors
/// If the extents break the rules of the reply to `request`.
pub fn block_status_extents(
    style: ReplyStyle,
    request: &Request,
    payload: &[u8],
) -> Result<(u32, Vec<Extent>), BadReply> {
    const SHORT: BadReply = inconsistent("a block status does not hold whole extents");
    let RequestKind::BlockStatus {
        len: wanted,
        req_one,
    } = request.kind
    else {
        return Err(inconsistent("the request is no block status"));
    };
    let mut get = Get::new(payload);
    let id = get.u32().ok_or(SHORT)?;
    let wide = style == ReplyStyle::Extended;
    let count = if wide {
        Some(get.u32().ok_or(SHORT)?)
    } else {
        None
    };
    let extent_len = if wide { 16 } else { 8 };
    // Bounded by the payload, which the caller holds already.
    let mut extents = Vec::with_capacity(get.rest().len() / extent_len);
    let mut covered = 0_u64;
    while !get.is_empty() {
        let extent = if wide {
            get.u64().zip(get.u64())
        } else {
            get.u32()
                .zip(get.u32())
                .map(|(len, flags)| (len.into(), flags.into()))
        };
        let (len, flags) = extent.ok_or(SHORT)?;
        if len == 0 {
            return Err(inconsistent("an extent is empty"));
        }
        if covered >= wanted {
            // "the sum of the *length* fields of the first N-1 extents (if any) MUST be less than
            // the requested length".
            return Err(inconsistent("an extent lies behind what was asked for"));
        }
        covered = covered.saturating_add(len);
        extents.push(Extent { len, flags });
    }
    if extents.is_empty() || count.is_some_and(|count| usize::try_from(count) != Ok(extents.len()))
    {
        return Err(SHORT);
    }
    if req_one && (extents.len() > 1 || covered > wanted) {
        // "every reply chunk MUST contain exactly one descriptor, and that descriptor MUST NOT
        // exceed the *length* of the original request".
        return Err(inconsistent("more than the one extent that was asked for"));
    }
    Ok((id, extents))
}
