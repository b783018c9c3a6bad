//! The chunk size, and what follows from it alone. SPEC.md section 2.

use crate::{EXCEPTION_LEN, FormatError, NewChunk, OldChunk, SECTOR_SHIFT, SECTOR_SIZE};

/// A chunk size: a power of two of at least one sector and at most [`Self::MAX_SECTORS`].
///
/// Being a power of two, it divides by shifting, and no arithmetic with it can overflow except
/// where a method says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSize {
    /// The log2 of the size in bytes: 9 (512 bytes) to 30 (1 GiB).
    shift: u32,
}

impl ChunkSize {
    /// The largest chunk size that the kernel takes, in sectors: 1 GiB.
    pub const MAX_SECTORS: u32 = 1 << 21;

    /// The chunk size of `sectors`.
    ///
    /// # Errors
    /// [`FormatError::ChunkSizeNotPowerOfTwo`], [`FormatError::ChunkSizeTooLarge`].
    pub const fn from_sectors(sectors: u32) -> Result<Self, FormatError> {
        if !sectors.is_power_of_two() {
            return Err(FormatError::ChunkSizeNotPowerOfTwo {
                sectors: sectors as u64,
            });
        }
        if sectors > Self::MAX_SECTORS {
            return Err(FormatError::ChunkSizeTooLarge {
                sectors: sectors as u64,
            });
        }
        Ok(Self {
            shift: sectors.trailing_zeros().saturating_add(SECTOR_SHIFT),
        })
    }

    /// The chunk size of `bytes`.
    ///
    /// # Errors
    /// [`FormatError::ChunkSizeNotSectors`], [`FormatError::ChunkSizeNotPowerOfTwo`],
    /// [`FormatError::ChunkSizeTooLarge`].
    pub const fn from_bytes(bytes: u64) -> Result<Self, FormatError> {
        if !bytes.is_multiple_of(SECTOR_SIZE) {
            return Err(FormatError::ChunkSizeNotSectors { bytes });
        }
        let sectors = bytes >> SECTOR_SHIFT;
        if !sectors.is_power_of_two() {
            return Err(FormatError::ChunkSizeNotPowerOfTwo { sectors });
        }
        if sectors > Self::MAX_SECTORS as u64 {
            return Err(FormatError::ChunkSizeTooLarge { sectors });
        }
        Ok(Self {
            shift: bytes.trailing_zeros(),
        })
    }

    /// The size in sectors, as the header and the table line have it.
    #[inline]
    #[must_use]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the shift is between 9 and 30"
    )]
    pub const fn sectors(self) -> u32 {
        1 << (self.shift - SECTOR_SHIFT)
    }

    /// The size in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// The log2 of the size in bytes.
    #[inline]
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.shift
    }

    /// How many exceptions one area holds: `bytes / 16`.
    #[inline]
    #[must_use]
    pub const fn exceptions_per_area(self) -> u64 {
        self.bytes() >> (EXCEPTION_LEN as u64).trailing_zeros()
    }

    /// The distance of one area from the next in chunks: itself and the data chunks it describes.
    #[inline]
    #[must_use]
    pub const fn stride(self) -> u64 {
        self.exceptions_per_area().saturating_add(1)
    }

    /// The chunk in which the byte at `offset` lies.
    #[inline]
    #[must_use]
    pub const fn chunk_of(self, offset: u64) -> u64 {
        offset >> self.shift
    }

    /// How far the byte at `offset` lies behind its chunk's beginning.
    #[inline]
    #[must_use]
    pub const fn offset_in_chunk(self, offset: u64) -> u64 {
        offset & self.bytes().saturating_sub(1)
    }

    /// How many chunks it takes to hold `bytes`: rounded up, as an origin's last chunk may be cut.
    #[inline]
    #[must_use]
    pub const fn chunks_to_hold(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes())
    }

    /// How many whole chunks `bytes` hold: rounded down, as a COW device's cut last chunk is unused.
    #[inline]
    #[must_use]
    pub const fn whole_chunks(self, bytes: u64) -> u64 {
        bytes >> self.shift
    }

    /// The byte at which `chunk` begins on the origin; `None` if that is no u64.
    #[inline]
    #[must_use]
    pub const fn old_to_offset(self, chunk: OldChunk) -> Option<u64> {
        chunk.0.checked_mul(self.bytes())
    }

    /// The byte at which `chunk` begins on the COW device; `None` if that is no u64.
    #[inline]
    #[must_use]
    pub const fn new_to_offset(self, chunk: NewChunk) -> Option<u64> {
        chunk.0.checked_mul(self.bytes())
    }
}

impl Default for ChunkSize {
    /// 4 KiB: what LVM, dracut and Android use. (The kernel's own default is 16 KiB.)
    fn default() -> Self {
        Self { shift: 12 }
    }
}

const _: () = {
    assert!(ChunkSize { shift: 9 }.sectors() == 1);
    assert!(ChunkSize { shift: 30 }.sectors() == ChunkSize::MAX_SECTORS);
    assert!(ChunkSize { shift: 9 }.exceptions_per_area() == 32);
    assert!(ChunkSize { shift: 12 }.stride() == 257);
    // An area leaves no slack: the kernel's entries fill it exactly.
    assert!(ChunkSize { shift: 9 }.exceptions_per_area() * EXCEPTION_LEN as u64 == SECTOR_SIZE);
};
