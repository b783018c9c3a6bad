//! One snapshot that is served: its store, its export, and what goes on around it.

use std::path::PathBuf;
use std::sync::Arc;

use usnap_engine::Snapshot;
use usnap_engine::device::{BlockDevice, ReadOnlyDevice};
use usnap_nbd::export::Export;

use super::spec::SnapshotSpec;
use crate::control::{Answering, Control, STATUS};
use crate::failure::Result;
use crate::report::{Report, SnapshotPart};
use crate::serve::Service;
use crate::serve::device::{self, NewCow};
use crate::serve::host::Listening;
use crate::serve::space::Outlook;
use crate::serve::tending::Tending;

/// A snapshot, from the moment it is one.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) cow: PathBuf,
    snapshot: Arc<Snapshot>,
    max_bytes: Option<u64>,
    /// The COW file, where this run made it and does not serve it yet.
    pub(super) new_cow: Option<NewCow>,
    tending: Option<Tending>,
    _answering: Option<Answering>,
}

impl Member {
    pub(super) fn new(
        spec: &SnapshotSpec,
        snapshot: Arc<Snapshot>,
        new_cow: Option<NewCow>,
    ) -> Self {
        Self {
            name: spec.name.clone(),
            cow: spec.cow.clone(),
            snapshot,
            max_bytes: spec.max_cow_bytes,
            new_cow,
            tending: None,
            _answering: None,
        }
    }

    /// The export of a snapshot.
    pub(super) fn export(spec: &SnapshotSpec, snapshot: &Arc<Snapshot>) -> Export {
        let export = if spec.read_only {
            let below = Arc::clone(snapshot) as Arc<dyn BlockDevice>;
            let device = Arc::new(ReadOnlyDevice::new(below));
            device::export_of(spec.name.clone(), device, snapshot.chunk_size())
        } else {
            device::export(spec.name.clone(), snapshot)
        };
        if spec.label.is_empty() {
            export
        } else {
            export.with_description(spec.label.clone())
        }
    }

    /// Begins what goes on around it.
    pub(super) fn begin(&mut self, service: &Service) -> Result<()> {
        self.tending = Some(Tending::start(&self.snapshot, Some(&self.cow), service)?);
        Ok(())
    }

    /// Begins to answer `usnap status COW`. `part` says what it is of the origin.
    pub(super) fn answer(
        &mut self,
        listening: &Listening,
        part: impl Fn() -> SnapshotPart + Send + Sync + 'static,
    ) {
        let outlook = self.outlook();
        let (snapshot, max_bytes) = (Arc::clone(&self.snapshot), self.max_bytes);
        let counters = Arc::clone(&listening.counters);
        let uri = listening.uri(&self.name);
        let report = move || {
            let counts = counters.counts();
            let status = snapshot.report();
            let report = Report::served(&status, counts, max_bytes, outlook.as_ref());
            Report {
                snapshot: Some(part()),
                ..report.at(uri.clone())
            }
        };
        let answering = Control::bind(&self.cow).and_then(|control| {
            control.answer(move |request| (request == STATUS).then(|| report().to_line()))
        });
        self._answering = answering
            .inspect_err(|error| {
                tracing::warn!(
                    "status can not ask this server about {}: no control socket: {error}",
                    self.cow.display()
                );
            })
            .ok();
    }

    /// What the watch of its room knows.
    pub(super) fn outlook(&self) -> Option<Outlook> {
        self.tending.as_ref().and_then(Tending::outlook)
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        let count = self.snapshot.report().exceptions;
        count.committed == 0 && count.uncommitted == 0
    }

    /// Ends its commits, and waits for one that is under way.
    pub(super) fn end_commits(&mut self) {
        if let Some(tending) = &mut self.tending {
            tending.end_commits();
        }
    }

    /// Ends what goes on around it, and waits for that.
    pub(super) fn end(mut self) {
        if let Some(tending) = self.tending.take() {
            tending.end();
        }
    }

    /// Ends that without waiting.
    pub(super) fn abandon(mut self) {
        if let Some(tending) = self.tending.take() {
            tending.abandon();
        }
    }
}
