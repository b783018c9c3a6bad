//! What goes on around a store while it is served: its commits in time, the watch of its room.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use usnap_engine::Snapshot;
use usnap_engine::device::BlockDevice as _;

use super::Service;
use super::commit_timer::CommitTimer;
use super::space::{Outlook, SpaceWatch};
use crate::failure::Result;

/// The timer and the watch of a store.
pub(super) struct Tending {
    timer: Option<CommitTimer>,
    watch: Option<SpaceWatch>,
}

impl Tending {
    /// Begins to tend `store`, kept in `cow` or in memory.
    pub(super) fn start(
        store: &Arc<Snapshot>,
        cow: Option<&Path>,
        service: &Service,
    ) -> Result<Self> {
        let timer = match service.commit_interval {
            Some(interval) => Some(
                CommitTimer::start(Arc::clone(store), interval).context("cannot start a thread")?,
            ),
            None => None,
        };
        let watch = if store.is_read_only() {
            None
        } else {
            let watch = SpaceWatch::start(Arc::clone(store), cow, &service.on_space);
            Some(watch.context("cannot start a thread")?)
        };
        Ok(Self { timer, watch })
    }

    /// What the watch knows of the rate, where there is one.
    pub(super) fn outlook(&self) -> Option<Outlook> {
        self.watch.as_ref().map(SpaceWatch::outlook)
    }

    /// Ends the timer, and waits for a commit that is under way.
    pub(super) fn end_commits(&mut self) {
        self.timer = None;
    }

    /// Ends all of it, and waits for the commands that run.
    pub(super) fn end(mut self) {
        self.end_commits();
        if let Some(watch) = self.watch {
            watch.end();
        }
    }

    /// Ends all of it without waiting for anything.
    pub(super) fn abandon(self) {
        if let Some(timer) = self.timer {
            timer.abandon();
        }
    }
}
