//! The exception index: where each old chunk lives, looked up without a lock.
//!
//! 512 old chunks are a *region*. Each has a head of two words in one flat array: which eighths of an
//! eighth of it have anything, and where its block is. A block has the region's runs, sorted, one word
//! each; or, where they are many, a word for each chunk. DESIGN.md, "The exception index", has the
//! invariants and the order of loads and stores.
//!
//! A chunk goes unmapped, claimed, mapped, or back to unmapped when its writer gives up. Mapped it
//! never changes, but where a merge that is served takes it out. Claims are the snapshot's only
//! per-chunk lock: whoever claims a chunk is the only one to allocate for it, and others who want to
//! write there wait. Readers don't see them: the origin has a claimed chunk until it is published.

mod arena;
mod buddies;
mod claim;
mod edit;
mod head;
mod loading;
mod read;
mod search;
mod segments;

use std::sync::atomic::AtomicU64;

use usnap_format::{Exception, NewChunk, OldChunk};

use self::arena::Arena;
use self::claim::Shards;
use self::head::{REGION_CHUNKS, REGION_MASK};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

pub(crate) use claim::Claim;
pub(crate) use loading::{Loading, MappedRun};

/// 2 PiB in chunks of 4 KiB. The heads of that are 16 GiB of addresses, of which only those are
/// touched that something is entered in.
const CHUNKS_MAX: u64 = 1 << 39;

/// For so many chunks a bit says whether anything was ever entered there, so that looking for the
/// next mapped chunk does not touch their heads.
const TOUCHED_CHUNKS: u64 = 64 * REGION_CHUNKS;

/// What the index says of an old chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The origin has it.
    Unmapped,
    /// The COW device has it.
    Mapped(NewChunk),
}

/// Consecutive old chunks with one answer: all unmapped, or mapped to consecutive new chunks of
/// which `slot` names the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) slot: Slot,
    pub(crate) count: u64,
}

/// The exception index. The module's documentation has the rules.
pub(crate) struct ExceptionTable {
    /// By region: presence, and the head of its block.
    heads: Box<[[AtomicU64; 2]]>,
    touched: Box<[AtomicU64]>,
    arena: Arena,
    shards: Shards,
    chunk_count: u64,
}

impl ExceptionTable {
    /// An empty table for a snapshot of `chunk_count` chunks.
    ///
    /// # Errors
    /// `Usage` where that is more than can be indexed.
    pub(crate) fn new(chunk_count: u64) -> Result<Self> {
        let refuse = |why: String| {
            let context = format!("cannot index {chunk_count} chunks: {why}");
            Error::new(ErrorKind::Usage, context)
                .with_hint("the origin is too large for this chunk size; take a larger one")
        };
        if chunk_count > CHUNKS_MAX {
            return Err(refuse(format!("at most {CHUNKS_MAX} can be")));
        }
        let regions = chunk_count.div_ceil(REGION_CHUNKS);
        let parts = chunk_count.div_ceil(TOUCHED_CHUNKS);
        let no_memory = |()| refuse("there is not enough memory".to_owned());
        Ok(Self {
            heads: bytemuck::allocation::try_zeroed_slice_box(to_usize(regions))
                .map_err(no_memory)?,
            touched: bytemuck::allocation::try_zeroed_slice_box(to_usize(parts.div_ceil(64)))
                .map_err(no_memory)?,
            arena: Arena::new(0),
            shards: Shards::new(),
            chunk_count,
        })
    }

    /// How many old chunks there are.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.chunk_count
    }

    /// Where `old_chunk` lives.
    #[inline]
    pub(crate) fn lookup(&self, old_chunk: OldChunk) -> Slot {
        match self.find(old_chunk.0) {
            Some(new) => Slot::Mapped(NewChunk(new)),
            None => Slot::Unmapped,
        }
    }

    /// The run that begins at `old_chunk`, at most `max_count` (> 0) chunks long. It ends where
    /// another answer begins, or where one begins that was given while this was looked for.
    #[inline]
    pub(crate) fn run_at(&self, old_chunk: OldChunk, max_count: u64) -> Run {
        if max_count <= 1 {
            let slot = self.lookup(old_chunk);
            return Run { slot, count: 1 };
        }
        self.long_run_at(old_chunk.0, max_count)
    }

    fn long_run_at(&self, old_chunk: u64, max_count: u64) -> Run {
        let first = self.piece_at(old_chunk, max_count);
        let mut count = first.count;
        while count < max_count {
            // Inside a region a mapped piece ends only where another answer begins.
            if first.new.is_some() && (old_chunk + count) & REGION_MASK != 0 {
                break;
            }
            let next = self.piece_at(old_chunk + count, max_count - count);
            if next.new != first.new.map(|new| new + count) {
                break;
            }
            count += next.count;
        }
        Run {
            slot: first
                .new
                .map_or(Slot::Unmapped, |new| Slot::Mapped(NewChunk(new))),
            count,
        }
    }

    /// Enters one exception; false if `old_chunk` has one already or does not exist. Not for a
    /// chunk that is claimed.
    pub(crate) fn load(&self, exception: Exception) -> bool {
        let (old, new) = (exception.old_chunk, exception.new_chunk);
        if old.0 >= self.chunk_count {
            return false;
        }
        let _claims = self.shards.lock(old);
        let is_free = self.find(old.0).is_none();
        if is_free {
            self.insert(MappedRun { old, new, count: 1 }, None);
        }
        is_free
    }

    /// Takes out an exception that was merged: the origin has its chunk from here on. Not for a table
    /// in which chunks are claimed.
    pub(crate) fn unload(&self, old_chunk: OldChunk) {
        if old_chunk.0 < self.chunk_count {
            let _claims = self.shards.lock(old_chunk);
            self.remove(old_chunk.0);
        }
    }

    /// How many bytes the blocks' segments have, touched or not.
    #[cfg(test)]
    fn blocks_bytes(&self) -> u64 {
        self.arena.bytes()
    }

    /// How many of them were ever handed out.
    #[cfg(test)]
    fn blocks_used_bytes(&self) -> u64 {
        self.arena.used_bytes()
    }
}

#[cfg(test)]
mod tests;
