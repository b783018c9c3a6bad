//! The exception index: where each old chunk lives, looked up without a lock.
//!
//! Three levels, each made when first needed: a root over the whole snapshot, nodes of 512 leaves,
//! leaves of 64 slots. A slot is one atomic word. Its life: unmapped -> pending (one writer's
//! claim) -> mapped, or back to unmapped when the writer gives up. A mapped slot never changes, but
//! where a merge that is served takes it out.
//!
//! Claims are the snapshot's only per-chunk lock: whoever turns a slot from unmapped to pending is
//! the only one to allocate for it. Others who want to write there wait; readers see the origin.

mod claim;
#[cfg_attr(
    not(any(test, feature = "parts")),
    expect(dead_code, reason = "opening builds on it next")
)]
mod loading;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use usnap_format::{Exception, NewChunk, OldChunk};

use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

pub(crate) use claim::Claim;
#[cfg_attr(
    not(feature = "parts"),
    expect(unused_imports, reason = "opening builds on it next")
)]
pub(crate) use loading::{Loading, MappedRun};

const LEAF_LEN: usize = 64;
const LEAF_SLOTS: u64 = LEAF_LEN as u64;
const NODE_LEN: usize = 512;
const NODE_LEAVES: u64 = NODE_LEN as u64;
const NODE_SLOTS: u64 = LEAF_SLOTS * NODE_LEAVES;

/// The root is made whole: 256 MiB at the most, for 2 PiB in chunks of 4 KiB.
const NODES_MAX: u64 = 1 << 24;

const UNMAPPED: u64 = 0;
const PENDING: u64 = 1;
/// Mapped slots hold the new chunk number plus this.
const MAPPED: u64 = 2;

type Leaf = [AtomicU64; LEAF_LEN];
type Node = [OnceLock<Box<Leaf>>; NODE_LEN];

/// What a slot says of its old chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The origin has it.
    Unmapped,
    /// A writer is at work; the origin has it until it is done.
    Pending,
    /// The COW device has it.
    Mapped(NewChunk),
}

impl Slot {
    #[inline]
    fn of(word: u64) -> Self {
        match word {
            UNMAPPED => Self::Unmapped,
            PENDING => Self::Pending,
            mapped => Self::Mapped(NewChunk(mapped - MAPPED)),
        }
    }
}

/// Consecutive old chunks with one answer: all unmapped, all pending, or mapped to consecutive
/// new chunks of which `slot` names the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) slot: Slot,
    pub(crate) count: u64,
}

/// The exception index. The module's documentation has the rules.
pub(crate) struct ExceptionTable {
    root: Box<[OnceLock<Box<Node>>]>,
    chunk_count: u64,
    waiters: AtomicUsize,
    wait_lock: Mutex<()>,
    wait_over: Condvar,
}

impl ExceptionTable {
    /// An empty table for a snapshot of `chunk_count` chunks.
    ///
    /// # Errors
    /// `Usage` where that is more than can be indexed.
    pub(crate) fn new(chunk_count: u64) -> Result<Self> {
        let nodes = chunk_count.div_ceil(NODE_SLOTS);
        if nodes > NODES_MAX {
            let context = format!(
                "cannot index {chunk_count} chunks: at most {} can be",
                NODES_MAX * NODE_SLOTS
            );
            return Err(Error::new(ErrorKind::Usage, context)
                .with_hint("the origin is too large for this chunk size; take a larger one"));
        }
        Ok(Self {
            root: (0..nodes).map(|_| OnceLock::new()).collect(),
            chunk_count,
            waiters: AtomicUsize::new(0),
            wait_lock: Mutex::new(()),
            wait_over: Condvar::new(),
        })
    }

