//! How far a merge is, and what a store that is being merged says of itself.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use usnap_format::{NewChunk, Status, Usage};

use super::OnlineMerge;
use crate::device::BlockDevice;
use crate::snapshot::{Counters, JournalReport, StatusReport};
use crate::space::{Space, SpaceLimit};
use crate::store::ExceptionCounts;
use crate::store::persistent::free_behind;

/// What a merge is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeState {
    /// Chunks are left, and it goes on with them; or it was told to stop.
    Running,
    /// The origin has everything, and the store is empty.
    Done,
    /// It ended with this error; what is left is served as before.
    Failed(String),
}

/// How far a merge is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeProgress {
    /// What it is at.
    pub state: MergeState,
    /// Chunks that are still to be merged.
    pub chunks_left: u64,
    /// Chunks that there were when it began.
    pub chunks_total: u64,
}

impl OnlineMerge {
    /// How far the merge is.
    #[must_use]
    pub fn progress(&self) -> MergeProgress {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        MergeProgress {
            state: state.clone(),
            chunks_left: self.left.load(Ordering::SeqCst),
            chunks_total: self.total,
        }
    }

    /// Reports the state of this moment, in the kernel's figures: the sectors allocated end behind
    /// the last entry that is left, and are the metadata's when none is.
    #[must_use]
    pub fn report(&self) -> StatusReport {
        let (progress, layout) = (self.progress(), self.layout);
        let left = progress.chunks_left;
        let (area, index) = layout.entry_position(left);
        let location = layout.area_location(area).unwrap_or(NewChunk(u64::MAX));
        let next_free = NewChunk(location.0.saturating_add(index + 1));
        let (chunk_size, cow_size_bytes) = (layout.chunk_size, self.cow.size_bytes());
        let device_chunks = chunk_size.whole_chunks(cow_size_bytes);
        let free = free_behind(layout, next_free, left, device_chunks);
        let latched = self.cow.latched().or_else(|| self.origin.latched());
        StatusReport {
            status: match progress.state {
                MergeState::Failed(_) => Status::MergeFailed,
                _ => Status::Active(Usage::persistent(layout, next_free, area, cow_size_bytes)),
            },
            chunk_size,
            exceptions: ExceptionCounts {
                committed: left,
                uncommitted: 0,
                free,
            },
            cow_size_bytes,
            snapshot_size_bytes: Some(self.size_bytes),
            is_full: false,
            space: Space::of_chunks(chunk_size.bytes(), left, free, SpaceLimit::Cow),
            latched: latched.map(str::to_owned),
            label: self.label.as_str().to_owned(),
            has_identity: self.sector.identity.is_ok_and(|record| record.is_some()),
            origin_changing: true,
            identity_damage: self.sector.identity.err().map(|damage| damage.to_string()),
            is_persistent: true,
            // None is needed: no exception is made.
            journal: JournalReport::default(),
            counters: Counters::default(),
        }
    }
}
