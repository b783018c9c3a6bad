//! Handles on what is inside, thin ones, for the benches that measure it alone. Not a part of the
//! library's interface: anything here may change.

use usnap_format::{ChunkSize, Exception, Layout, NewChunk, OldChunk};

use crate::error::{Error, ErrorKind, Result};
use crate::store::persistent::commit::encode_area;
use crate::table::{ExceptionTable, Loading, MappedRun, Slot};

/// The exception index.
pub struct Index(ExceptionTable);

impl Index {
    /// An empty index for a snapshot of `chunk_count` chunks.
    ///
    /// # Errors
    /// `Usage` where that is more than can be indexed.
    pub fn new(chunk_count: u64) -> Result<Self> {
        ExceptionTable::new(chunk_count).map(Self)
    }

    /// One that is filled in bulk, as opening a store does, with runs of an old chunk, a new chunk,
    /// and how many follow each other from there on.
    ///
    /// # Errors
    /// As `new`, and `Corrupt` where an old chunk occurs twice.
    pub fn filled(chunk_count: u64, runs: &[(u64, u64, u64)]) -> Result<Self> {
        Self::filled_with(chunk_count, || runs.iter().copied())
    }

    /// The same with runs that are told twice, so that they need not be kept.
    ///
    /// # Errors
    /// As `filled`.
    pub fn filled_with<I>(chunk_count: u64, runs: impl Fn() -> I) -> Result<Self>
    where
        I: Iterator<Item = (u64, u64, u64)>,
    {
        let run = |(old, new, count)| MappedRun {
            old: OldChunk(old),
            new: NewChunk(new),
            count,
        };
        let loading = Loading::new(chunk_count)?;
        runs().for_each(|it| loading.count(run(it)));
        let filling = loading.make_room();
        runs().for_each(|it| filling.add(run(it)));
        filling.finish().map(Self).map_err(|twice| {
            let context = format!("cannot index old chunk {} twice", twice.old_chunk);
            Error::new(ErrorKind::Corrupt, context)
        })
    }

    /// The new chunk of `old_chunk`, where it has one.
    #[inline]
    #[must_use]
    pub fn lookup(&self, old_chunk: u64) -> Option<u64> {
        mapped(self.0.lookup(OldChunk(old_chunk)))
    }

    /// The first new chunk of the run that begins at `old_chunk`, where it is mapped, and how long
    /// the run is, at most `max_count` (> 0).
    #[inline]
    #[must_use]
    pub fn run_at(&self, old_chunk: u64, max_count: u64) -> (Option<u64>, u64) {
        let run = self.0.run_at(OldChunk(old_chunk), max_count);
        (mapped(run.slot), run.count)
    }

    /// Claims `count` chunks and publishes them, as a first write does; how many it were.
    #[inline]
    pub fn insert(&self, old_chunk: u64, new_chunk: u64, count: u64) -> u64 {
        let Some(mut claim) = self.0.claim(OldChunk(old_chunk), count) else {
            return 0;
        };
        let claimed = claim.count();
        claim.publish(claimed, NewChunk(new_chunk));
        claimed
    }
}

fn mapped(slot: Slot) -> Option<u64> {
    match slot {
        Slot::Mapped(new) => Some(new.0),
        Slot::Unmapped => None,
    }
}

/// Fills `area` with the bytes of one area: these exceptions, then zeros.
///
/// # Errors
/// More exceptions than an area holds, or one that can't be encoded.
pub fn encode_whole_area(
    chunk_size: ChunkSize,
    area: &mut Vec<u8>,
    exceptions: &[Exception],
) -> Result<()> {
    let all = 0..exceptions.len() as u64;
    encode_area(Layout::new(chunk_size), area, exceptions, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_finds_what_it_was_filled_with_and_what_was_inserted() {
        let index = Index::filled(1000, &[(10, 100, 5), (500, 7, 1)]).unwrap();
        assert_eq!(index.lookup(12), Some(102));
        assert_eq!(index.lookup(15), None);
        assert_eq!(index.run_at(11, 100), (Some(101), 4));
        assert_eq!(index.insert(15, 300, 2), 2);
        assert_eq!(index.insert(500, 301, 1), 0);
        assert_eq!(index.lookup(16), Some(301));
        assert!(Index::filled(1000, &[(10, 100, 5), (12, 7, 1)]).is_err());
    }
}
