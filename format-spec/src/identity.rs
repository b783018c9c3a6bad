//! The identity record: what this project keeps in the padding behind the header, which the kernel
//! ignores and preserves. It says which origin the store belongs to. SPEC.md section 9.
//!
//! The checksum's function is the caller's: CRC-32 (IEEE 802.3), as in gzip and zip.

use crate::bytes::{field_at, i64_at, put_at, u16_at, u32_at, u64_at};
use crate::{FormatError, HEADER_LEN, LABEL_LEN, Label, SECTOR_SIZE};

/// Where the record begins on the COW device: right behind the header, in the same sector.
pub const IDENTITY_OFFSET: u64 = HEADER_LEN as u64;
/// Bytes of the record. Later versions may be longer, up to the sector's end.
pub const IDENTITY_LEN: usize = 240;
/// What the record begins with.
pub const IDENTITY_MAGIC: [u8; 8] = *b"usnap-id";
/// The version of the record.
pub const IDENTITY_VERSION: u16 = 1;

/// Flag: the record describes an origin.
pub const IDENTITY_FLAG_ORIGIN: u16 = 1 << 0;
/// Flag: the store was closed after a commit of everything.
pub const IDENTITY_FLAG_CLEAN: u16 = 1 << 1;
/// Flag: the session notes in a file what is not committed.
pub const IDENTITY_FLAG_JOURNAL: u16 = 1 << 2;
/// Flag: whoever writes to the store writes to its origin too. Only together with
/// [`IDENTITY_FLAG_ORIGIN`].
pub const IDENTITY_FLAG_ORIGIN_CHANGING: u16 = 1 << 3;

/// Offset of the magic in the record.
pub const IDENTITY_MAGIC_OFFSET: usize = 0;
/// Offset of the version.
pub const IDENTITY_VERSION_OFFSET: usize = 8;
/// Offset of the flags.
pub const IDENTITY_FLAGS_OFFSET: usize = 10;
/// Offset of the sample's scheme.
pub const IDENTITY_SAMPLE_SCHEME_OFFSET: usize = 12;
/// Offset of the origin's size.
pub const IDENTITY_ORIGIN_SIZE_OFFSET: usize = 16;
/// Offset of the seconds of the origin's modification time.
pub const IDENTITY_MTIME_S_OFFSET: usize = 24;
/// Offset of the nanoseconds of the origin's modification time.
pub const IDENTITY_MTIME_NS_OFFSET: usize = 32;
/// Offset of the sample's checksum.
pub const IDENTITY_SAMPLE_CRC32_OFFSET: usize = 36;
/// Offset of the session.
pub const IDENTITY_SESSION_OFFSET: usize = 40;
/// Offset of the boot id.
pub const IDENTITY_BOOT_ID_OFFSET: usize = 56;
/// Offset of the label.
pub const IDENTITY_LABEL_OFFSET: usize = 72;
/// Offset of the reserved bytes, which are zero.
pub const IDENTITY_RESERVED_OFFSET: usize = 136;
/// Offset of the checksum of everything before it.
pub const IDENTITY_CRC32_OFFSET: usize = 236;

const RESERVED_LEN: usize = IDENTITY_CRC32_OFFSET - IDENTITY_RESERVED_OFFSET;
const ORIGIN_LEN: usize = IDENTITY_SESSION_OFFSET - IDENTITY_SAMPLE_SCHEME_OFFSET;
const KNOWN_FLAGS: u16 = IDENTITY_FLAG_ORIGIN
    | IDENTITY_FLAG_CLEAN
    | IDENTITY_FLAG_JOURNAL
    | IDENTITY_FLAG_ORIGIN_CHANGING;
const NANOSECONDS: u32 = 1_000_000_000;

/// What an origin is recognised by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OriginIdentity {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Which parts of its content were sampled; the numbers are the sampler's, 0 is no sample.
    pub sample_scheme: u32,
    /// The checksum of the sampled parts.
    pub sample_crc32: u32,
    /// Its modification time, whole seconds since 1970; 0 if it has none (a block device).
    pub mtime_s: i64,
    /// The modification time's nanoseconds, less than a second of them.
    pub mtime_ns: u32,
}

