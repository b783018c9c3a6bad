//! How full a store is, in the words and figures of `dmsetup status`. SPEC.md section 8.

use core::fmt;

use crate::{AreaIndex, ChunkSize, Layout, NewChunk, SECTOR_SHIFT};

/// The figures of an active snapshot's status line. `Display` prints them as the kernel does:
/// `allocated/total metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Usage {
    /// Sectors up to the next free chunk: header, areas and data, and any holes.
    pub sectors_allocated: u64,
    /// Sectors of the COW device, not rounded to chunks.
    pub total_sectors: u64,
    /// Sectors of the header and the areas in use.
    pub metadata_sectors: u64,
}

impl Usage {
    /// The usage of a persistent store. Pending exceptions count: they have moved `next_free`.
    #[must_use]
    pub fn persistent(
        layout: Layout,
        next_free: NewChunk,
        current_area: AreaIndex,
        device_bytes: u64,
    ) -> Self {
        let chunk_sectors = u64::from(layout.chunk_size.sectors());
        // The header, the areas before the current one, and the current one.
        let metadata_chunks = current_area.0.saturating_add(2);
        Self {
            sectors_allocated: next_free.0.saturating_mul(chunk_sectors),
            total_sectors: device_bytes >> SECTOR_SHIFT,
            metadata_sectors: metadata_chunks.saturating_mul(chunk_sectors),
        }
    }

    /// The usage of a transient store, which has no metadata and begins at chunk 0.
    #[must_use]
    pub fn transient(next_free: NewChunk, chunk_size: ChunkSize, device_bytes: u64) -> Self {
        Self {
            sectors_allocated: next_free.0.saturating_mul(u64::from(chunk_size.sectors())),
            total_sectors: device_bytes >> SECTOR_SHIFT,
            metadata_sectors: 0,
        }
    }

    /// Whether there is no exception: how everyone tells that a merge has finished.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.sectors_allocated == self.metadata_sectors
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} {}",
            self.sectors_allocated, self.total_sectors, self.metadata_sectors
        )
    }
}

/// What `dmsetup status` prints after the target's name. `Display` prints it in the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// In use, and this full.
    Active(Usage),
    /// Invalidated: nothing can be read.
    Invalid,
    /// Merging into the origin hit an error.
    MergeFailed,
    /// A write found no room. (This code reports [`Self::Active`] then and takes other writes.)
    Overflow,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active(usage) => fmt::Display::fmt(usage, f),
            Self::Invalid => f.write_str("Invalid"),
            Self::MergeFailed => f.write_str("Merge failed"),
            Self::Overflow => f.write_str("Overflow"),
        }
    }
}
