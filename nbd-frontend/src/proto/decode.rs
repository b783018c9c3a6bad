//! From the bytes of a request's header to a request that cannot be invalid, or to the error that
//! answers it.
//!
//! A request is checked here, once, against what was negotiated. What comes out as
//! [`Decoded::Request`] lies inside the export, has only flags that apply, and is no longer than
//! was agreed, so nobody checks again. Nothing is allocated: this runs for every request.

use super::consts::{
    CMD_BLOCK_STATUS, CMD_CACHE, CMD_DISC, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA,
    CMD_FLAG_NO_HOLE, CMD_FLAG_PAYLOAD_LEN, CMD_FLAG_REQ_ONE, CMD_FLUSH, CMD_READ, CMD_TRIM,
    CMD_WRITE, CMD_WRITE_ZEROES, EXTENDED_REQUEST_LEN, EXTENDED_REQUEST_MAGIC, REQUEST_LEN,
    REQUEST_MAGIC,
};
use super::errno::Errno;
use super::request::{Cookie, Decoded, Fatal, Refused, Request, RequestKind};
use super::session::{MAX_DRAIN_BYTES, Negotiated, ReplyStyle};
use super::wire::Get;

/// A header's fields, not yet judged.
#[derive(Clone, Copy)]
struct Fields {
    flags: u16,
    command: u16,
    cookie: Cookie,
    offset: u64,
    len: u64,
}

