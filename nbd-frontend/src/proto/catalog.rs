//! What the protocol has to know of an export, and where the handshake asks for it.

use super::consts::{
    FLAG_CAN_MULTI_CONN, FLAG_HAS_FLAGS, FLAG_READ_ONLY, FLAG_ROTATIONAL, FLAG_SEND_CACHE,
    FLAG_SEND_DF, FLAG_SEND_FAST_ZERO, FLAG_SEND_FLUSH, FLAG_SEND_FUA, FLAG_SEND_TRIM,
    FLAG_SEND_WRITE_ZEROES,
};

/// The payload limit that is advertised unless an export says otherwise: "any payload not exceeding
/// 2^25 bytes SHOULD NOT be considered a denial of service attack" (proto.md, "Size constraints").
pub const DEFAULT_MAX_PAYLOAD_BYTES: u32 = 32 << 20;
/// The preferred block size unless an export says otherwise (proto.md, "Size constraints").
pub const DEFAULT_PREFERRED_BLOCK_BYTES: u32 = 4096;
/// "the server MUST support unfragmented reads in which the client's request length does not exceed
/// 65,536 bytes".
pub const MIN_UNFRAGMENTED_BYTES: u32 = 65_536;
/// "MUST NOT be larger than 2^16 (65,536)" (proto.md, "Size constraints").
const MAX_MIN_BLOCK_BYTES: u32 = 65_536;
/// "at least as large as the maximum of the minimum block size and 2^9 (512)" (proto.md, "Size
/// constraints").
const MIN_PREFERRED_BLOCK_BYTES: u32 = 512;
/// "SHOULD be at least 2^20" (proto.md, "Size constraints").
const MIN_MAX_PAYLOAD_BYTES: u32 = 1 << 20;

/// Everything about an export that is told to clients or decides which requests are valid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Writes, trims and zeroes are refused with [`Errno::Perm`](super::Errno::Perm).
    pub read_only: bool,
    /// Flush is supported.
    pub can_flush: bool,
    /// Force unit access is supported, on every command that writes.
    pub can_fua: bool,
    /// Trim is supported.
    pub can_trim: bool,
    /// Write zeroes is supported, with "no hole".
    pub can_write_zeroes: bool,
    /// Fast zero is understood; needs `can_write_zeroes`.
    pub can_fast_zero: bool,
    /// Cache is supported.
    pub can_cache: bool,
    /// Flush and FUA on one connection cover what was replied to on all of them.
    pub can_multi_conn: bool,
    /// The medium rotates.
    pub rotational: bool,
    /// Smallest unit a request may address, in bytes: a power of two, at most 65,536.
    pub min_block_bytes: u32,
    /// Unit that is served best, in bytes: a power of two, at least 512 and the minimum.
    pub preferred_block_bytes: u32,
    /// Largest payload to ask for or to send in one request, in bytes; at least 1 MiB and the
    /// preferred block.
    pub max_payload_bytes: u32,
    /// The canonical name, also of the default export: what `NBD_OPT_LIST` shows.
    pub name: String,
    /// A line for people.
    pub description: Option<String>,
}

impl ExportInfo {
    /// Describes an export that can be read and written and nothing else, with the default block
    /// sizes.
    #[must_use]
    pub fn new(name: impl Into<String>, size_bytes: u64) -> Self {
        Self {
            size_bytes,
            read_only: false,
            can_flush: false,
            can_fua: false,
            can_trim: false,
            can_write_zeroes: false,
            can_fast_zero: false,
            can_cache: false,
            can_multi_conn: false,
            rotational: false,
            min_block_bytes: 1,
            preferred_block_bytes: DEFAULT_PREFERRED_BLOCK_BYTES,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
            name: name.into(),
            description: None,
        }
    }

