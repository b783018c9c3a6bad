//! The snapshot: the origin as it was, writable through the COW device.
//!
//! - `map.rs` turns a byte range into runs that lie on one device; no I/O.
//! - `read.rs`, `write.rs`, `discard.rs` do the I/O, a call a run.
//! - `shared_origin.rs` reads where the origin is written to, `save.rs` saves what such a write
//!   replaces, for `snapshot_origin`.
//! - `open.rs` puts origin, COW device and options together, `belongs.rs` asks whether they belong
//!   together, `changes.rs` changes what is to be changed, `devices.rs` does without files; `status.rs` reports.
//!
//! Invariants:
//! - The origin is never written by a snapshot.
//! - A chunk's data is on the COW device, whole, before the chunk is published as mapped; a mapped
//!   chunk stays mapped, at the same new chunk.
//! - A reply follows the work it reports. A flush covers every write that ended before it began.

mod before;
pub(crate) mod belongs;
mod changed;
mod changes;
mod devices;
mod discard;
mod end;
mod journal_report;
mod map;
mod open;
mod read;
mod save;
mod session;
mod shared_origin;
mod status;
mod waiting;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use usnap_format::{ChunkSize, FormatError, Label, OriginIdentity};

use self::session::OpenSession;
use self::shared_origin::SharedOrigin;
use crate::device::{Attempt, BlockDevice, Extent, ZeroFlags, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::space::{Space, SpaceAlarm};
use crate::store::{ExceptionCounts, ExceptionStore};
use crate::table::ExceptionTable;

pub use discard::Discard;
pub(crate) use end::{distrust_cache, end_session, prove_waiting};
pub use journal_report::{JournalReport, JournalState, WaitingJournal, journal_waiting};
pub(crate) use journal_report::{journal_waiting_on, report_at_rest};
pub use open::SnapshotOptions;
pub(crate) use open::refuse_beyond_origin;
pub(crate) use save::SaveFailure;
pub use status::{Counters, StatusReport};
pub use waiting::JournalMode;
pub(crate) use waiting::count;

/// So often it is tried to close a store while its last writers end.
const CLOSE_TRIES: u32 = 1000;

/// When writes become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// At a flush, a FUA write, or the commit timer.
    #[default]
    Flush,
    /// Before each write is acknowledged, as the kernel does with whole chunks.
    EveryWrite,
}

/// A snapshot: reads fall through to the origin, writes go to the COW device.
pub struct Snapshot {
    name: String,
    origin: Arc<dyn BlockDevice>,
    store: Box<dyn ExceptionStore>,
    table: ExceptionTable,
    chunk_size: ChunkSize,
    size_bytes: u64,
    durability: Durability,
    discard: Discard,
    read_only: bool,
    label: Label,
    has_identity: bool,
    origin_changing: bool,
    identity_damage: Option<FormatError>,
    is_persistent: bool,
    /// The session of a COW file that is written to, where the file has a record of it.
    session: Option<OpenSession>,
    journal: JournalReport,
    is_closed: AtomicBool,
    /// Where the origin is written to while the snapshot is served; never by the snapshot.
    shared_origin: Option<Box<SharedOrigin>>,
    counters: status::AtomicCounters,
}

impl Snapshot {
    /// The chunk size.
    #[must_use]
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// The same snapshot, whose discards do this.
    #[must_use]
    pub fn with_discard(mut self, discard: Discard) -> Self {
        self.discard = discard;
        self
    }

    /// Commits if exceptions wait for it, which is the commit timer's call; whether there were any.
    ///
    /// # Errors
    /// As `flush`.
    pub fn commit_pending(&self) -> Result<bool> {
        if self.why_ended().is_some() {
            return Ok(false);
        }
        // Once it is gone only a commit protects.
        self.has_lost_journal();
        self.store.commit_pending()
    }

