//! Snapshots over devices: what all of them are put together from, those without files, and those
//! whose changes are kept in memory.

use std::sync::Arc;

use usnap_format::{ChunkSize, Label};

use super::status::AtomicCounters;
use super::{Durability, Snapshot, SnapshotOptions};
use crate::device::{BlockDevice, LatchedDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::store::persistent::PersistentStore;
use crate::store::persistent::open::{Loaded, load};
use crate::store::persistent::walk::read_header;
use crate::store::transient::TransientStore;
use crate::table::ExceptionTable;

/// What a snapshot with a persistent store is put together from.
pub(super) struct Parts {
    pub(super) origin: Arc<dyn BlockDevice>,
    pub(super) device: Arc<LatchedDevice>,
    pub(super) table: ExceptionTable,
    pub(super) loaded: Loaded,
}

impl Parts {
    /// The snapshot, without what an identity record says.
    pub(super) fn assemble(self, options: &SnapshotOptions) -> Snapshot {
        let chunk_size = self.loaded.layout.chunk_size;
        let read_only = options.read_only || self.device.is_read_only();
        let name = format!(
            "snapshot of {} on {}",
            self.origin.name(),
            self.device.name()
        );
        let store = PersistentStore::new(self.device, self.loaded, read_only);
        Snapshot {
            name,
            size_bytes: self.origin.size_bytes(),
            origin: self.origin,
            store: Box::new(store),
            table: self.table,
            chunk_size,
            durability: options.durability,
            read_only,
            label: Label::default(),
            has_identity: false,
            identity_damage: None,
            is_persistent: true,
            counters: AtomicCounters::default(),
        }
    }
}

impl Snapshot {
    /// Opens a snapshot over any two devices: no locks, no identity. For tests, and for stacking.
    ///
    /// # Errors
    /// `Foreign`, `Corrupt`, `InvalidStore`, `Io`.
    pub fn on_devices(
        origin: Arc<dyn BlockDevice>,
        cow: Arc<dyn BlockDevice>,
        options: &SnapshotOptions,
    ) -> Result<Self> {
        let sector = read_header(&*cow)?;
        if !sector.header.is_valid() {
            let context = format!("cannot use COW device {}: it was invalidated", cow.name());
            return Err(Error::new(ErrorKind::InvalidStore, context));
        }
        let chunk_count = sector.header.chunk_size.chunks_to_hold(origin.size_bytes());
        let table = ExceptionTable::new(chunk_count)?;
        let mut loaded = load(&*cow, &sector, &table)?;
        if !options.read_only && !cow.is_read_only() {
            loaded.settle(&*cow)?;
        }
        let parts = Parts {
            origin,
            device: Arc::new(LatchedDevice::new(cow)),
            table,
            loaded,
        };
        Ok(parts.assemble(options))
    }

    /// Opens a snapshot whose changes are kept in at most `limit_bytes` of memory.
    ///
    /// # Errors
    /// `Usage`, `Io`.
    pub fn transient(
        origin: Arc<dyn BlockDevice>,
        chunk_size: ChunkSize,
        limit_bytes: u64,
    ) -> Result<Self> {
        let store = TransientStore::new(chunk_size, limit_bytes)?;
        let size_bytes = origin.size_bytes();
        Ok(Self {
            name: format!("transient snapshot of {}", origin.name()),
            table: ExceptionTable::new(chunk_size.chunks_to_hold(size_bytes))?,
            origin,
            store: Box::new(store),
            chunk_size,
            size_bytes,
            durability: Durability::Flush,
            read_only: false,
            label: Label::default(),
            has_identity: false,
            identity_damage: None,
            is_persistent: false,
            counters: AtomicCounters::default(),
        })
    }
}