    /// The transmission flags; `structured` if structured replies or extended headers were
    /// negotiated.
    ///
    /// A read-only export does not offer trim and write zeroes. The server "MUST leave this flag
    /// clear if structured replies have not been negotiated" (of `NBD_FLAG_SEND_DF`) and "MUST set
    /// this transmission flag to 0 if `NBD_FLAG_SEND_WRITE_ZEROES` is not set" (of
    /// `NBD_FLAG_SEND_FAST_ZERO`; both proto.md, "Transmission flags").
    #[must_use]
    pub fn transmission_flags(&self, structured: bool) -> TransmissionFlags {
        let writable = !self.read_only;
        let zeroes = writable && self.can_write_zeroes;
        let mut flags = FLAG_HAS_FLAGS;
        for (set, flag) in [
            (self.read_only, FLAG_READ_ONLY),
            (self.can_flush, FLAG_SEND_FLUSH),
            (self.can_fua, FLAG_SEND_FUA),
            (self.rotational, FLAG_ROTATIONAL),
            (writable && self.can_trim, FLAG_SEND_TRIM),
            (zeroes, FLAG_SEND_WRITE_ZEROES),
            (structured, FLAG_SEND_DF),
            (self.can_multi_conn, FLAG_CAN_MULTI_CONN),
            (self.can_cache, FLAG_SEND_CACHE),
            (zeroes && self.can_fast_zero, FLAG_SEND_FAST_ZERO),
        ] {
            if set {
                flags |= flag;
            }
        }
        TransmissionFlags(flags)
    }

    /// Block sizes that obey the rules of `NBD_INFO_BLOCK_SIZE`, as near to the ones asked for as
    /// can be.
    #[must_use]
    pub fn block_sizes(&self) -> BlockSizes {
        let minimum = power_of_two_from(self.min_block_bytes).min(MAX_MIN_BLOCK_BYTES);
        let preferred = power_of_two_from(self.preferred_block_bytes)
            .max(minimum)
            .max(MIN_PREFERRED_BLOCK_BYTES);
        let max_payload = self
            .max_payload_bytes
            .max(preferred)
            .max(MIN_MAX_PAYLOAD_BYTES);
        BlockSizes {
            minimum,
            preferred,
            max_payload,
        }
    }

    /// The same export with block sizes that obey the rules.
    pub(super) fn with_legal_block_sizes(mut self) -> Self {
        let sizes = self.block_sizes();
        self.min_block_bytes = sizes.minimum;
        self.preferred_block_bytes = sizes.preferred;
        self.max_payload_bytes = sizes.max_payload;
        self
    }
}

/// The next power of two, capped so that it is one.
fn power_of_two_from(bytes: u32) -> u32 {
    bytes.checked_next_power_of_two().unwrap_or(1 << 31)
}

/// The three sizes of `NBD_INFO_BLOCK_SIZE`, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockSizes {
    /// Smallest unit a request may address.
    pub minimum: u32,
    /// Unit that is served best.
    pub preferred: u32,
    /// Largest payload of a request.
    pub max_payload: u32,
}

impl BlockSizes {
    /// What holds if nobody said anything (proto.md, "Size constraints").
    pub const DEFAULT: Self = Self {
        minimum: 1,
        preferred: DEFAULT_PREFERRED_BLOCK_BYTES,
        max_payload: DEFAULT_MAX_PAYLOAD_BYTES,
    };

    /// The same sizes, if they obey the rules of `NBD_INFO_BLOCK_SIZE`.
    pub(super) fn checked(self) -> Option<Self> {
        let Self {
            minimum,
            preferred,
            max_payload,
        } = self;
        let legal = minimum.is_power_of_two()
            && minimum <= MAX_MIN_BLOCK_BYTES
            && preferred.is_power_of_two()
            && preferred >= minimum.max(MIN_PREFERRED_BLOCK_BYTES)
            && max_payload >= preferred;
        legal.then_some(self)
    }

    /// Whether a client that keeps to the defaults could send a request that they forbid.
    pub(super) const fn are_stricter_than_default(self) -> bool {
        self.minimum > Self::DEFAULT.minimum || self.max_payload < Self::DEFAULT.max_payload
    }
}

/// The transmission flags of an export, unknown ones included.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TransmissionFlags(pub u16);

impl TransmissionFlags {
    /// Whether every flag of `flag` (see [`consts`](super::consts)) is set.
    #[inline]
    #[must_use]
    pub const fn has(self, flag: u16) -> bool {
        self.0 & flag == flag
    }
}

/// The exports of a server, as the handshake asks for them.
///
/// Nothing is to be opened or locked for a client here: it has not yet chosen.
pub trait Catalog {
    /// The export with that name; the empty name is the default export, if there is one.
    fn export(&self, name: &str) -> Option<ExportInfo>;

    /// The name and description of every export that may be listed.
    fn list(&self) -> Vec<(String, Option<String>)>;
}