/// The identity record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdentityRecord {
    /// The origin of the store, if it is known.
    pub origin: Option<OriginIdentity>,
    /// A random number, new with every writable open; all zero is none.
    pub session: [u8; 16],
    /// The boot in which that open happened; all zero is none.
    pub boot_id: [u8; 16],
    /// Whether that open ended with everything committed.
    pub clean: bool,
    /// Whether that open notes in a file what is not committed. Where it did not end clean, that
    /// file is needed.
    pub has_journal: bool,
    /// Whether the origin is written to as well, by somebody who knows of the store (a merge): its
    /// content is not the recorded one then, only its size. Means nothing without an origin, and is
    /// not written then.
    pub origin_changing: bool,
    /// What a person calls the store.
    pub label: Label,
}

impl IdentityRecord {
    /// Reads the record from the bytes at [`IDENTITY_OFFSET`], [`IDENTITY_LEN`] of them or more.
    /// `None` if there is none: zeros, or bytes of somebody else.
    ///
    /// # Errors
    /// Bytes that begin with our magic and then are no record of this version: all the `Identity`
    /// and `Label` errors of [`FormatError`].
    pub fn decode(bytes: &[u8], crc32: impl Fn(&[u8]) -> u32) -> Result<Option<Self>, FormatError> {
        if !bytes.starts_with(&IDENTITY_MAGIC) {
            return Ok(None);
        }
        let record = bytes
            .first_chunk::<IDENTITY_LEN>()
            .ok_or(FormatError::IdentityLength {
                found: bytes.len() as u64,
            })?;
        let found = u16_at::<IDENTITY_VERSION_OFFSET, _>(record);
        if found != IDENTITY_VERSION {
            return Err(FormatError::IdentityVersion { found });
        }
        let found = u32_at::<IDENTITY_CRC32_OFFSET, _>(record);
        let computed = crc32(&field_at::<0, IDENTITY_CRC32_OFFSET, _>(record));
        if found != computed {
            return Err(FormatError::IdentityChecksum { found, computed });
        }
        let flags = u16_at::<IDENTITY_FLAGS_OFFSET, _>(record);
        let has_origin = flags & IDENTITY_FLAG_ORIGIN != 0;
        let origin_changing = flags & IDENTITY_FLAG_ORIGIN_CHANGING != 0;
        if flags & !KNOWN_FLAGS != 0 || (origin_changing && !has_origin) {
            return Err(FormatError::IdentityFlags { found: flags });
        }
        must_be_zero::<IDENTITY_RESERVED_OFFSET, RESERVED_LEN>(record)?;
        Ok(Some(Self {
            origin: decode_origin(record, has_origin)?,
            session: field_at::<IDENTITY_SESSION_OFFSET, _, _>(record),
            boot_id: field_at::<IDENTITY_BOOT_ID_OFFSET, _, _>(record),
            clean: flags & IDENTITY_FLAG_CLEAN != 0,
            has_journal: flags & IDENTITY_FLAG_JOURNAL != 0,
            origin_changing,
            label: Label::decode(&field_at::<IDENTITY_LABEL_OFFSET, _, _>(record))?,
        }))
    }

    /// The record's bytes. Nanoseconds of a second or more are written as the last of that second.
    #[must_use]
    pub fn encode(&self, crc32: impl Fn(&[u8]) -> u32) -> [u8; IDENTITY_LEN] {
        let mut record = [0; IDENTITY_LEN];
        let mut flags = 0;
        if let Some(origin) = self.origin {
            flags |= IDENTITY_FLAG_ORIGIN;
            if self.origin_changing {
                flags |= IDENTITY_FLAG_ORIGIN_CHANGING;
            }
            encode_origin(&mut record, origin);
        }
        if self.clean {
            flags |= IDENTITY_FLAG_CLEAN;
        }
        if self.has_journal {
            flags |= IDENTITY_FLAG_JOURNAL;
        }
        put_at::<IDENTITY_MAGIC_OFFSET, _, _>(&mut record, IDENTITY_MAGIC);
        put_at::<IDENTITY_VERSION_OFFSET, _, _>(&mut record, IDENTITY_VERSION.to_le_bytes());
        put_at::<IDENTITY_FLAGS_OFFSET, _, _>(&mut record, flags.to_le_bytes());
        put_at::<IDENTITY_SESSION_OFFSET, _, _>(&mut record, self.session);
        put_at::<IDENTITY_BOOT_ID_OFFSET, _, _>(&mut record, self.boot_id);
        put_at::<IDENTITY_LABEL_OFFSET, _, _>(&mut record, self.label.encode());
        let computed = crc32(&field_at::<0, IDENTITY_CRC32_OFFSET, _>(&record));
        put_at::<IDENTITY_CRC32_OFFSET, _, _>(&mut record, computed.to_le_bytes());
        record
    }
}

