//! The client's side of the protocol: handshake, requests and replies without I/O, and a blocking
//! client on top of them.
//!
//! A server is not trusted more than a client is: lengths are bounded before anything is received
//! or allocated, chunks are held against the request they answer, and none of it can panic.

pub mod blocking;
pub mod pipeline;

mod error;
mod handshake;
mod reassembly;
mod reply;

pub use self::handshake::{ClientHandshake, ClientProgress, HandshakeFailure};
pub use self::reassembly::{Incoherent, Reassembly};
pub use self::reply::{BadReply, Extent, ReplyChunk, ReplyKind, block_status_extents};

use super::catalog::{BlockSizes, TransmissionFlags};
use super::consts::{
    CMD_FLAG_DF, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_PAYLOAD_LEN,
    CMD_FLAG_REQ_ONE, EXTENDED_REQUEST_LEN, EXTENDED_REQUEST_MAGIC, FLAG_READ_ONLY,
    FLAG_SEND_CACHE, FLAG_SEND_DF, FLAG_SEND_FAST_ZERO, FLAG_SEND_FLUSH, FLAG_SEND_FUA,
    FLAG_SEND_TRIM, FLAG_SEND_WRITE_ZEROES, REQUEST_MAGIC,
};
use super::request::{Request, RequestKind};
use super::session::ReplyStyle;
use super::wire::Put;

/// What a client wants of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientOptions {
    /// The export; empty for the default one.
    pub export_name: String,
    /// Ask for structured replies (if extended headers are not to be had).
    pub structured: bool,
    /// Ask for extended headers.
    pub extended: bool,
    /// The metadata contexts to select, by name.
    pub contexts: Vec<String>,
    /// Use `NBD_OPT_GO` before `NBD_OPT_EXPORT_NAME`.
    pub use_go: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            export_name: String::new(),
            structured: true,
            extended: true,
            contexts: Vec::new(),
            use_go: true,
        }
    }
}

impl ClientOptions {
    /// Everything on, for that export.
    #[must_use]
    pub fn new(export_name: impl Into<String>) -> Self {
        Self {
            export_name: export_name.into(),
            ..Self::default()
        }
    }
}

/// The outcome of a handshake, on the client's side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientNegotiated {
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// What the server can do.
    pub flags: TransmissionFlags,
    /// The block sizes to abide by, if the server sent any.
    pub block_sizes: Option<BlockSizes>,
    /// How messages are framed.
    pub reply_style: ReplyStyle,
    /// Id and name of each selected metadata context.
    pub contexts: Vec<(u32, String)>,
    /// The server's name for the export, if it told.
    pub canonical_name: Option<String>,
    /// The server's description of the export, if it told.
    pub description: Option<String>,
}

/// A request whose length does not fit the header that was negotiated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LengthTooLong {
    /// The length in bytes.
    pub len: u64,
}

impl core::fmt::Display for LengthTooLong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "a request for {} bytes needs extended headers", self.len)
    }
}

impl core::error::Error for LengthTooLong {}

impl ClientNegotiated {
    /// The largest payload to send or to ask for in one request, in bytes.
    #[must_use]
    pub fn max_payload_bytes(&self) -> u32 {
        self.block_sizes.unwrap_or(BlockSizes::DEFAULT).max_payload
    }

    /// Whether the server advertised all that the request needs. The client "MUST NOT use a feature
    /// documented as 'exposed' by a flag unless that flag was set" (proto.md, "Transmission
    /// flags").
    #[must_use]
    pub fn supports(&self, kind: RequestKind) -> bool {
        let has = |flag| self.flags.has(flag);
        let fua_ok = |fua: bool| !fua || has(FLAG_SEND_FUA);
        let writable = !has(FLAG_READ_ONLY);
        match kind {
            RequestKind::Read { dont_fragment, .. } => !dont_fragment || has(FLAG_SEND_DF),
            RequestKind::Write { fua, .. } => writable && fua_ok(fua),
            RequestKind::Flush => has(FLAG_SEND_FLUSH),
            RequestKind::Trim { fua, .. } => writable && has(FLAG_SEND_TRIM) && fua_ok(fua),
            RequestKind::WriteZeroes { fua, fast_zero, .. } => {
                writable
                    && has(FLAG_SEND_WRITE_ZEROES)
                    && fua_ok(fua)
                    && (!fast_zero || has(FLAG_SEND_FAST_ZERO))
            }
            RequestKind::Cache { .. } => has(FLAG_SEND_CACHE),
            RequestKind::BlockStatus { .. } => !self.contexts.is_empty(),
            RequestKind::Disconnect => true,
        }
    }

    /// Writes the header of a request and returns its length in bytes, 28 or 32; the payload of a
    /// write follows it. Whether the server will like the request is not asked here.
    ///
    /// # Errors
    /// If the length needs 64 bits and extended headers were not negotiated.
    #[inline]
    pub fn encode_request(
        &self,
        buf: &mut [u8; EXTENDED_REQUEST_LEN],
        request: &Request,
    ) -> Result<usize, LengthTooLong> {
        let len = request.kind.effect_len();
        let mut flags = command_flags(request.kind);
        let mut put = Put::new(buf);
        if self.reply_style == ReplyStyle::Extended {
            if matches!(request.kind, RequestKind::Write { .. }) {
                // "the flag MUST be set for `NBD_CMD_WRITE`" (proto.md, extended headers).
                flags |= CMD_FLAG_PAYLOAD_LEN;
            }
            put.u32(EXTENDED_REQUEST_MAGIC);
            fields(&mut put, flags, request);
            put.u64(len);
        } else {
            let len = u32::try_from(len).map_err(|_| LengthTooLong { len })?;
            put.u32(REQUEST_MAGIC);
            fields(&mut put, flags, request);
            put.u32(len);
        }
        Ok(put.len())
    }
}

#[inline]
fn fields(put: &mut Put<'_>, flags: u16, request: &Request) {
    put.u16(flags);
    put.u16(request.kind.command());
    put.u64(request.cookie.0);
    put.u64(request.offset);
}

#[inline]
fn command_flags(kind: RequestKind) -> u16 {
    let on = |set: bool, flag: u16| if set { flag } else { 0 };
    match kind {
        RequestKind::Read { dont_fragment, .. } => on(dont_fragment, CMD_FLAG_DF),
        RequestKind::Write { fua, .. } | RequestKind::Trim { fua, .. } => on(fua, CMD_FLAG_FUA),
        RequestKind::WriteZeroes {
            fua,
            no_hole,
            fast_zero,
            ..
        } => {
            on(fua, CMD_FLAG_FUA)
                | on(no_hole, CMD_FLAG_NO_HOLE)
                | on(fast_zero, CMD_FLAG_FAST_ZERO)
        }
        RequestKind::BlockStatus { req_one, .. } => on(req_one, CMD_FLAG_REQ_ONE),
        RequestKind::Cache { .. } | RequestKind::Flush | RequestKind::Disconnect => 0,
    }
}
