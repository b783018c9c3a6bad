//! One snapshot of an origin that is written to: what is saved in it, and how it is dropped.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::saved::SavedChunks;
use super::{MemberState, SnapshotState};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{SaveFailure, Snapshot};

/// A snapshot, and what of it is saved.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) cow: PathBuf,
    pub(super) snapshot: Arc<Snapshot>,
    saved: SavedChunks,
    /// Why it was dropped, once that is durable.
    dropped: Mutex<Option<String>>,
    is_dropped: AtomicBool,
}

impl Member {
    /// A snapshot whose store was just opened.
    ///
    /// # Errors
    /// As `flush`: what was read of the store may be in the page cache only.
    pub(super) fn new(name: &str, cow: PathBuf, snapshot: Snapshot) -> Result<Self> {
        snapshot.flush_store()?;
        let saved = SavedChunks::none_of(snapshot.chunk_count());
        snapshot.each_mapped(|chunks| saved.add(chunks));
        Ok(Self {
            name: name.to_owned(),
            cow,
            snapshot: Arc::new(snapshot),
            saved,
            dropped: Mutex::default(),
            is_dropped: AtomicBool::new(false),
        })
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.is_dropped.load(Ordering::Acquire)
    }

    /// The chunks that a write to this range of the origin must not reach yet; `None` where it may go
    /// on.
    #[inline]
    pub(super) fn unsaved(&self, offset: u64, len: u64) -> Option<Range<u64>> {
        let chunks = self.snapshot.chunks_touched(offset, len);
        (!self.saved.has_all(&chunks) && !self.is_dropped()).then_some(chunks)
    }

    /// Gives all of them exceptions, which a commit has to follow.
    pub(super) fn save(&self, chunks: Range<u64>) -> std::result::Result<(), SaveFailure> {
        if let Some(why) = self.snapshot.why_ended() {
            // It could not be invalidated yet.
            let error = Error::new(ErrorKind::Io, why);
            return Err(SaveFailure::Cow(error));
        }
        self.snapshot.save_chunks(chunks)
    }

    /// Commits what has exceptions.
    ///
    /// # Errors
    /// As `flush`.
    pub(super) fn commit(&self) -> Result<()> {
        self.snapshot.commit_saved()
    }

    /// These have exceptions, and a commit followed.
    pub(super) fn saved(&self, chunks: Range<u64>) {
        self.saved.add(chunks);
    }

    /// Drops the snapshot for this reason. When it returns well, it says so on its COW device,
    /// durably; before that it answers nothing any more.
    ///
    /// # Errors
    /// `Io` where that can't be written: the origin must not change then.
    pub(super) fn drop_out(&self, cause: &Error) -> Result<()> {
        let mut dropped = self.why_dropped();
        if dropped.is_some() {
            return Ok(());
        }
        self.snapshot.end(&format!("it was dropped: {cause:?}"));
        self.snapshot.shut();
        self.snapshot
            .invalidate()
            .map_err(|e| e.with_kind(ErrorKind::Io))?;
        let why = self.snapshot.why_ended().unwrap_or_default().to_owned();
        *dropped = Some(why.clone());
        self.is_dropped.store(true, Ordering::Release);
        drop(dropped);
        tracing::error!(
            "snapshot {} on {}: {why}; the origin goes on without it, and it can't be had back",
            self.name,
            self.cow.display()
        );
        Ok(())
    }

    pub(super) fn state(&self) -> SnapshotState {
        let state = match &*self.why_dropped() {
            Some(why) => MemberState::Dropped { why: why.clone() },
            None => MemberState::Active,
        };
        SnapshotState {
            name: self.name.clone(),
            cow: self.cow.clone(),
            chunk_size: self.snapshot.chunk_size(),
            state,
            report: self.snapshot.report(),
        }
    }

    fn why_dropped(&self) -> MutexGuard<'_, Option<String>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
