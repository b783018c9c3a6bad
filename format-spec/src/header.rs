//! The header: the first 16 bytes of a persistent store. SPEC.md section 3.

use crate::bytes::{put_at, u32_at};
use crate::{ChunkSize, FormatError};

/// Bytes of the header that mean something; it has a whole chunk to itself.
pub const HEADER_LEN: usize = 16;

/// The magic, as a number.
pub const MAGIC: u32 = u32::from_le_bytes(MAGIC_BYTES);

/// The magic, as it lies on disk.
pub const MAGIC_BYTES: [u8; 4] = *b"SnAp";

/// The one version there is.
pub const VERSION: u32 = 1;

/// Offset of the magic.
pub const HEADER_MAGIC_OFFSET: usize = 0;
/// Offset of the valid flag.
pub const HEADER_VALID_OFFSET: usize = 4;
/// Offset of the version.
pub const HEADER_VERSION_OFFSET: usize = 8;
/// Offset of the chunk size in sectors.
pub const HEADER_CHUNK_SIZE_OFFSET: usize = 12;

/// The header as it lies on disk: any 16 bytes are one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DiskHeader {
    /// [`MAGIC`], or 0 on a device that holds no store yet.
    pub magic: u32,
    /// 0 if the store was invalidated; anything else is valid.
    pub valid: u32,
    /// [`VERSION`].
    pub version: u32,
    /// The chunk size in sectors.
    pub chunk_size_sectors: u32,
}

impl DiskHeader {
    /// Reads a header. Keeps every bit and judges nothing: [`Self::validate`] does.
    #[inline]
    #[must_use]
    pub const fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        Self {
            magic: u32_at::<HEADER_MAGIC_OFFSET, _>(bytes),
            valid: u32_at::<HEADER_VALID_OFFSET, _>(bytes),
            version: u32_at::<HEADER_VERSION_OFFSET, _>(bytes),
            chunk_size_sectors: u32_at::<HEADER_CHUNK_SIZE_OFFSET, _>(bytes),
        }
    }

    /// The header's bytes.
    #[inline]
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        put_at::<HEADER_MAGIC_OFFSET, _, _>(&mut bytes, self.magic.to_le_bytes());
        put_at::<HEADER_VALID_OFFSET, _, _>(&mut bytes, self.valid.to_le_bytes());
        put_at::<HEADER_VERSION_OFFSET, _, _>(&mut bytes, self.version.to_le_bytes());
        put_at::<HEADER_CHUNK_SIZE_OFFSET, _, _>(&mut bytes, self.chunk_size_sectors.to_le_bytes());
        bytes
    }

    /// The header that this is, if it is one: magic, version, chunk size are looked at in this
    /// order. An invalidated store has a header like any other; see [`Header::is_valid`].
    ///
    /// # Errors
    /// [`FormatError::NewStore`], [`FormatError::BadMagic`], [`FormatError::UnsupportedVersion`],
    /// [`FormatError::ChunkSizeNotPowerOfTwo`], [`FormatError::ChunkSizeTooLarge`].
    pub const fn validate(self) -> Result<Header, FormatError> {
        match self.magic {
            MAGIC => {}
            0 => return Err(FormatError::NewStore),
            found => return Err(FormatError::BadMagic { found }),
        }
        if self.version != VERSION {
            return Err(FormatError::UnsupportedVersion {
                found: self.version,
            });
        }
        match ChunkSize::from_sectors(self.chunk_size_sectors) {
            Ok(chunk_size) => Ok(Header {
                valid: self.valid,
                chunk_size,
            }),
            Err(error) => Err(error),
        }
    }
}

/// A header that was checked, or made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// 0 if the store was invalidated; the kernel writes 1 and takes, and keeps, any other value.
    pub valid: u32,
    /// The chunk size.
    pub chunk_size: ChunkSize,
}

impl Header {
    /// The header of a new store.
    #[must_use]
    pub const fn new(chunk_size: ChunkSize) -> Self {
        Self {
            valid: 1,
            chunk_size,
        }
    }

    /// Whether the store was not invalidated.
    #[inline]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.valid != 0
    }

    /// The header's bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        DiskHeader::encode(DiskHeader {
            magic: MAGIC,
            valid: self.valid,
            version: VERSION,
            chunk_size_sectors: self.chunk_size.sectors(),
        })
    }
}

const _: () = {
    assert!(MAGIC == 0x7041_6e53);
    assert!(HEADER_VALID_OFFSET == HEADER_MAGIC_OFFSET + size_of::<u32>());
    assert!(HEADER_VERSION_OFFSET == HEADER_VALID_OFFSET + size_of::<u32>());
    assert!(HEADER_CHUNK_SIZE_OFFSET == HEADER_VERSION_OFFSET + size_of::<u32>());
    assert!(HEADER_LEN == HEADER_CHUNK_SIZE_OFFSET + size_of::<u32>());
};
