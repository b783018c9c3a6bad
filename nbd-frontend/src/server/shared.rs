//! What all connections of a server share, and how many there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::counters::Counters;
use super::limits::{CUT_TIMEOUT, Limits};
use super::notices::Notices;
use super::shutdown::Shutdown;
use super::workers::Workers;
use crate::export::Exports;

/// The state shared by a server and its connections.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) exports: Arc<Exports>,
    pub(super) limits: Limits,
    pub(super) counters: Arc<Counters>,
    pub(super) notices: Arc<Notices>,
    pub(super) shutdown: Arc<Shutdown>,
    pub(super) workers: Arc<Workers>,
    slots: Arc<Semaphore>,
    slot_count: u32,
    next_id: AtomicU64,
}

/// A connection's place among `max_connections`; free again when dropped, however that comes.
pub(super) type Slot = OwnedSemaphorePermit;

impl Shared {
    pub(super) fn new(exports: Arc<Exports>, limits: Limits) -> Arc<Self> {
        // More threads than this no machine has; fewer than one would be no server.
        let slot_count = u32::try_from(limits.max_connections)
            .unwrap_or(u32::MAX)
            .clamp(1, 1 << 16);
        Arc::new(Self {
            exports,
            limits,
            counters: Arc::default(),
            notices: Arc::default(),
            shutdown: Arc::new(Shutdown::new()),
            workers: Arc::default(),
            slots: Arc::new(Semaphore::new(slot_count as usize)),
            slot_count,
            next_id: AtomicU64::new(1),
        })
    }

    /// A place for one more connection, if there is one.
    pub(super) fn slot(&self) -> Option<Slot> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// A number for one more connection.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Resolves when no connection is left. Nobody may accept any more.
    pub(super) async fn all_gone(&self) {
        // Fails only if the semaphore was closed, which nobody does.
        drop(self.slots.acquire_many(self.slot_count).await);
        self.workers.stop();
    }

    /// Ends every connection as `shutdown` describes; returns when none is left, or only such
    /// whose request the device, or a full pipe, does not let go. Those were promised nothing.
    pub(super) async fn drain(&self) {
        self.shutdown.begin();
        if timeout(self.limits.shutdown_grace, self.all_gone())
            .await
            .is_ok()
        {
            return;
        }
        self.shutdown.end_inputs();
        if timeout(self.limits.shutdown_timeout, self.all_gone())
            .await
            .is_ok()
        {
            return;
        }
        let count = self.shutdown.cut();
        tracing::warn!(count, "cutting connections that did not end in time");
        if timeout(CUT_TIMEOUT, self.all_gone()).await.is_err() {
            let count = self.slot_count as usize - self.slots.available_permits();
            tracing::warn!(
                count,
                "not waiting for connections that are stuck in a request"
            );
            self.workers.stop();
        }
    }
}