    /// Whether it was closed in order.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn has_lost_journal(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(OpenSession::has_lost_journal)
    }

    /// Ends in order, once nobody writes any more: commits what is left, notes on the device that
    /// nothing is missing, and removes the journal. Whatever is written later is refused. A
    /// snapshot that was not closed counts as killed.
    ///
    /// # Errors
    /// As `flush`. What was not committed is for the next open to find, and the journal stays.
    pub fn close(&self) -> Result<()> {
        self.close_over(None)
    }

    /// Closes, and where an origin is given notes that it is the snapshot's from now on.
    pub(crate) fn close_over(&self, origin: Option<OriginIdentity>) -> Result<()> {
        if self.read_only || self.is_closed.load(Ordering::Acquire) {
            return Ok(());
        }
        // Writers of one that has ended may still be on their way out; new ones are refused.
        let mut tries = if self.why_ended().is_some() {
            CLOSE_TRIES
        } else {
            1
        };
        loop {
            self.store.flush()?;
            tries -= 1;
            match self.store.close() {
                Ok(()) => break,
                Err(error) if tries == 0 => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        if let Some(session) = &self.session {
            session.end(origin)?;
        }
        self.is_closed.store(true, Ordering::Release);
        Ok(())
    }

    /// How much room is left for new chunks: a look at the COW device's size and at its filesystem.
    #[must_use]
    pub fn space(&self) -> Space {
        self.store.space()
    }

    /// Whether `space` is enough for every chunk that was not written yet: then nothing can run out,
    /// however much of it is used.
    #[must_use]
    pub fn is_room_for_all(&self, space: &Space) -> bool {
        let wanted_bytes = self.unmapped_chunks(self.store.counts()) << self.chunk_size.shift();
        space.left_bytes >= wanted_bytes
    }

    /// Chunks that have no exception yet.
    fn unmapped_chunks(&self, counts: ExceptionCounts) -> u64 {
        let chunks = self.chunk_size.chunks_to_hold(self.size_bytes);
        chunks.saturating_sub(counts.committed + counts.uncommitted)
    }

    /// Rings when so many chunks are taken as its watcher asks for, and when one is refused.
    #[must_use]
    pub fn space_alarm(&self) -> Arc<SpaceAlarm> {
        Arc::clone(self.store.alarm())
    }

    /// What was cut off and came back as zeros is nobody's data.
    #[inline]
    fn refuse_if_gone(&self, cow_offset: u64, len: u64) -> Result<()> {
        if self.store.is_gone(cow_offset, len) {
            return Err(gone(self.store.device().name(), cow_offset));
        }
        Ok(())
    }

    fn check_writable(&self, offset: u64, len: u64) -> Result<()> {
        check_range(&self.name, self.size_bytes, offset, len)?;
        if self.read_only {
            let context = format!("cannot change {}: it is served read-only", self.name);
            return Err(Error::new(ErrorKind::ReadOnly, context));
        }
        self.refuse_if_ended()
    }

    /// What every change ends with: durable now, if that was asked for. Of a write that found no
    /// room half-way the first chunks are new, which is made durable as the kernel does.
    #[inline]
    fn after_write(&self, result: Result<()>) -> Result<()> {
        if self.durability == Durability::Flush {
            return result;
        }
        match result {
            Ok(()) => self.store.flush(),
            Err(refused) if refused.kind() == ErrorKind::NoSpace => {
                // The write's own failure is what the client is to hear of.
                let _is_found_by_the_next_flush = self.store.flush();
                Err(refused)
            }
            Err(failed) => Err(failed),
        }
    }
}

#[cold]
fn gone(cow: &str, cow_offset: u64) -> Error {
    let context =
        format!("cannot use the chunk at {cow_offset} of COW device {cow}: it was cut off");
    Error::new(ErrorKind::Io, context)
        .with_hint("stop the server; `usnap check` says what is left in the COW file")
}

impl BlockDevice for Snapshot {
    #[inline]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, self.size_bytes, offset, buf.len() as u64)?;
        match &self.shared_origin {
            None => self.read_runs(buf, offset),
            Some(shared) => self.read_shared(shared, buf, offset),
        }
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        check_range(&self.name, self.size_bytes, offset, buf.len() as u64)?;
        match &self.shared_origin {
            None => self.try_read_runs(buf, offset),
            Some(shared) => self.try_read_shared(shared, buf, offset),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_writable(offset, data.len() as u64)?;
        self.after_write(self.write_runs(data, offset))
    }

    fn flush(&self) -> Result<()> {
        self.refuse_if_ended()?;
        self.store.flush()
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable(offset, len)?;
        self.after_write(self.discard_runs(offset, len))
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_writable(offset, len)?;
        self.after_write(self.zero_runs(offset, len, flags))
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        // Nothing is promised: a chunk is taken when it is first written.
        self.check_writable(offset, len)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(&self.name, self.size_bytes, offset, len)?;
        match &self.shared_origin {
            None => self.extent_of_run(offset, len),
            Some(shared) => self.extent_shared(shared, offset, len),
        }
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn can_zero_fast(&self) -> bool {
        !self.read_only && self.store.device().can_zero_fast()
    }
}
