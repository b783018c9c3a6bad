//! What the two sides agreed on: the state in which transmission begins, and which never changes
//! after.

use super::catalog::{ExportInfo, MIN_UNFRAGMENTED_BYTES, TransmissionFlags};
use super::consts::{EXTENDED_REQUEST_LEN, REQUEST_LEN};
use super::meta_context::MetaContexts;
use super::reply::Replies;

/// Payloads up to this many bytes are accepted even if less was advertised: clients exist that
/// never ask.
pub const ACCEPTED_PAYLOAD_BYTES: u32 = 64 << 20;
/// A write with a longer payload than this ends the session; shorter ones that are refused are read
/// and thrown away.
pub const MAX_DRAIN_BYTES: u64 = 128 << 20;

/// How replies are framed, and with it how requests are.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ReplyStyle {
    /// Simple replies to everything.
    Simple,
    /// Structured reply chunks to reads, to block status and for errors; what succeeded without
    /// contents may be answered by a simple reply, too.
    Structured,
    /// Extended headers both ways: nothing but extended chunks.
    Extended,
}

impl ReplyStyle {
    /// Whether replies come in chunks, which holes, error messages and block status need.
    #[inline]
    #[must_use]
    pub const fn has_chunks(self) -> bool {
        !matches!(self, Self::Simple)
    }

    /// Bytes in a request's header.
    #[inline]
    #[must_use]
    pub const fn request_len(self) -> usize {
        match self {
            Self::Simple | Self::Structured => REQUEST_LEN,
            Self::Extended => EXTENDED_REQUEST_LEN,
        }
    }
}

/// The outcome of a handshake, on the server's side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Negotiated {
    /// The export that was chosen.
    pub export: ExportInfo,
    /// How messages are framed.
    pub reply_style: ReplyStyle,
    /// The contexts selected for this export; empty if they were selected for another.
    pub contexts: MetaContexts,
    /// Whether the client waived the 124 zeroes after `NBD_OPT_EXPORT_NAME`.
    pub no_zeroes: bool,
}

impl Negotiated {
    /// Puts together what was agreed on; block sizes are made legal, contexts dropped if replies
    /// have no chunks.
    #[must_use]
    pub fn new(
        export: ExportInfo,
        reply_style: ReplyStyle,
        contexts: MetaContexts,
        no_zeroes: bool,
    ) -> Self {
        // "structured replies MUST be negotiated first" (proto.md, "Metadata querying").
        let contexts = if reply_style.has_chunks() {
            contexts
        } else {
            MetaContexts::NONE
        };
        Self {
            export: export.with_legal_block_sizes(),
            reply_style,
            contexts,
            no_zeroes,
        }
    }

    /// Bytes in each request's header: 28, or 32 with extended headers.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.reply_style.request_len()
    }

    /// The encoder for this session's replies.
    #[inline]
    #[must_use]
    pub const fn replies(&self) -> Replies {
        Replies::new(self.reply_style)
    }

    /// The flags the client was told.
    #[must_use]
    pub fn transmission_flags(&self) -> TransmissionFlags {
        self.export
            .transmission_flags(self.reply_style.has_chunks())
    }

    /// The longest payload of a write and the longest read, in bytes; never less than was
    /// advertised.
    #[inline]
    #[must_use]
    pub const fn accepted_payload_bytes(&self) -> u32 {
        if self.export.max_payload_bytes > ACCEPTED_PAYLOAD_BYTES {
            self.export.max_payload_bytes
        } else {
            ACCEPTED_PAYLOAD_BYTES
        }
    }

    /// The most data one reply chunk may carry, in bytes; a read that may not be split must not be
    /// longer.
    ///
    /// "A server MUST NOT send a chunk where any variable-length portion of the chunk is larger
    /// than any advertised maximum payload size" (proto.md, "Structured reply types").
    #[inline]
    #[must_use]
    pub const fn max_chunk_bytes(&self) -> u32 {
        match self.export.max_payload_bytes {
            0..=MIN_UNFRAGMENTED_BYTES => MIN_UNFRAGMENTED_BYTES,
            // The chunk's offset counts too, and both have to fit the 32-bit length of a structured
            // reply.
            bytes if bytes > u32::MAX - 8 => u32::MAX - 8,
            bytes => bytes,
        }
    }
}
