//! What a snapshot says of itself: the kernel's status, and more.

use std::sync::atomic::{AtomicU64, Ordering};

use usnap_format::{ChunkSize, Status};

use super::{JournalReport, JournalState, Snapshot};
use crate::space::Space;
use crate::store::ExceptionCounts;

/// Counts since the snapshot was opened, of what is rare enough to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Chunks written whole for the first time: nothing was read from the origin.
    pub chunks_written_whole: u64,
    /// Chunks written in part for the first time, the rest copied from the origin; and chunks saved
    /// from a write to the origin.
    pub chunks_copied: u64,
    /// Bytes that were written to the COW device for chunks that were copied, and that no client
    /// sent: the rest of a chunk written in part, and what was saved from a write to the origin.
    pub copied_bytes: u64,
    /// Bytes of metadata that commits wrote to the COW device.
    pub metadata_bytes: u64,
    /// Writes refused because no new chunk could be had.
    pub refused_for_space: u64,
}

#[derive(Default)]
pub(super) struct AtomicCounters {
    chunks_written_whole: AtomicU64,
    chunks_copied: AtomicU64,
    copied_bytes: AtomicU64,
    refused_for_space: AtomicU64,
}

impl AtomicCounters {
    pub(super) fn whole_first_writes(&self, count: u64) {
        self.chunks_written_whole
            .fetch_add(count, Ordering::Relaxed);
    }

    /// `bytes` of what was written for them came from the origin.
    pub(super) fn copied_chunks(&self, count: u64, bytes: u64) {
        self.chunks_copied.fetch_add(count, Ordering::Relaxed);
        self.copied_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn refused_for_space(&self) {
        self.refused_for_space.fetch_add(1, Ordering::Relaxed);
    }
}

/// A store or snapshot, reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// The kernel's status; its `Display` is what `dmsetup status` prints behind the target's name.
    pub status: Status,
    /// The chunk size.
    pub chunk_size: ChunkSize,
    /// Exceptions committed and not, and how many more fit.
    pub exceptions: ExceptionCounts,
    /// Size of the COW device in bytes; of a transient store its limit.
    pub cow_size_bytes: u64,
    /// Size of the snapshot in bytes, where it is known.
    pub snapshot_size_bytes: Option<u64>,
    /// No new chunk can be taken, and there are chunks that need one: writes to those get ENOSPC.
    pub is_full: bool,
    /// The room for new chunks, that of the filesystem included.
    pub space: Space,
    /// Why nothing more is written, after a failed flush.
    pub latched: Option<String>,
    /// The store's label; empty if it has none.
    pub label: String,
    /// Whether the store has an identity record that names an origin.
    pub has_identity: bool,
    /// Whether the record says that the origin is written to as well, and that this did not end.
    pub origin_changing: bool,
    /// What is wrong with the identity record, if it is damaged.
    pub identity_damage: Option<String>,
    /// Whether the store is persistent.
    pub is_persistent: bool,
    /// What becomes of uncommitted writes when the process ends without a word.
    pub journal: JournalReport,
    /// Counts since the snapshot was opened; zero of a store at rest.
    pub counters: Counters,
}

impl Snapshot {
    /// Reports the state of this moment.
    #[must_use]
    pub fn report(&self) -> StatusReport {
        let exceptions = self.store.counts();
        StatusReport {
            status: self.status(),
            chunk_size: self.chunk_size,
            exceptions,
            cow_size_bytes: self.store.device().size_bytes(),
            snapshot_size_bytes: Some(self.size_bytes),
            is_full: exceptions.free == 0 && self.unmapped_chunks(exceptions) > 0,
            space: self.space(),
            latched: self.store.latched(),
            label: self.label.as_str().to_owned(),
            has_identity: self.has_identity,
            origin_changing: self.origin_changing,
            identity_damage: self.identity_damage.map(|damage| damage.to_string()),
            is_persistent: self.is_persistent,
            journal: self.journal_report(exceptions.uncommitted),
            counters: Counters {
                chunks_written_whole: self.counters.chunks_written_whole.load(Ordering::Relaxed),
                chunks_copied: self.counters.chunks_copied.load(Ordering::Relaxed),
                copied_bytes: self.counters.copied_bytes.load(Ordering::Relaxed),
                metadata_bytes: self.store.metadata_bytes(),
                refused_for_space: self.counters.refused_for_space.load(Ordering::Relaxed),
            },
        }
    }

    fn journal_report(&self, uncommitted: u64) -> JournalReport {
        let state = match self.journal.state {
            JournalState::Active if self.store.latched().is_some() => JournalState::Latched,
            state => state,
        };
        if state == JournalState::Active && self.has_lost_journal() {
            return JournalReport {
                state: JournalState::None,
                why_none: Some("its file was removed, moved or replaced".to_owned()),
                ..JournalReport::default()
            };
        }
        let pending = match state {
            JournalState::Active | JournalState::Latched => Some(uncommitted),
            _ => self.journal.pending,
        };
        JournalReport {
            state,
            pending,
            ..self.journal.clone()
        }
    }

    /// The kernel's status. Never `Overflow`: a full store here is one that stopped growing.
    /// `Invalid` only where the origin is written to and this snapshot was dropped, or removed.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.why_ended().is_some() {
            return Status::Invalid;
        }
        Status::Active(self.store.usage())
    }
}
