//! Exceptions in the two ways that matter, and stores that have them.

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::store::initialise;
use usnap_format::{ChunkSize, Layout};
use usnap_test_support::Rng;

/// Bytes of a chunk.
pub(crate) const CHUNK: u64 = 4096;
/// Entries of an area.
const ENTRIES: u64 = CHUNK / 16;
/// Of so many old chunks one is mapped, where they are scattered.
const SPREAD: u64 = 4;

/// Where the mapped chunks lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// One behind the other, in the order in which they were written.
    Sequential,
    /// One in four, written in random order.
    Scattered,
}

impl Order {
    pub(crate) const ALL: [Self; 2] = [Self::Sequential, Self::Scattered];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Scattered => "scattered",
        }
    }

    /// How many chunks a snapshot has in which so many are mapped, and as many more will be.
    pub(crate) fn chunk_count(self, exceptions: u64) -> u64 {
        match self {
            Self::Sequential => 2 * exceptions,
            Self::Scattered => SPREAD * exceptions,
        }
    }

    /// The old chunks in the order in which they were written.
    pub(crate) fn old_chunks(self, exceptions: u64) -> Vec<u64> {
        match self {
            Self::Sequential => (0..exceptions).collect(),
            Self::Scattered => {
                let mut rng = Rng::new(exceptions);
                let numbers = rng.permutation(exceptions);
                let within = |number| number * SPREAD + rng.below(SPREAD);
                numbers.into_iter().map(within).collect()
            }
        }
    }
}

/// The new chunk that the exception of this number gets: the next that is no metadata.
pub(crate) fn new_chunk(number: u64) -> u64 {
    2 + number + number / ENTRIES
}

pub(crate) fn chunk_size() -> ChunkSize {
    ChunkSize::from_bytes(CHUNK).expect("4 KiB is a chunk size")
}

/// The size of a COW device that never runs full.
pub(crate) fn cow_bytes(origin_bytes: u64) -> u64 {
    let size = Layout::new(chunk_size()).never_full_bytes(origin_bytes);
    size.expect("a small origin")
}

/// Writes a store with these exceptions to `cow`, which is long enough; the data is what is there.
pub(crate) fn write_store(cow: &dyn BlockDevice, old_chunks: &[u64]) {
    initialise(cow, chunk_size(), None).expect("a store fits");
    let per_area = usize::try_from(ENTRIES).expect("small");
    let mut areas: Vec<&[u64]> = old_chunks.chunks(per_area).collect();
    if old_chunks.len().is_multiple_of(per_area) {
        // The area that takes the next one.
        areas.push(&[]);
    }
    let mut number = 0;
    for (area, old_chunks) in (0..).zip(areas) {
        let mut bytes = Vec::new();
        for old_chunk in old_chunks {
            bytes.extend(old_chunk.to_le_bytes());
            bytes.extend(new_chunk(number).to_le_bytes());
            number += 1;
        }
        bytes.resize(usize::try_from(CHUNK).expect("small"), 0);
        let written = cow.write_at(&bytes, (1 + area * (ENTRIES + 1)) * CHUNK);
        written.expect("the device is long enough");
    }
    cow.flush().expect("it is there");
}

/// A device in memory with something everywhere.
pub(crate) fn filled(size_bytes: u64) -> MemDevice {
    let device = MemDevice::new(size_bytes);
    let mut piece = vec![0; 1 << 20];
    Rng::new(7).fill(&mut piece);
    let pieces = (0..size_bytes).step_by(piece.len());
    for offset in pieces {
        let len = (size_bytes - offset).min(piece.len() as u64);
        let bytes = &piece[..usize::try_from(len).expect("small")];
        device.write_at(bytes, offset).expect("in range");
    }
    device
}
