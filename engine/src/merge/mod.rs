//! Merging a store back into its origin: the origin becomes what the snapshot shows, the store
//! empty (DESIGN.md, "Merge").
//!
//! Invariants:
//! - At each moment, and after a power cut at each moment, the store over the origin as it is shows
//!   what it showed before the merge.
//! - An entry is cleared only when its data is durable on the origin.
//! - No live entry lies behind a terminator in the area that a loader takes for the current one.
//! - Before the first write to the origin the record says durably that the origin is changing; it
//!   says so until the store is empty, durably.

mod clear;
mod copy;
mod online;
mod open;
mod walk;

use usnap_format::{ChunkSize, IdentityRecord, Layout};

use self::copy::Copier;
use self::walk::Tail;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::origin::Identify;
use crate::store::persistent::create::write_identity;
use crate::store::persistent::walk::HeaderSector;

pub use online::{MergeProgress, MergeState, OnlineMerge, OnlineOptions};
pub use open::{Merge, MergeOptions, merge_device, serve_device};

/// The size of a batch in bytes of data, where nothing else is asked for.
/// The origin's writes are scattered, and the more of them one flush has the more lie together.
pub const DEFAULT_BATCH_BYTES: u64 = 256 << 20;
/// The largest: what an interrupted batch leaves is looked for (`areas_left_over`).
pub const MAX_BATCH_BYTES: u64 = 1 << 30;

/// Who watches a merge.
pub struct Watch<'a> {
    /// Whether the merge is to stop at the next safe place; asked often.
    pub is_stopped: &'a dyn Fn() -> bool,
    /// Is told how many exceptions were merged so far.
    pub merged: &'a mut dyn FnMut(u64),
}

/// How a merge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeEnd {
    /// The origin is what the snapshot was, and the store is empty.
    Done,
    /// It was told to stop. Another merge goes on with what is left.
    Stopped {
        /// How many exceptions are left.
        left: u64,
    },
}

/// A store that is fit to be merged, and its origin.
pub(crate) struct Work<'a> {
    pub(crate) cow: &'a dyn BlockDevice,
    pub(crate) origin: &'a dyn Identify,
    pub(crate) sector: HeaderSector,
    /// How many entries there are.
    pub(crate) committed: u64,
    pub(crate) batch_bytes: u64,
}

impl Work<'_> {
    /// Merges all of it.
    ///
    /// # Errors
    /// `NoSpace` (of the origin's filesystem), `Io`, `Corrupt`. The store is as good as before, and
    /// another merge goes on.
    pub(crate) fn run(&self, watch: &mut Watch<'_>) -> Result<MergeEnd> {
        self.run_unguarded(watch).map_err(|error| {
            // A flush that failed is told once: what the caches show may not be on the disk.
            self.cow.drop_page_cache();
            self.origin.drop_page_cache();
            let (cow, origin) = (self.cow.name(), self.origin.name());
            let hint = error.hint().map_or_else(
                || "nothing is lost: the same command goes on where this one ended".to_owned(),
                str::to_owned,
            );
            error
                .context(format!("cannot merge {cow} into {origin}"))
                .with_hint(hint)
        })
    }

    fn run_unguarded(&self, watch: &mut Watch<'_>) -> Result<MergeEnd> {
        let layout = Layout::new(self.sector.header.chunk_size);
        let record = self.sector.identity.ok().flatten();
        self.begin(record)?;
        if record.is_none_or(|record| record.origin_changing) {
            let areas = areas_left_over(layout.chunk_size);
            clear::clear_behind(self.cow, layout, self.committed, areas)?;
        }
        let mut tail = Tail::new(layout, self.committed);
        let mut copier = Copier::default();
        while !(watch.is_stopped)() {
            if !self.merge_batch(&mut tail, &mut copier, watch)? {
                break;
            }
            (watch.merged)(self.committed - tail.committed());
        }
        self.cow.flush()?;
        if tail.committed() > 0 {
            return Ok(MergeEnd::Stopped {
                left: tail.committed(),
            });
        }
        self.end(record)?;
        Ok(MergeEnd::Done)
    }

    /// Merges one batch: copies it, makes it durable, clears its entries. False where nothing is
    /// left, or where it was told to stop before it had copied all.
    fn merge_batch(&self, tail: &mut Tail, copier: &mut Copier, watch: &Watch<'_>) -> Result<bool> {
        let chunk_size = self.sector.header.chunk_size;
        let Some(first) = tail.next_first(self.batch_bytes / chunk_size.bytes()) else {
            return Ok(false);
        };
        let batch = tail.read(self.cow, first, self.origin.size_bytes())?;
        let is_stopped = watch.is_stopped;
        if !copier.copy(self.cow, self.origin, chunk_size, &batch, is_stopped)? {
            return Ok(false);
        }
        self.origin.flush()?;
        clear::clear(self.cow, Layout::new(chunk_size), &batch)?;
        tail.cleared(first);
        Ok(true)
    }

    /// Says on the COW device, durably, that the origin is changing.
    fn begin(&self, record: Option<IdentityRecord>) -> Result<()> {
        // A store that has no record gets none: the kernel's merge leaves none either.
        let Some(record) = record else { return Ok(()) };
        let begun = IdentityRecord {
            origin: Some(self.origin.identify()?),
            origin_changing: true,
            ..without_session(record)
        };
        write_identity(self.cow, &self.sector.raw, &begun)
    }

    /// Ties the store, which is empty, to the origin as it is now.
    fn end(&self, record: Option<IdentityRecord>) -> Result<()> {
        let Some(record) = record else { return Ok(()) };
        let ended = IdentityRecord {
            origin: Some(self.origin.identify()?),
            origin_changing: false,
            ..without_session(record)
        };
        write_identity(self.cow, &self.sector.raw, &ended)
    }
}

/// A merge has no session: nothing of it is kept anywhere but on the two devices.
fn without_session(record: IdentityRecord) -> IdentityRecord {
    IdentityRecord {
        session: [0; 16],
        boot_id: [0; 16],
        clean: true,
        has_journal: false,
        ..record
    }
}

/// So many areas behind the current one may hold what the last two batches of a merge left that was
/// cut off: their zeros are not synced on their own.
fn areas_left_over(chunk_size: ChunkSize) -> u64 {
    let area_data_bytes = chunk_size.exceptions_per_area() * chunk_size.bytes();
    2 * (MAX_BATCH_BYTES / area_data_bytes + 2)
}

/// Refuses a batch size that makes no sense.
fn check_batch(batch_bytes: u64) -> Result<()> {
    if (1..=MAX_BATCH_BYTES).contains(&batch_bytes) {
        return Ok(());
    }
    let context = format!(
        "cannot merge in batches of {batch_bytes} bytes: a batch is {MAX_BATCH_BYTES} bytes at most"
    );
    Err(Error::new(crate::ErrorKind::Usage, context))
}
