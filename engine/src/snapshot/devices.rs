//! Snapshots over devices: what all of them are put together from, those without files, and those
//! whose changes are kept in memory.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use usnap_format::{ChunkSize, Exception, Label};

use super::shared_origin::SharedOrigin;
use super::status::AtomicCounters;
use super::waiting::{Waiting, prove};
use super::{Discard, Durability, JournalMode, JournalReport, Snapshot, SnapshotOptions};
use crate::device::{BlockDevice, LatchedDevice, StampedDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Found, Journal, JournalMemory, Session, Witness};
use crate::store::persistent::PersistentStore;
use crate::store::persistent::open::{Loaded, load};
use crate::store::persistent::walk::read_header;
use crate::store::transient::TransientStore;
use crate::table::{ExceptionTable, Loading};

/// What a snapshot with a persistent store is put together from.
pub(super) struct Parts {
    pub(super) origin: Arc<dyn BlockDevice>,
    pub(super) device: Arc<LatchedDevice>,
    pub(super) table: ExceptionTable,
    pub(super) loaded: Loaded,
    pub(super) journal: Option<Journal>,
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
        let store = PersistentStore::new(self.device, self.loaded, read_only, self.journal)
            .growing_to(options.max_cow_bytes);
        Snapshot {
            name,
            size_bytes: self.origin.size_bytes(),
            origin: self.origin,
            store: Box::new(store),
            table: self.table,
            chunk_size,
            durability: options.durability,
            discard: options.discard,
            read_only,
            label: Label::default(),
            has_identity: false,
            origin_changing: false,
            identity_damage: None,
            is_persistent: true,
            session: None,
            journal: JournalReport::default(),
            is_closed: AtomicBool::new(false),
            shared_origin: None,
            counters: AtomicCounters::default(),
        }
    }
}

/// What a writable open changes before a new journal begins.
fn change(
    cow: &dyn BlockDevice,
    loaded: &mut Loaded,
    missing: &[Exception],
    old: Option<&Found>,
) -> Result<()> {
    if !missing.is_empty() {
        prove(cow, old)?;
    }
    let device = StampedDevice::new(cow, old.map(Found::stamp));
    loaded.settle(&device)?;
    loaded.replay(&device, missing)
}

impl Snapshot {
    /// Opens a snapshot over any two devices: no locks, no identity, no journal. For tests, and for
    /// stacking.
    ///
    /// # Errors
    /// `Foreign`, `Corrupt`, `InvalidStore`, `Io`.
    pub fn on_devices(
        origin: Arc<dyn BlockDevice>,
        cow: Arc<dyn BlockDevice>,
        options: &SnapshotOptions,
    ) -> Result<Self> {
        Self::over(origin, cow, options, None)
    }

    /// As `on_devices`, of an origin that is written to meanwhile, by a caller that saves what it
    /// replaces.
    pub(crate) fn on_shared_devices(
        origin: Arc<dyn BlockDevice>,
        cow: Arc<dyn BlockDevice>,
        options: &SnapshotOptions,
    ) -> Result<Self> {
        let below = Arc::clone(&cow);
        let snapshot = Self::over(origin, cow, options, None)?;
        Ok(Self {
            shared_origin: Some(Box::new(SharedOrigin::new(below))),
            ..snapshot
        })
    }

    /// As `on_devices`, with a journal in this memory. One that is there already is replayed first,
    /// as by an open of files; the new one is written over it. For tests.
    ///
    /// # Errors
    /// As `on_devices`, and `JournalInDoubt`.
    #[doc(hidden)]
    pub fn on_devices_with_journal(
        origin: Arc<dyn BlockDevice>,
        cow: Arc<dyn BlockDevice>,
        options: &SnapshotOptions,
        memory: Arc<dyn JournalMemory>,
    ) -> Result<Self> {
        Self::over(origin, cow, options, Some(memory))
    }

    fn over(
        origin: Arc<dyn BlockDevice>,
        cow: Arc<dyn BlockDevice>,
        options: &SnapshotOptions,
        memory: Option<Arc<dyn JournalMemory>>,
    ) -> Result<Self> {
        let name = cow.name();
        let sector = read_header(&*cow)?;
        if !sector.header.is_valid() {
            let context = format!("cannot use COW device {name}: it was invalidated");
            return Err(Error::new(ErrorKind::InvalidStore, context));
        }
        let chunk_count = sector.header.chunk_size.chunks_to_hold(origin.size_bytes());
        let loading = Loading::new(chunk_count)?;
        let witness = Witness::neutral();
        let read = memory.clone().map(Found::read);
        let waiting = read.and_then(|read| Waiting::new(read, |found| found.doubts(&witness)));
        if let Some(waiting) = &waiting {
            waiting.refuse_hopeless(name, options.journal)?;
        }
        let found = waiting.as_ref().and_then(Waiting::found);
        if memory.is_none() || found.is_some_and(|found| found.is_latched) {
            // A flush may have failed before, which nobody noted.
            cow.drop_page_cache();
        }
        let (mut loaded, table) = load(&*cow, &sector, loading, found.map(Found::notes))?;
        let missing = match &waiting {
            Some(waiting) => waiting.judge(name, &loaded, &table, options.journal)?,
            None => Vec::new(),
        };

        loaded.add(&missing, &table);

        // Nothing was changed so far.
        let mut journal = None;
        if !options.read_only && !cow.is_read_only() {
            let old = if options.journal == JournalMode::Discard {
                found.iter().for_each(|found| found.latch());
                None
            } else {
                found
            };
            change(&*cow, &mut loaded, &missing, old).inspect_err(|_| cow.drop_page_cache())?;
            journal = memory
                .map(|memory| Journal::begin(memory, Session::random()?, &witness, loaded.base()))
                .transpose()?;
        }
        let stamp = journal.as_ref().map(Journal::stamp);
        let parts = Parts {
            origin,
            device: Arc::new(LatchedDevice::with_stamp(cow, stamp)),
            table,
            loaded,
            journal,
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
            discard: Discard::default(),
            read_only: false,
            label: Label::default(),
            has_identity: false,
            origin_changing: false,
            identity_damage: None,
            is_persistent: false,
            session: None,
            journal: JournalReport::default(),
            is_closed: AtomicBool::new(false),
            shared_origin: None,
            counters: AtomicCounters::default(),
        })
    }
}
