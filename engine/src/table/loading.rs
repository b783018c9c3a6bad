//! Filling a table with what a store has, in bulk: counted first, so that everything gets its place
//! once. Both passes may run on several threads.
//!
//! > `Loading::new`, `count` every run, `make_room`, `add` every run again, `finish`

use std::sync::Mutex;
use std::sync::PoisonError;

use usnap_format::{Exception, NewChunk, OldChunk};

use super::ExceptionTable;
use crate::error::Result;

/// Consecutive old chunks that are mapped to consecutive new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MappedRun {
    pub(crate) old: OldChunk,
    pub(crate) new: NewChunk,
    /// How many chunks.
    pub(crate) count: u64,
}

/// An old chunk with two exceptions: the lowest that was found. There may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TwiceMapped {
    pub(crate) old_chunk: OldChunk,
}

/// The first pass: how much room each part of the table needs.
pub(crate) struct Loading {
    table: ExceptionTable,
}

/// The second pass: every run gets its place.
pub(crate) struct Filling {
    table: ExceptionTable,
    twice: Mutex<Option<TwiceMapped>>,
}

impl Loading {
    /// A table for a snapshot of `chunk_count` chunks is about to be filled.
    ///
    /// # Errors
    /// `Usage` where that is more than can be indexed.
    pub(crate) fn new(chunk_count: u64) -> Result<Self> {
        Ok(Self {
            table: ExceptionTable::new(chunk_count)?,
        })
    }

    /// Counts a run that will be added. What lies behind the last chunk is passed over, here and
    /// by `add`.
    #[expect(
        clippy::unused_self,
        reason = "the places are made when they are needed, for now"
    )]
    pub(crate) fn count(&self, _run: MappedRun) {}

    /// All are counted.
    pub(crate) fn make_room(self) -> Filling {
        Filling {
            table: self.table,
            twice: Mutex::new(None),
        }
    }
}

impl Filling {
    /// Adds a run that was counted. In any order; the runs may be cut otherwise than where they
    /// were counted, but not into more pieces.
    pub(crate) fn add(&self, run: MappedRun) {
        for i in 0..run.count {
            let exception = Exception {
                old_chunk: OldChunk(run.old.0 + i),
                new_chunk: NewChunk(run.new.0 + i),
            };
            if exception.old_chunk.0 >= self.table.chunk_count() {
                return;
            }
            if !self.table.load(exception) {
                let mut twice = self.twice.lock().unwrap_or_else(PoisonError::into_inner);
                let old_chunk = exception.old_chunk;
                if twice.is_none_or(|lowest| old_chunk.0 < lowest.old_chunk.0) {
                    *twice = Some(TwiceMapped { old_chunk });
                }
            }
        }
    }

    /// The table, when all is added.
    ///
    /// # Errors
    /// An old chunk was added twice.
    pub(crate) fn finish(self) -> std::result::Result<ExceptionTable, TwiceMapped> {
        let twice = self.twice.into_inner();
        match twice.unwrap_or_else(PoisonError::into_inner) {
            Some(twice) => Err(twice),
            None => Ok(self.table),
        }
    }
}