/// The origin's part of the record, which is zero if there is none.
fn decode_origin(
    record: &[u8; IDENTITY_LEN],
    present: bool,
) -> Result<Option<OriginIdentity>, FormatError> {
    if !present {
        must_be_zero::<IDENTITY_SAMPLE_SCHEME_OFFSET, ORIGIN_LEN>(record)?;
        return Ok(None);
    }
    let origin = OriginIdentity {
        size_bytes: u64_at::<IDENTITY_ORIGIN_SIZE_OFFSET, _>(record),
        sample_scheme: u32_at::<IDENTITY_SAMPLE_SCHEME_OFFSET, _>(record),
        sample_crc32: u32_at::<IDENTITY_SAMPLE_CRC32_OFFSET, _>(record),
        mtime_s: i64_at::<IDENTITY_MTIME_S_OFFSET, _>(record),
        mtime_ns: u32_at::<IDENTITY_MTIME_NS_OFFSET, _>(record),
    };
    if origin.mtime_ns >= NANOSECONDS {
        return Err(FormatError::IdentityNanoseconds {
            found: origin.mtime_ns,
        });
    }
    Ok(Some(origin))
}

fn must_be_zero<const AT: usize, const LEN: usize>(
    record: &[u8; IDENTITY_LEN],
) -> Result<(), FormatError> {
    let field = field_at::<AT, LEN, _>(record);
    match field.iter().position(|&byte| byte != 0) {
        Some(index) => {
            let offset = (AT as u64).saturating_add(index as u64);
            Err(FormatError::IdentityNotZero { offset })
        }
        None => Ok(()),
    }
}

fn encode_origin(record: &mut [u8; IDENTITY_LEN], origin: OriginIdentity) {
    let mtime_ns = origin.mtime_ns.min(NANOSECONDS.saturating_sub(1));
    put_at::<IDENTITY_SAMPLE_SCHEME_OFFSET, _, _>(record, origin.sample_scheme.to_le_bytes());
    put_at::<IDENTITY_ORIGIN_SIZE_OFFSET, _, _>(record, origin.size_bytes.to_le_bytes());
    put_at::<IDENTITY_MTIME_S_OFFSET, _, _>(record, origin.mtime_s.to_le_bytes());
    put_at::<IDENTITY_MTIME_NS_OFFSET, _, _>(record, mtime_ns.to_le_bytes());
    put_at::<IDENTITY_SAMPLE_CRC32_OFFSET, _, _>(record, origin.sample_crc32.to_le_bytes());
}

// Each field begins where the one before it ends, and the record stays inside sector 0, so that
// one sector write replaces it.
const _: () = {
    assert!(IDENTITY_VERSION_OFFSET == IDENTITY_MAGIC_OFFSET + IDENTITY_MAGIC.len());
    assert!(IDENTITY_FLAGS_OFFSET == IDENTITY_VERSION_OFFSET + size_of::<u16>());
    assert!(IDENTITY_SAMPLE_SCHEME_OFFSET == IDENTITY_FLAGS_OFFSET + size_of::<u16>());
    assert!(IDENTITY_ORIGIN_SIZE_OFFSET == IDENTITY_SAMPLE_SCHEME_OFFSET + size_of::<u32>());
    assert!(IDENTITY_MTIME_S_OFFSET == IDENTITY_ORIGIN_SIZE_OFFSET + size_of::<u64>());
    assert!(IDENTITY_MTIME_NS_OFFSET == IDENTITY_MTIME_S_OFFSET + size_of::<i64>());
    assert!(IDENTITY_SAMPLE_CRC32_OFFSET == IDENTITY_MTIME_NS_OFFSET + size_of::<u32>());
    assert!(IDENTITY_SESSION_OFFSET == IDENTITY_SAMPLE_CRC32_OFFSET + size_of::<u32>());
    assert!(IDENTITY_BOOT_ID_OFFSET == IDENTITY_SESSION_OFFSET + size_of::<[u8; 16]>());
    assert!(IDENTITY_LABEL_OFFSET == IDENTITY_BOOT_ID_OFFSET + size_of::<[u8; 16]>());
    assert!(IDENTITY_RESERVED_OFFSET == IDENTITY_LABEL_OFFSET + LABEL_LEN);
    assert!(IDENTITY_CRC32_OFFSET == IDENTITY_RESERVED_OFFSET + RESERVED_LEN);
    assert!(IDENTITY_LEN == IDENTITY_CRC32_OFFSET + size_of::<u32>());
    assert!(IDENTITY_OFFSET + IDENTITY_LEN as u64 <= SECTOR_SIZE);
};
