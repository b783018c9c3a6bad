//! A merge while the snapshot is served: the device that clients see, and the merge behind it.
//!
//! - `gate.rs` keeps writers and the batch under way apart, `io.rs` is what clients ask for, `run.rs`
//!   merges; `report.rs` says how far it is.
//!
//! Invariants (DESIGN.md, "Merge while it is served"):
//! - A chunk that has an entry is read from the COW device, and written there; a chunk that has none
//!   is read from the origin, and written there. Entries go away, none is made.
//! - Nobody writes to a chunk from before it is copied until its entry is durably out of reach.
//! - After a failed flush of either device nothing is written to any of them, and nothing is cleared.

mod gate;
mod io;
mod report;
mod run;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use usnap_format::{IdentityRecord, Label, Layout, OriginIdentity};

use self::gate::Gate;
use super::copy::Copier;
use super::walk::Tail;
use super::{areas_left_over, clear, without_session};
use crate::device::{BlockDevice, SyncedDevice};
use crate::error::Result;
use crate::snapshot::Durability;
use crate::store::persistent::create::write_identity;
use crate::store::persistent::open::Loaded;
use crate::store::persistent::walk::HeaderSector;
use crate::table::ExceptionTable;

pub use report::{MergeProgress, MergeState};

/// The size of a batch in bytes of data: a write to one of its chunks waits until it is done.
const BATCH_BYTES: u64 = 1 << 20;

/// How a snapshot is served while it is merged.
#[derive(Clone, Copy, Debug)]
pub struct OnlineOptions {
    /// When writes become durable.
    pub durability: Durability,
    /// So much data is copied before the origin is flushed and the entries are cleared.
    pub batch_bytes: u64,
}

impl Default for OnlineOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Flush,
            batch_bytes: BATCH_BYTES,
        }
    }
}

/// What an origin is recognised by, looked at anew.
type IdentifyNow = Box<dyn Fn() -> Result<OriginIdentity> + Send + Sync>;

/// What it is put together from: a store that nothing speaks against, and its origin.
pub(super) struct Parts {
    pub(super) cow: Arc<dyn BlockDevice>,
    pub(super) origin: Arc<dyn BlockDevice>,
    pub(super) identify: IdentifyNow,
    pub(super) sector: HeaderSector,
    pub(super) loaded: Loaded,
    pub(super) table: ExceptionTable,
}

/// A snapshot that is served while it is merged into its origin.
pub struct OnlineMerge {
    name: String,
    cow: SyncedDevice,
    origin: SyncedDevice,
    identify: IdentifyNow,
    table: ExceptionTable,
    sector: HeaderSector,
    layout: Layout,
    label: Label,
    size_bytes: u64,
    options: OnlineOptions,
    gate: Gate,
    work: Mutex<Work>,
    state: Mutex<MergeState>,
    /// Entries when it was opened, and now.
    total: u64,
    left: AtomicU64,
    stops: AtomicBool,
    is_closed: AtomicBool,
}

/// What the one thread needs that merges.
struct Work {
    tail: Tail,
    copier: Copier,
}

impl OnlineMerge {
    /// From here on the origin may be written to, and the record says so, durably.
    ///
    /// # Errors
    /// `Io`, `NoSpace`, `Corrupt` where somebody else changed the header.
    pub(super) fn begin(parts: Parts, options: &OnlineOptions) -> Result<Self> {
        let Parts {
            cow,
            origin,
            identify,
            sector,
            mut loaded,
            table,
        } = parts;
        let record = sector.identity.ok().flatten();
        let layout = loaded.layout;
        let name = format!("snapshot of {} on {}, merging", origin.name(), cow.name());
        if record.is_none_or(|record| record.origin_changing) {
            // A flush of it may have failed before, and nobody noted that.
            origin.drop_page_cache();
        }
        let (cow, size_bytes) = (SyncedDevice::new(cow), origin.size_bytes());
        loaded.settle(&cow)?;
        let committed = loaded.committed;
        let online = Self {
            name,
            cow,
            origin: SyncedDevice::new(origin),
            identify,
            table,
            sector,
            layout,
            label: record.unwrap_or_default().label,
            size_bytes,
            options: *options,
            gate: Gate::default(),
            work: Mutex::new(Work {
                tail: Tail::new(layout, committed),
                copier: Copier::default(),
            }),
            state: Mutex::new(MergeState::Running),
            total: committed,
            left: AtomicU64::new(committed),
            stops: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        };
        online.note(true)?;
        if record.is_none_or(|record| record.origin_changing) {
            let areas = areas_left_over(layout.chunk_size);
            clear::clear_behind(&online.cow, layout, committed, areas)?;
        }
        Ok(online)
    }

    /// Ends in order, when no client is left: everything is durable, nothing is written any more,
    /// and the record knows the origin as it is now. Entries may be left for another merge.
    ///
    /// # Errors
    /// `Io`, `Latched`: what was written since the last flush that succeeded may be missing.
    pub fn close(&self) -> Result<()> {
        self.stop();
        // Behind this no batch is under way, and none begins.
        let _work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.flush()?;
        self.origin.close();
        self.note(false)?;
        self.cow.close();
        self.is_closed.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Writes down, durably, whether the origin is changing, and what it is recognised by now. A
    /// store without a record gets none.
    fn note(&self, origin_changing: bool) -> Result<()> {
        let Some(record) = self.sector.identity.ok().flatten() else {
            return Ok(());
        };
        let record = IdentityRecord {
            origin: Some((self.identify)()?),
            origin_changing,
            ..without_session(record)
        };
        write_identity(&self.cow, &self.sector.raw, &record)
    }
}
