//! Who may write to mapped chunks, and when. A writer passes the gate, looks its chunks up, and has
//! written before it leaves; the merge closes the gate for a moment to freeze a batch, which is when
//! nobody is inside: so whoever looked up "mapped" before has ended, and whoever comes later finds
//! the chunk frozen and waits until the batch is done.
//!
//! Readers pass no gate: a chunk's data stays on the COW device, unchanged, after it was merged. So a
//! read that looked it up before shows what was there when it began.

use std::sync::{Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard};

use usnap_format::OldChunk;

use crate::error::{Error, ErrorKind, Result};

/// The gate of one merge.
#[derive(Default)]
pub(super) struct Gate {
    frozen: RwLock<Frozen>,
    /// The number of the last batch that is done.
    done: Mutex<u64>,
    batch_done: Condvar,
}

/// The chunks of the batch under way.
#[derive(Default)]
struct Frozen {
    batch: u64,
    /// Ascending.
    chunks: Vec<u64>,
    /// They are frozen for good.
    stuck: bool,
}

/// A writer that is inside.
pub(super) struct Inside<'a>(RwLockReadGuard<'a, Frozen>);

/// How much of a run may be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// So many chunks, > 0.
    Chunks(u64),
    /// None: the first one is frozen in this batch.
    WaitFor(u64),
    /// None, for as long as the process lives.
    Never,
}

impl Gate {
    /// Goes inside. What is looked up from here on stays true until the value is dropped.
    pub(super) fn enter(&self) -> Inside<'_> {
        Inside(self.frozen.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until everybody is outside, and freezes these chunks.
    pub(super) fn freeze(&self, mut chunks: Vec<u64>) {
        chunks.sort_unstable();
        let mut frozen = self.frozen.write().unwrap_or_else(PoisonError::into_inner);
        frozen.batch += 1;
        frozen.chunks = chunks;
    }

    /// Lets everybody write who waits: the batch is done, or given up.
    pub(super) fn thaw(&self) {
        let batch = {
            let mut frozen = self.frozen.write().unwrap_or_else(PoisonError::into_inner);
            frozen.chunks = Vec::new();
            frozen.batch
        };
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = batch;
        self.batch_done.notify_all();
    }

    /// The chunks of this batch stay frozen: nobody knows whether their entries are on the device.
    /// Who waits for them is refused.
    pub(super) fn keep_frozen(&self) {
        let batch = {
            let mut frozen = self.frozen.write().unwrap_or_else(PoisonError::into_inner);
            frozen.stuck = true;
            frozen.batch
        };
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = batch;
        self.batch_done.notify_all();
    }

    /// Waits until this batch is done. To be called outside.
    pub(super) fn wait_for(&self, batch: u64) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.batch_done.wait_while(done, |done| *done < batch);
        drop(done.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Inside<'_> {
    /// What may be written of the run of `count` mapped chunks from `first` on.
    pub(super) fn leave_for(&self, first: OldChunk, count: u64) -> Leave {
        let Frozen {
            batch,
            chunks,
            stuck,
        } = &*self.0;
        let next = chunks.partition_point(|chunk| *chunk < first.0);
        match chunks.get(next) {
            Some(chunk) if *chunk == first.0 && *stuck => Leave::Never,
            Some(chunk) if *chunk == first.0 => Leave::WaitFor(*batch),
            Some(chunk) => Leave::Chunks(count.min(*chunk - first.0)),
            None => Leave::Chunks(count),
        }
    }
}

/// What a write to a chunk gets that stays frozen.
#[cold]
pub(super) fn refusal(chunk: OldChunk) -> Error {
    let context = format!(
        "cannot write to chunk {}: clearing its entry failed while it was merged, and nobody knows \
         whether the next open finds it in the COW or in the origin",
        chunk.0
    );
    Error::new(ErrorKind::Io, context).with_hint("serve it again to go on with the merge")
}

/// So that `Leave::Never` has its error.
impl Leave {
    /// # Errors
    /// Where none may ever be written.
    pub(super) fn refuse_if_never(self, chunk: OldChunk) -> Result<Self> {
        match self {
            Self::Never => Err(refusal(chunk)),
            other => Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Gate, Leave};
    use usnap_format::OldChunk;

    #[test]
    fn a_run_may_be_written_up_to_the_first_frozen_chunk() {
        let gate = Gate::default();
        gate.freeze(vec![9, 5, 6]);
        let leave = |first, count| gate.enter().leave_for(OldChunk(first), count);
        assert_eq!(leave(0, 3), Leave::Chunks(3));
        assert_eq!(leave(0, 30), Leave::Chunks(5));
        assert_eq!(leave(5, 1), Leave::WaitFor(1));
        assert_eq!(leave(7, 30), Leave::Chunks(2));
        assert_eq!(leave(10, 30), Leave::Chunks(30));
        gate.thaw();
        gate.wait_for(1);
        assert_eq!(leave(5, 2), Leave::Chunks(2));
        gate.freeze(vec![5]);
        assert_eq!(leave(5, 1), Leave::WaitFor(2));
        gate.keep_frozen();
        gate.wait_for(2);
        assert_eq!(leave(5, 1), Leave::Never);
        assert_eq!(leave(4, 2), Leave::Chunks(1));
    }
}