    /// How many old chunks there are.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.chunk_count
    }

    /// Where `old_chunk` lives.
    #[inline]
    pub(crate) fn lookup(&self, old_chunk: OldChunk) -> Slot {
        self.leaf(old_chunk.0)
            .and_then(|leaf| leaf.get(slot_index(old_chunk.0)))
            .map_or(
                Slot::Unmapped,
                // Acquire: what the writer wrote before it published is there to be read.
                |slot| Slot::of(slot.load(Ordering::Acquire)),
            )
    }

    /// The run that begins at `old_chunk`, at most `max_count` (> 0) chunks long. It may end early
    /// where an equal run follows.
    #[inline]
    pub(crate) fn run_at(&self, old_chunk: OldChunk, max_count: u64) -> Run {
        let slot = self.lookup(old_chunk);
        if max_count <= 1 {
            return Run { slot, count: 1 };
        }
        let mut count = 1;
        while count < max_count {
            let next = old_chunk.0 + count;
            if slot == Slot::Unmapped {
                let absent = self.absent_slots(next);
                if absent > 0 {
                    count += absent;
                    continue;
                }
            }
            let same = match (slot, self.lookup(OldChunk(next))) {
                (Slot::Mapped(first), Slot::Mapped(new)) => new.0 == first.0 + count,
                (Slot::Mapped(_), _) | (_, Slot::Mapped(_)) => false,
                (a, b) => a == b,
            };
            if !same {
                break;
            }
            count += 1;
        }
        Run {
            slot,
            count: count.min(max_count),
        }
    }

    /// How many slots from `old_chunk` on have no node or no leaf yet, up to the end of that node.
    fn absent_slots(&self, old_chunk: u64) -> u64 {
        match self
            .root
            .get(to_usize(old_chunk / NODE_SLOTS))
            .map(OnceLock::get)
        {
            Some(Some(node)) => {
                let leaf = node.get(to_usize(old_chunk % NODE_SLOTS / LEAF_SLOTS));
                if leaf.is_some_and(|leaf| leaf.get().is_none()) {
                    LEAF_SLOTS - old_chunk % LEAF_SLOTS
                } else {
                    0
                }
            }
            _ => NODE_SLOTS - old_chunk % NODE_SLOTS,
        }
    }

    /// Enters an exception that was read from the device; false if `old_chunk` has one already or
    /// does not exist. For one thread, before anything is served.
    pub(crate) fn load(&self, exception: Exception) -> bool {
        let Some(slot) = self.slot_or_new(exception.old_chunk) else {
            return false;
        };
        let word = exception.new_chunk.0.saturating_add(MAPPED);
        slot.compare_exchange(UNMAPPED, word, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes out an exception that was merged: the origin has its chunk from here on. Not for a table
    /// in which chunks are claimed.
    pub(crate) fn unload(&self, old_chunk: OldChunk) {
        if let Some(slot) = self.slot_or_new(old_chunk) {
            // Release: who finds it unmapped finds what was copied before on the origin.
            slot.store(UNMAPPED, Ordering::Release);
        }
    }

    /// Waits until `old_chunk` is not pending any more.
    pub(crate) fn wait_while_pending(&self, old_chunk: OldChunk) {
        // SeqCst here and in `wake_waiters`: either the waiter sees the new slot, or whoever
        // changed the slot sees the waiter.
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let mut guard = self
            .wait_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while self.lookup_seq_cst(old_chunk) == Slot::Pending {
            guard = self
                .wait_over
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.waiters.fetch_sub(1, Ordering::SeqCst);
    }

    fn lookup_seq_cst(&self, old_chunk: OldChunk) -> Slot {
        self.leaf(old_chunk.0)
            .and_then(|leaf| leaf.get(slot_index(old_chunk.0)))
            .map_or(Slot::Unmapped, |slot| Slot::of(slot.load(Ordering::SeqCst)))
    }

    fn wake_waiters(&self) {
        if self.waiters.load(Ordering::SeqCst) > 0 {
            // Under the lock, so that no waiter is between its look and its sleep.
            let guard = self
                .wait_lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.wait_over.notify_all();
            drop(guard);
        }
    }

    #[inline]
    fn leaf(&self, old_chunk: u64) -> Option<&Leaf> {
        let node = self.root.get(to_usize(old_chunk / NODE_SLOTS))?.get()?;
        let leaf = node
            .get(to_usize(old_chunk % NODE_SLOTS / LEAF_SLOTS))?
            .get()?;
        Some(leaf)
    }

    fn slot_or_new(&self, old_chunk: OldChunk) -> Option<&AtomicU64> {
        if old_chunk.0 >= self.chunk_count {
            return None;
        }
        let node = self.root.get(to_usize(old_chunk.0 / NODE_SLOTS))?;
        let node = node.get_or_init(|| Box::new([const { OnceLock::new() }; NODE_LEN]));
        let leaf = node.get(to_usize(old_chunk.0 % NODE_SLOTS / LEAF_SLOTS))?;
        let leaf = leaf.get_or_init(|| Box::new([const { AtomicU64::new(0) }; LEAF_LEN]));
        leaf.get(slot_index(old_chunk.0))
    }
}

#[inline]
fn slot_index(old_chunk: u64) -> usize {
    to_usize(old_chunk % LEAF_SLOTS)
}

#[cfg(test)]
mod tests;
