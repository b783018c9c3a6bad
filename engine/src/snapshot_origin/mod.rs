//! An origin that is written to, with its snapshots: the kernel's snapshot-origin. A write goes on
//! once every snapshot has what it replaces, committed durably (DESIGN.md, "The origin, served
//! writable").
//!
//! - `protect.rs` does that, before a write;
//! - `members.rs` adds, removes and closes snapshots, while no write is in flight;
//! - `member.rs` is one of them, `saved.rs` knows which of its chunks need no look.

mod member;
mod members;
mod protect;
mod saved;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use usnap_format::ChunkSize;

use self::member::Member;
use crate::device::{
    Attempt, BlockDevice, Extent, RoomBelow, SyncedDevice, ZeroFlags, check_range,
};
use crate::error::{Error, ErrorKind, Result};
use crate::origin::{Identify, WritableOrigin};
use crate::snapshot::StatusReport;

/// So much is saved at once at the most; only zeroing and discarding are ever longer.
const STEP_BYTES: u64 = 64 << 20;

/// What happens where a snapshot can't take what a write to the origin replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The snapshot is given up, durably, and the origin goes on, as with the kernel.
    #[default]
    Drop,
    /// The origin's write fails, and no snapshot is given up.
    Refuse,
}

/// Whether a snapshot is still one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It keeps its moment.
    Active,
    /// It was given up; everything it is asked for fails.
    Dropped {
        /// A sentence without its beginning.
        why: String,
    },
}

/// One snapshot of an origin, reported.
#[derive(Clone, Debug)]
pub struct SnapshotState {
    /// What it is called.
    pub name: String,
    /// Its COW device.
    pub cow: PathBuf,
    /// Its chunk size.
    pub chunk_size: ChunkSize,
    /// Whether it is still one.
    pub state: MemberState,
    /// What the snapshot says of itself.
    pub report: StatusReport,
}

/// An origin that is written to, and its snapshots.
pub struct SnapshotOrigin {
    /// What is written to; after a failed flush not any more. Many clients flush it.
    device: SyncedDevice,
    size_bytes: u64,
    /// What the snapshots read. Without a file behind it nothing is known of its identity.
    below: Below,
    when_full: WhenFull,
    /// Commits on several COW devices run in threads of their own; in turn where a test wants to
    /// know what comes first.
    commits_at_once: bool,
    /// Who has to be asked before the origin changes, in the order of adding. A write holds it
    /// shared as long as it lasts.
    gate: RwLock<Vec<Arc<Member>>>,
    /// Whether the origin was written to. Looked at by who holds the gate alone.
    was_changed: AtomicBool,
}

enum Below {
    File(Arc<dyn Identify>),
    Device(Arc<dyn BlockDevice>),
}

impl SnapshotOrigin {
    /// Serves `origin`, without a snapshot yet. Of what the system holds of it in memory nothing is
    /// believed.
    #[must_use]
    pub fn open(origin: WritableOrigin, when_full: WhenFull) -> Arc<Self> {
        let origin: Arc<dyn Identify> = Arc::new(origin);
        let device = Arc::clone(&origin) as Arc<dyn BlockDevice>;
        Arc::new(Self::new(device, Below::File(origin), when_full, true))
    }

    /// Serves any device; its snapshots are added by `add_device`. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn on_device(origin: Arc<dyn BlockDevice>, when_full: WhenFull) -> Self {
        let below = Below::Device(Arc::clone(&origin));
        Self::new(origin, below, when_full, false)
    }

    fn new(
        device: Arc<dyn BlockDevice>,
        below: Below,
        when_full: WhenFull,
        commits_at_once: bool,
    ) -> Self {
        // A flush of whoever wrote to it before may have failed: what is shown then is not what is
        // on the disk, and a flush for the moment of a new snapshot would not tell.
        device.drop_page_cache();
        Self {
            size_bytes: device.size_bytes(),
            device: SyncedDevice::new(device),
            below,
            when_full,
            commits_at_once,
            gate: RwLock::default(),
            was_changed: AtomicBool::new(false),
        }
    }

    fn note_change(&self) {
        // Only the first one writes what all of them read.
        if !self.was_changed.load(Ordering::Relaxed) {
            self.was_changed.store(true, Ordering::Relaxed);
        }
    }

    fn enter(&self) -> RwLockReadGuard<'_, Vec<Arc<Member>>> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter_alone(&self) -> RwLockWriteGuard<'_, Vec<Arc<Member>>> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a range of the origin, a step at a time, each once it is saved.
    fn change(
        &self,
        offset: u64,
        len: u64,
        call: impl Fn(&SyncedDevice, u64, u64) -> Result<()>,
    ) -> Result<()> {
        check_range(self.name(), self.size_bytes, offset, len)?;
        let members = self.enter();
        // Nothing is saved for a write that fails anyway.
        self.device.refuse_if_latched()?;
        let mut at = 0;
        while at < len {
            let step = (len - at).min(STEP_BYTES);
            self.protect(&members, offset + at, step)?;
            self.note_change();
            call(&self.device, offset + at, step)?;
            at += step;
        }
        Ok(())
    }
}

impl BlockDevice for SnapshotOrigin {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn name(&self) -> &str {
        self.device.name()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.device.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.device.try_read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let len = data.len() as u64;
        check_range(self.name(), self.size_bytes, offset, len)?;
        let members = self.enter();
        self.device.refuse_if_latched()?;
        self.protect(&members, offset, len)?;
        self.note_change();
        self.device.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.device.flush()
    }

    fn drop_page_cache(&self) {}

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.change(offset, len, |device, offset, len| {
            device.discard_at(offset, len)
        })
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        if flags.fast {
            let context = format!(
                "cannot zero {len} bytes at {offset} of {} fast: its snapshots come first",
                self.name()
            );
            return Err(Error::new(ErrorKind::NotSupported, context));
        }
        self.change(offset, len, |device, offset, len| {
            device.zero_at(offset, len, flags)
        })
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        // Not a change that anybody could read.
        check_range(self.name(), self.size_bytes, offset, len)?;
        self.device.reserve_at(offset, len)
    }

    fn needs_reservation(&self) -> bool {
        self.device.needs_reservation()
    }

    fn room_below(&self) -> Option<RoomBelow> {
        self.device.room_below()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.device.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        self.device.is_read_only()
    }
}
