//! Exception stores, in the kernel's verbs: a store hands out new chunks (`prepare`), learns that
//! their data is written (`commit`), and says how much it uses (`usage`).

pub mod cow_file;
pub(crate) mod new_file;
pub(crate) mod persistent;
pub(crate) mod transient;

use std::sync::Arc;

use usnap_format::{NewChunk, OldChunk, Usage};

pub use persistent::create::initialise;

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::space::{Space, SpaceAlarm};

/// Consecutive new chunks, none of them metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewRun {
    pub(crate) first: NewChunk,
    pub(crate) count: u64,
}

/// Counts of what is where in the commit path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExceptionCounts {
    /// Entries durable in a metadata area.
    pub committed: u64,
    /// Written, not yet committed: a power cut loses them.
    pub uncommitted: u64,
    /// How many more fit, as things stand.
    pub free: u64,
}

/// Where new chunks come from and where exceptions are kept.
pub(crate) trait ExceptionStore: Send + Sync {
    /// Takes between 1 and `max_count` consecutive new chunks.
    ///
    /// # Errors
    /// `NoSpace` where not even one fits; nothing was taken then.
    fn prepare_exceptions(&self, max_count: u64) -> Result<NewRun>;

    /// Gives chunks back whose data was not written.
    fn abort_exceptions(&self, run: NewRun);

    /// Says that the data of `run` is written, for the old chunks from `first` on. The exceptions
    /// will be durable with the next commit.
    ///
    /// # Errors
    /// `Latched`: the run is the caller's to abort.
    fn commit_exceptions(&self, first: OldChunk, run: NewRun) -> Result<()>;

    /// Says that mapped chunks were written. To be called after the write and before its reply.
    fn mark_dirty(&self);

    /// Makes everything written so far durable, data and exceptions.
    ///
    /// # Errors
    /// `NoSpace` (to be tried again), `Io`, `Latched`.
    fn flush(&self) -> Result<()>;

    /// Makes every exception durable that was recorded so far, and the data that it had then. What
    /// was written to its chunk later may wait for a flush. Costs nothing where none is missing.
    ///
    /// # Errors
    /// As `flush`.
    fn commit_recorded(&self) -> Result<()>;

    /// Commits if exceptions wait for it; whether there were any.
    ///
    /// # Errors
    /// As `flush`.
    fn commit_pending(&self) -> Result<bool>;

    /// Ends all writing, where everything is committed.
    ///
    /// # Errors
    /// `Io` where something is not.
    fn close(&self) -> Result<()>;

    /// Ends all writing, whatever is not committed, for this reason.
    fn shut(&self, cause: &Error);

    /// The device that the new chunks lie on.
    fn device(&self) -> &dyn BlockDevice;

    /// The kernel's three figures.
    fn usage(&self) -> Usage;

    /// What waits where.
    fn counts(&self) -> ExceptionCounts;

    /// Bytes of metadata that commits wrote to the device.
    fn metadata_bytes(&self) -> u64 {
        0
    }

    /// Why nothing more is written, after a failed flush.
    fn latched(&self) -> Option<String>;

    /// How much room is left for new chunks.
    fn space(&self) -> Space;

    /// Rings when so much is taken as its watcher asked for.
    fn alarm(&self) -> &Arc<SpaceAlarm>;

    /// Whether this range of the device was cut off while chunks lay there.
    fn is_gone(&self, _offset: u64, _len: u64) -> bool {
        false
    }

    /// Whether the exception of `old_chunk` was never committed, on a latched store: its data may
    /// be gone from the page cache.
    fn is_lost(&self, old_chunk: OldChunk) -> bool;
}
