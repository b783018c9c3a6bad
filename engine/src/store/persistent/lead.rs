//! The leader's part of a commit: what is committed, in which order, and what becomes of it.
//!
//! What an earlier commit took and found no space for is committed first, by itself; only then the
//! rest is sealed, and the epoch has that seal and its number. So a commit never has more than what
//! one seal took (DESIGN.md, "The journal", invariant 3), and whoever began to wait before the seal
//! waits for an epoch that covers it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use usnap_format::Exception;

use super::{PersistentStore, State};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journal;

impl PersistentStore {
    /// Leads one epoch, and tells everyone who waits.
    pub(super) fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.is_committing = true;
        let mut result = Ok(());
        if !state.kept.is_empty() {
            let kept = std::mem::take(&mut state.kept);
            (state, result) = self.carry_out(state, kept);
        }
        let epoch = state.next_epoch;
        state.next_epoch += 1;
        if result.is_ok() {
            let batch = self.seal(&mut state);
            (state, result) = self.carry_out(state, batch);
        }
        state.is_committing = false;
        state.done_epoch = epoch;
        let latched = match result {
            Ok(()) => {
                state.durable_epoch = epoch;
                None
            }
            Err(error) => {
                let cause = format!("{error:?}");
                state.failure = Some((error.kind(), cause.clone()));
                (error.kind() != ErrorKind::NoSpace).then_some(cause)
            }
        };
        self.epoch_done.notify_all();
        let Some(cause) = latched else {
            return state;
        };
        // Whoever reads the log may be slow: nobody else waits for that.
        drop(state);
        say_latched(self.device.name(), &cause);
        self.state()
    }

    /// Takes all that is written, in the order in which it will be committed.
    fn seal(&self, state: &mut State) -> Vec<Exception> {
        let mut batch = std::mem::take(&mut state.written);
        batch.sort_unstable_by_key(|exception| exception.new_chunk);
        if let Some(journal) = &mut state.journal
            && !batch.is_empty()
        {
            journal.seal();
        }
        self.choose_write_ahead(state, batch.len() as u64);
        // From here on a write sets it again; this commit's first sync covers all before it.
        self.dirty.store(false, Ordering::SeqCst);
        batch
    }

    /// Commits `batch` without the lock. Where it found no space it is kept, for the next epoch.
    fn carry_out<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        batch: Vec<Exception>,
    ) -> (MutexGuard<'a, State>, Result<()>) {
        state.in_commit = batch.len() as u64;
        drop(state);

        let (result, current_area, base) = {
            let mut area = self.area.lock().unwrap_or_else(PoisonError::into_inner);
            let commit = || {
                self.refuse_if_gone(area.position, &batch)?;
                area.commit(&*self.device, self.layout, &batch)
            };
            // A leader that ended here would leave everybody waiting, and nothing latched.
            let result = catch_unwind(AssertUnwindSafe(commit)).unwrap_or_else(|_| {
                let context = "cannot commit, a bug in usnap: the commit panicked";
                Err(Error::new(ErrorKind::Io, context))
            });
            self.metadata_bytes
                .store(area.written_bytes, Ordering::Relaxed);
            (result, area.position.area, area.base(self.layout))
        };

        let mut state = self.state();
        state.in_commit = 0;
        state.current_area = current_area;
        match &result {
            Ok(()) => {
                state.committed += batch.len() as u64;
                if let Some(journal) = &mut state.journal
                    && journal.is_sealed()
                {
                    journal.retire(base);
                }
            }
            Err(error) => {
                self.dirty.store(true, Ordering::SeqCst);
                if error.kind() != ErrorKind::NoSpace {
                    // First of all: whatever opens the store next must not trust the page cache.
                    state.journal.iter_mut().for_each(Journal::latch);
                    self.latch(error, batch.iter().chain(&state.written));
                }
                state.kept = batch;
            }
        }
        (state, result)
    }

    /// Latches the device, before any waiter wakes. Exceptions that are not committed are lost to
    /// readers: their data may be gone from the page cache (DESIGN.md, "When a flush fails").
    fn latch<'e>(&self, cause: &Error, uncommitted: impl Iterator<Item = &'e Exception>) {
        self.device.latch(cause);
        let lost = uncommitted.map(|exception| exception.old_chunk.0).collect();
        let _the_first_stays = self.lost.set(lost);
    }
}

#[cold]
fn say_latched(name: &str, cause: &str) {
    tracing::error!(
        "nothing more is written to COW device {name}: {cause}; what was written since the last \
         flush that succeeded may be lost, also where it overwrote chunks that read well now"
    );
}
