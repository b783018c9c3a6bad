//! Exceptions: this old chunk lives at that new chunk. SPEC.md section 4.

use core::cmp::Ordering;

use crate::bytes::{put_at, u64_at};
use crate::{FormatError, NewChunk, OldChunk};

/// Bytes of an exception on disk.
pub const EXCEPTION_LEN: usize = 16;

/// Offset of the old chunk in a disk exception.
pub const EXCEPTION_OLD_CHUNK_OFFSET: usize = 0;
/// Offset of the new chunk in a disk exception.
pub const EXCEPTION_NEW_CHUNK_OFFSET: usize = 8;

/// Bits of a new chunk's number that are free to use: the kernel keeps a run length in the rest.
pub const NEW_CHUNK_BITS: u32 = 56;

/// An exception: `old_chunk` of the snapshot lies at `new_chunk` of the COW device.
///
/// Exceptions are ordered by new chunk, then old: the order in which they are allocated and, in a
/// store without tears and holes, the order in which they lie in the areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exception {
    /// The chunk of the origin and the snapshot.
    pub old_chunk: OldChunk,
    /// The chunk of the COW device.
    pub new_chunk: NewChunk,
}

impl Exception {
    /// Whether the kernel would take part of the new chunk's number for a run length.
    #[inline]
    #[must_use]
    pub const fn high_bits_set(self) -> bool {
        self.new_chunk.0 >> NEW_CHUNK_BITS != 0
    }

    /// Checks that this can be written as a disk exception and mean the same to every reader.
    ///
    /// # Errors
    /// [`FormatError::NewChunkZero`], [`FormatError::NewChunkHighBits`].
    pub const fn check_encodable(self) -> Result<(), FormatError> {
        if self.new_chunk.0 == 0 {
            return Err(FormatError::NewChunkZero {
                old_chunk: self.old_chunk.0,
            });
        }
        if self.high_bits_set() {
            return Err(FormatError::NewChunkHighBits {
                new_chunk: self.new_chunk.0,
            });
        }
        Ok(())
    }
}

impl Ord for Exception {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.new_chunk, self.old_chunk).cmp(&(other.new_chunk, other.old_chunk))
    }
}

impl PartialOrd for Exception {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An area's entry as it lies on disk: any 16 bytes are one, and new chunk 0 is the terminator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DiskException {
    /// The chunk of the origin and the snapshot.
    pub old_chunk: u64,
    /// The chunk of the COW device, or 0.
    pub new_chunk: u64,
}

impl DiskException {
    /// Reads an entry. Keeps every bit and judges nothing.
    #[inline]
    #[must_use]
    pub const fn decode(bytes: &[u8; EXCEPTION_LEN]) -> Self {
        Self {
            old_chunk: u64_at::<EXCEPTION_OLD_CHUNK_OFFSET, _>(bytes),
            new_chunk: u64_at::<EXCEPTION_NEW_CHUNK_OFFSET, _>(bytes),
        }
    }

    /// The entry's bytes.
    #[inline]
    #[must_use]
    pub const fn encode(self) -> [u8; EXCEPTION_LEN] {
        let mut bytes = [0; EXCEPTION_LEN];
        put_at::<EXCEPTION_OLD_CHUNK_OFFSET, _, _>(&mut bytes, self.old_chunk.to_le_bytes());
        put_at::<EXCEPTION_NEW_CHUNK_OFFSET, _, _>(&mut bytes, self.new_chunk.to_le_bytes());
        bytes
    }

    /// Whether this ends the store. Only the new chunk counts; old chunk 0 is like any other.
    #[inline]
    #[must_use]
    pub const fn is_terminator(self) -> bool {
        self.new_chunk == 0
    }

    /// Whether the kernel would take part of the new chunk's number for a run length.
    #[inline]
    #[must_use]
    pub const fn high_bits_set(self) -> bool {
        self.new_chunk >> NEW_CHUNK_BITS != 0
    }

    /// The exception that this is; `None` for a terminator.
    #[inline]
    #[must_use]
    pub const fn to_exception(self) -> Option<Exception> {
        if self.is_terminator() {
            return None;
        }
        Some(Exception {
            old_chunk: OldChunk(self.old_chunk),
            new_chunk: NewChunk(self.new_chunk),
        })
    }
}

impl From<Exception> for DiskException {
    #[inline]
    fn from(exception: Exception) -> Self {
        Self {
            old_chunk: exception.old_chunk.0,
            new_chunk: exception.new_chunk.0,
        }
    }
}

const _: () = {
    assert!(EXCEPTION_LEN.is_power_of_two());
    assert!(EXCEPTION_NEW_CHUNK_OFFSET == EXCEPTION_OLD_CHUNK_OFFSET + size_of::<u64>());
    assert!(EXCEPTION_LEN == EXCEPTION_NEW_CHUNK_OFFSET + size_of::<u64>());
};
