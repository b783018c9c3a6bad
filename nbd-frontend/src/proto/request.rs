//! What a request is once it was decoded: valid, or refused with an error, or the end of the
//! session.

use core::fmt;

use super::consts::{
    CMD_BLOCK_STATUS, CMD_CACHE, CMD_DISC, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE,
    CMD_WRITE_ZEROES,
};
use super::errno::Errno;

/// The client's tag of a request, echoed verbatim in each reply to it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Cookie(pub u64);

/// A request, valid for its session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request {
    /// The client's tag.
    pub cookie: Cookie,
    /// Where in the export, in bytes; 0 for flush and disconnect.
    pub offset: u64,
    /// What to do there.
    pub kind: RequestKind,
}

/// What a request asks for. Lengths are in bytes and may be 0: then there is nothing to do but to
/// reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestKind {
    /// Send the contents.
    Read {
        /// How much.
        len: u32,
        /// In one content chunk.
        dont_fragment: bool,
    },
    /// Store the payload, which follows the header.
    Write {
        /// How much.
        len: u32,
        /// Reply only when it is durable.
        fua: bool,
    },
    /// Make durable every write that was replied to.
    Flush,
    /// The range is no longer needed.
    Trim {
        /// How much.
        len: u64,
        /// Reply only when it is durable.
        fua: bool,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// How much.
        len: u64,
        /// Reply only when it is durable.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
        /// Fail at once with [`Errno::NotSup`] unless it is faster than a write.
        fast_zero: bool,
    },
    /// The range will be read soon.
    Cache {
        /// How much.
        len: u64,
    },
    /// Describe the range in every selected context; never empty.
    BlockStatus {
        /// How much.
        len: u64,
        /// One extent a context, no longer than the range.
        req_one: bool,
    },
    /// Finish everything in flight, reply to nothing more, close.
    Disconnect,
}

impl RequestKind {
    /// The number of the command.
    #[must_use]
    pub const fn command(self) -> u16 {
        match self {
            Self::Read { .. } => CMD_READ,
            Self::Write { .. } => CMD_WRITE,
            Self::Flush => CMD_FLUSH,
            Self::Trim { .. } => CMD_TRIM,
            Self::WriteZeroes { .. } => CMD_WRITE_ZEROES,
            Self::Cache { .. } => CMD_CACHE,
            Self::BlockStatus { .. } => CMD_BLOCK_STATUS,
            Self::Disconnect => CMD_DISC,
        }
    }

    /// How many bytes of the export the request is about.
    #[inline]
    #[must_use]
    pub const fn effect_len(self) -> u64 {
        match self {
            // Lossless: `u64::from` is not yet const.
            Self::Read { len, .. } | Self::Write { len, .. } => len as u64,
            Self::Trim { len, .. }
            | Self::WriteZeroes { len, .. }
            | Self::Cache { len }
            | Self::BlockStatus { len, .. } => len,
            Self::Flush | Self::Disconnect => 0,
        }
    }
}

impl Request {
    /// How many bytes follow the header: those of a write.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> u32 {
        match self.kind {
            RequestKind::Write { len, .. } => len,
            _ => 0,
        }
    }
}

/// A request that must be answered with an error, and nothing else done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The client's tag.
    pub cookie: Cookie,
    /// The offset of the request, which extended replies echo.
    pub offset: u64,
    /// The error to send.
    pub errno: Errno,
    /// How many bytes follow the header, to be read and thrown away before anything else.
    pub payload_len: u64,
    /// What is wrong, for people.
    pub message: &'static str,
    /// The number of the command.
    pub command: u16,
}

/// What a header turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decoded {
    /// A valid request.
    Request(Request),
    /// One to refuse; the session goes on.
    Refused(Refused),
}

/// Why the rest of the client's bytes cannot be understood: the connection has to be dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fatal {
    /// The header does not begin with the magic that was negotiated.
    BadMagic {
        /// What it begins with.
        found: u32,
    },
    /// The caller passed another number of bytes than
    /// [`Negotiated::header_len`](super::session::Negotiated::header_len).
    HeaderLength {
        /// How many it passed.
        found: usize,
    },
    /// A payload that is too long to read and throw away.
    PayloadTooLong {
        /// Its length in bytes.
        len: u64,
    },
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic { found } => {
                write!(f, "request begins with {found:#010x}, not the magic")
            }
            Self::HeaderLength { found } => write!(f, "request header of {found} bytes"),
            Self::PayloadTooLong { len } => write!(f, "request has a payload of {len} bytes"),
        }
    }
}

impl core::error::Error for Fatal {}
