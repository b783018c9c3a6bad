//! The merge itself: batch after batch, from the last entry backwards, as without clients; only that
//! a batch's chunks are frozen before they are copied, and are the origin's once they are cleared.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::report::MergeState;
use super::{OnlineMerge, Work};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::merge::clear;

impl OnlineMerge {
    /// Merges until nothing is left, until it is told to stop, or until something fails; which of
    /// them `progress` says. For a thread of its own.
    pub fn run(&self) {
        let merged = self.merge_all();
        let state = match merged {
            Ok(true) => {
                tracing::info!("the merge is done: {} chunks", self.total);
                MergeState::Done
            }
            // Another open goes on.
            Ok(false) => return,
            Err(error) => {
                tracing::error!(
                    "the merge failed, and serving goes on; serve it again to go on with it: \
                     {error:?}"
                );
                MergeState::Failed(format!("{error:?}"))
            }
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Tells the merge to stop at the next safe place. What is left is for the next one.
    pub fn stop(&self) {
        self.stops.store(true, Ordering::SeqCst);
    }

    /// Merges a batch; false where there is none, or where it was told to stop. For tests.
    ///
    /// # Errors
    /// As a device answers.
    #[doc(hidden)]
    pub fn merge_one_batch(&self) -> Result<bool> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        self.merge_batch(&mut work)
    }

    /// Whether nothing is left.
    fn merge_all(&self) -> Result<bool> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        while self.merge_batch(&mut work)? {}
        if work.tail.committed() > 0 {
            return Ok(false);
        }
        // The areas above the last batch's lowest.
        self.cow.flush()?;
        Ok(true)
    }

    fn merge_batch(&self, work: &mut Work) -> Result<bool> {
        let is_stopped = || self.stops.load(Ordering::SeqCst);
        let chunk_size = self.layout.chunk_size;
        let chunks = self.options.batch_bytes / chunk_size.bytes();
        let Some(first) = work.tail.next_first(chunks) else {
            return Ok(false);
        };
        if is_stopped() {
            return Ok(false);
        }
        let batch = work.tail.read(&self.cow, first, self.size_bytes)?;
        let old_chunks = batch.entries.iter().map(|entry| entry.old_chunk.0);
        // Who looked one of them up before has written when this returns.
        self.gate.freeze(old_chunks.collect());
        let copied = work
            .copier
            .copy(&self.cow, &self.origin, chunk_size, &batch, &is_stopped)
            .and_then(|is_whole| self.origin.flush().map(|()| is_whole));
        match copied {
            Ok(true) => {}
            // The entries are there still, and so is what they name.
            Ok(false) => {
                self.gate.thaw();
                return Ok(false);
            }
            Err(error) => {
                self.gate.thaw();
                return Err(self.failure(error, "copy"));
            }
        }
        if let Err(error) = clear::clear(&self.cow, self.layout, &batch) {
            // Some of them may be gone from the device: what is written to the COW now would be
            // lost with the next open, what is written to the origin would stay hidden.
            self.gate.keep_frozen();
            return Err(self.failure(error, "clear the entries of"));
        }
        for entry in &batch.entries {
            self.table.unload(entry.old_chunk);
        }
        work.tail.cleared(first);
        self.left.store(work.tail.committed(), Ordering::SeqCst);
        self.gate.thaw();
        Ok(true)
    }

    #[cold]
    fn failure(&self, error: Error, verb: &str) -> Error {
        error.context(format!("cannot {verb} a batch of {}", self.name))
    }
}