/// The error of a request and what to tell its author.
type Refusal = (Errno, &'static str);

impl Negotiated {
    /// Reads the header of a request, which is exactly [`Self::header_len`] bytes long, and judges
    /// it.
    ///
    /// # Errors
    /// If the client's bytes cannot be understood from here on.
    #[inline]
    pub fn decode_request(&self, header: &[u8]) -> Result<Decoded, Fatal> {
        let fields = match self.reply_style {
            ReplyStyle::Simple | ReplyStyle::Structured => compact(header)?,
            ReplyStyle::Extended => extended(header)?,
        };
        let payload_len = self.payload_len(&fields)?;
        Ok(match self.judge(&fields) {
            Ok(kind) => {
                let Fields { cookie, offset, .. } = fields;
                Decoded::Request(Request {
                    cookie,
                    offset,
                    kind,
                })
            }
            Err(refusal) => refused(&fields, payload_len, refusal),
        })
    }

    /// How many bytes follow the header.
    #[inline]
    fn payload_len(&self, fields: &Fields) -> Result<u64, Fatal> {
        let has_payload = match self.reply_style {
            // "the only command where *length* represents payload length instead of effect length
            // is `NBD_CMD_WRITE`" (proto.md, "Request message").
            ReplyStyle::Simple | ReplyStyle::Structured => fields.command == CMD_WRITE,
            // "*length* bytes of data if *flags* includes `NBD_CMD_FLAG_PAYLOAD_LEN`" (same,
            // extended headers). A write has a payload in any case: qemu 10.0 sends it without
            // saying so.
            ReplyStyle::Extended => {
                fields.command == CMD_WRITE || fields.flags & CMD_FLAG_PAYLOAD_LEN != 0
            }
        };
        if !has_payload {
            return Ok(0);
        }
        // "Either the server or the client MAY initiate a hard disconnect if a payload length ...
        // would be large enough to be deemed a denial of service attack" (proto.md, "Size
        // constraints").
        if fields.len > MAX_DRAIN_BYTES.max(u64::from(self.accepted_payload_bytes())) {
            return Err(Fatal::PayloadTooLong { len: fields.len });
        }
        Ok(fields.len)
    }

    /// Decides what a request is, or why it is none.
    #[inline]
    fn judge(&self, fields: &Fields) -> Result<RequestKind, Refusal> {
        let fua = fields.flags & CMD_FLAG_FUA != 0;
        let len = fields.len;
        match fields.command {
            CMD_READ => {
                self.check_flags(
                    fields,
                    if self.reply_style.has_chunks() {
                        CMD_FLAG_DF
                    } else {
                        0
                    },
                )?;
                let dont_fragment = fields.flags & CMD_FLAG_DF != 0;
                let len = self.check_read_len(len, dont_fragment)?;
                self.check_range(fields, Errno::Inval)?;
                Ok(RequestKind::Read { len, dont_fragment })
            }
            CMD_WRITE => {
                let payload_flag = match self.reply_style {
                    ReplyStyle::Simple | ReplyStyle::Structured => 0,
                    ReplyStyle::Extended => CMD_FLAG_PAYLOAD_LEN,
                };
                self.check_flags(fields, payload_flag)?;
                // "the flag MUST be set for `NBD_CMD_WRITE`" (proto.md, extended headers, "Command
                // flags"), and is not by qemu 10.0, whose own server tolerates that too.
                self.check_writable()?;
                let len = match u32::try_from(len) {
                    Ok(len) if len <= self.accepted_payload_bytes() => len,
                    _ => return Err((Errno::Inval, "the payload is larger than the maximum")),
                };
                self.check_range(fields, Errno::NoSpc)?;
                Ok(RequestKind::Write { len, fua })
            }
            CMD_DISC => Ok(RequestKind::Disconnect),
            CMD_FLUSH => {
                self.check_flags(fields, 0)?;
                advertised(self.export.can_flush)?;
                if fields.offset != 0 || len != 0 {
                    // "*length* and *offset* are reserved, and MUST be set to all-zero" (proto.md,
                    // "Request types").
                    return Err((Errno::Inval, "a flush must have offset and length 0"));
                }
                Ok(RequestKind::Flush)
            }
            CMD_TRIM => {
                self.check_flags(fields, 0)?;
                self.check_writable()?;
                advertised(self.export.can_trim)?;
                self.check_range(fields, Errno::Inval)?;
                Ok(RequestKind::Trim { len, fua })
            }
            CMD_CACHE => {
                self.check_flags(fields, 0)?;
                advertised(self.export.can_cache)?;
                self.check_range(fields, Errno::Inval)?;
                Ok(RequestKind::Cache { len })
            }
            CMD_WRITE_ZEROES => {
                // "SHOULD fail with `NBD_EINVAL` if the `NBD_CMD_FLAG_FAST_ZERO` flag was set" and
                // fast zero was not advertised (proto.md, "Request types").
                let fast = if self.export.can_fast_zero {
                    CMD_FLAG_FAST_ZERO
                } else {
                    0
                };
                self.check_flags(fields, CMD_FLAG_NO_HOLE | fast)?;
                self.check_writable()?;
                advertised(self.export.can_write_zeroes)?;
                self.check_range(fields, Errno::NoSpc)?;
                Ok(RequestKind::WriteZeroes {
                    len,
                    fua,
                    no_hole: fields.flags & CMD_FLAG_NO_HOLE != 0,
                    fast_zero: fields.flags & CMD_FLAG_FAST_ZERO != 0,
                })
            }
            CMD_BLOCK_STATUS => {
                self.check_flags(fields, CMD_FLAG_REQ_ONE)?;
                if self.contexts.is_empty() {
                    // "Servers SHOULD reply with `NBD_EINVAL` to clients sending
                    // `NBD_CMD_BLOCK_STATUS` without selecting at least one metadata context"
                    // (proto.md, "Metadata querying").
                    return Err((
                        Errno::Inval,
                        "no metadata context was selected for this export",
                    ));
                }
                self.check_range(fields, Errno::Inval)?;
                if len == 0 {
                    // Each context would need an extent, and extents must not be empty.
                    return Err((Errno::Inval, "a block status must have a length"));
                }
                let req_one = fields.flags & CMD_FLAG_REQ_ONE != 0;
                Ok(RequestKind::BlockStatus { len, req_one })
            }
            // "The server SHOULD return `NBD_EINVAL` if it receives an unknown command" (proto.md,
            // "Error values").
            _ => Err((Errno::Inval, "unknown command")),
        }
    }

    /// Checks that no flag is set but those that apply to the command and, if it was advertised,
    /// FUA.
    ///
    /// "`NBD_CMD_FLAG_FUA`; This flag is valid for all commands, provided `NBD_FLAG_SEND_FUA` has
    /// been negotiated, in which case the server MUST accept all commands with this bit set"
    /// (proto.md, "Command flags"). "The server SHOULD return `NBD_EINVAL` if it receives an
    /// unknown command flag" (same, "Error values").
    #[inline]
    fn check_flags(&self, fields: &Fields, allowed: u16) -> Result<(), Refusal> {
        let fua = if self.export.can_fua { CMD_FLAG_FUA } else { 0 };
        if fields.flags & !(allowed | fua) != 0 {
            return Err((Errno::Inval, "unknown or unadvertised command flag"));
        }
        Ok(())
    }

    /// "It SHOULD return `NBD_EPERM` if it receives a write or trim request on a read-only export"
    /// (proto.md, "Error values").
    #[inline]
    fn check_writable(&self) -> Result<(), Refusal> {
        if self.export.read_only {
            return Err((Errno::Perm, "the export is read-only"));
        }
        Ok(())
    }

    /// A read has a payload in the reply: the maximum applies, and the maximum of a chunk if it may
    /// not be split.
    #[inline]
    fn check_read_len(&self, len: u64, dont_fragment: bool) -> Result<u32, Refusal> {
        let max = if dont_fragment {
            self.max_chunk_bytes()
        } else {
            self.accepted_payload_bytes()
        };
        match u32::try_from(len) {
            Ok(len) if len <= max => Ok(len),
            // "the server is also permitted to reject large read requests up front with
            // `NBD_EOVERFLOW`" (proto.md, "Request types", structured replies); without structured
            // replies that error is not documented for reads.
            _ if self.reply_style.has_chunks() => {
                Err((Errno::Overflow, "the read is too long for one reply"))
            }
            _ => Err((Errno::Inval, "the read is longer than the maximum payload")),
        }
    }

    /// "the client MUST NOT use a *length* which, when added to *offset*, would exceed the export
    /// size" and "MUST ensure that *offset* and *length* are integer multiples of any advertised
    /// minimum block size" (proto.md, "Size constraints").
    #[inline]
    fn check_range(&self, fields: &Fields, past_end: Errno) -> Result<(), Refusal> {
        match fields.offset.checked_add(fields.len) {
            Some(end) if end <= self.export.size_bytes => {}
            _ => return Err((past_end, "the request goes past the end of the export")),
        }
        let low_bits = u64::from(self.export.min_block_bytes).wrapping_sub(1);
        if (fields.offset | fields.len) & low_bits != 0 {
            return Err((
                Errno::Inval,
                "the request is not aligned to the minimum block size",
            ));
        }
        Ok(())
    }
}

/// "The client MUST NOT use a feature documented as 'exposed' by a flag unless that flag was set"
/// (proto.md, "Transmission flags").
#[inline]
fn advertised(supported: bool) -> Result<(), Refusal> {
    if supported {
        Ok(())
    } else {
        Err((Errno::Inval, "the command was not advertised"))
    }
}

#[cold]
#[inline(never)]
fn refused(fields: &Fields, payload_len: u64, (errno, message): Refusal) -> Decoded {
    let &Fields {
        cookie,
        offset,
        command,
        ..
    } = fields;
    Decoded::Refused(Refused {
        cookie,
        offset,
        errno,
        payload_len,
        message,
        command,
    })
}

#[inline]
fn compact(header: &[u8]) -> Result<Fields, Fatal> {
    let found = header.len();
    let Ok(header) = <&[u8; REQUEST_LEN]>::try_from(header) else {
        return Err(Fatal::HeaderLength { found });
    };
    fields(header, REQUEST_MAGIC, |get| get.u32().map(u64::from))
        .ok_or(Fatal::HeaderLength { found })?
}

#[inline]
fn extended(header: &[u8]) -> Result<Fields, Fatal> {
    let found = header.len();
    let Ok(header) = <&[u8; EXTENDED_REQUEST_LEN]>::try_from(header) else {
        return Err(Fatal::HeaderLength { found });
    };
    fields(header, EXTENDED_REQUEST_MAGIC, Get::u64).ok_or(Fatal::HeaderLength { found })?
}

/// Splits a header into its fields; `None` if it is too short.
#[inline]
fn fields<'a>(
    header: &'a [u8],
    magic: u32,
    len: impl FnOnce(&mut Get<'a>) -> Option<u64>,
) -> Option<Result<Fields, Fatal>> {
    let mut get = Get::new(header);
    let found = get.u32()?;
    if found != magic {
        return Some(Err(Fatal::BadMagic { found }));
    }
    Some(Ok(Fields {
        flags: get.u16()?,
        command: get.u16()?,
        cookie: Cookie(get.u64()?),
        offset: get.u64()?,
        len: len(&mut get)?,
    }))
}
