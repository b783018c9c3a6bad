//! A store of scattered chunks, made byte by byte.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use usnap_test_support::cow_bytes::{Header, store};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Rng, Scratch};

/// Bytes of a chunk.
pub(crate) const CHUNK: u64 = 4096;
const ENTRIES: u64 = CHUNK / 16;

/// The files, and what the store has.
pub(crate) struct Store {
    pub(crate) origin: PathBuf,
    pub(crate) cow: PathBuf,
    /// Old chunk and new chunk, in the order of the store.
    pub(crate) exceptions: Vec<(u64, u64)>,
}

impl Store {
    /// Old chunks in random order, new chunks in the order in which they were taken.
    pub(crate) fn make(scratch: &Scratch, origin_bytes: u64, exceptions: u64) -> Result<Self> {
        let origin_chunks = origin_bytes / CHUNK;
        ensure!(exceptions <= origin_chunks, "more exceptions than chunks");
        let (origin, cow) = (scratch.join("origin.img"), scratch.join("c.cow"));
        random_file(&origin, origin_bytes, 1)?;
        let number = |n: u64| 2 + n + n / ENTRIES;
        random_file(&cow, (number(exceptions) + 2) * CHUNK, 2)?;
        let mut old_chunks = Rng::new(3).permutation(origin_chunks);
        old_chunks.truncate(usize::try_from(exceptions)?);
        let numbers = (0..exceptions).map(number);
        Ok(Self {
            origin,
            cow,
            exceptions: old_chunks.into_iter().zip(numbers).collect(),
        })
    }

    /// Writes header and areas, which a merge cleared.
    pub(crate) fn refill(&self) -> Result<()> {
        let file = File::options().write(true).open(&self.cow)?;
        let header = store(Header::valid(8), 0, &[], usize::try_from(CHUNK)?);
        file.write_all_at(&header, 0)?;
        let entries = usize::try_from(ENTRIES)?;
        let mut areas: Vec<&[(u64, u64)]> = self.exceptions.chunks(entries).collect();
        if self.exceptions.len().is_multiple_of(entries) {
            // The area that takes the next one.
            areas.push(&[]);
        }
        for (area, entries) in (0..).zip(areas) {
            let mut bytes = Vec::with_capacity(usize::try_from(CHUNK)?);
            for (old_chunk, new_chunk) in entries {
                bytes.extend(old_chunk.to_le_bytes());
                bytes.extend(new_chunk.to_le_bytes());
            }
            bytes.resize(usize::try_from(CHUNK)?, 0);
            file.write_all_at(&bytes, (1 + area * (ENTRIES + 1)) * CHUNK)?;
        }
        file.sync_all()?;
        Ok(())
    }

    /// Looks at some chunks of the origin: they are the store's.
    pub(crate) fn check_origin(&self) -> Result<()> {
        let (origin, cow) = (File::open(&self.origin)?, File::open(&self.cow)?);
        let (mut is, mut wanted) = ([0; 4096], [0; 4096]);
        for (old_chunk, new_chunk) in self.exceptions.iter().step_by(97) {
            origin.read_exact_at(&mut is, old_chunk * CHUNK)?;
            cow.read_exact_at(&mut wanted, new_chunk * CHUNK)?;
            ensure!(is == wanted, "chunk {old_chunk} was not merged");
        }
        Ok(())
    }
}
