//! Sectors, and the numbers that count chunks and areas. The kernel has one type for chunks of the
//! origin and chunks of the COW device; here they are two, so that they cannot be mixed up.

use core::fmt;

/// Bytes in a sector, whatever the device's block size.
pub const SECTOR_SIZE: u64 = 1 << SECTOR_SHIFT;

/// The log2 of [`SECTOR_SIZE`].
pub const SECTOR_SHIFT: u32 = 9;

/// A chunk of the origin, and so of the snapshot: bytes `n * chunk size` and on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OldChunk(pub u64);

/// A chunk of the COW device, counted from its byte 0: in a persistent store the header is chunk 0.
///
/// Zero is a proper value (a transient store begins there); only a [`DiskException`] gives it
/// another meaning.
///
/// [`DiskException`]: crate::DiskException
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NewChunk(pub u64);

/// A metadata area, counted from 0 in the order in which they fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AreaIndex(pub u64);

impl fmt::Display for OldChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for NewChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for AreaIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
