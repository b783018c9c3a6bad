//! `usnap serve --merge`: the snapshot is served while it is merged into its origin, and then the
//! origin itself, until the server is told to end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context as _;
use usnap_engine::device::BlockDevice;
use usnap_engine::merge::{Merge, MergeOptions, OnlineMerge, OnlineOptions};
use usnap_engine::{Durability, JournalMode};
use usnap_nbd::export::Exports;

use super::device::export_of;
use super::host::{Listening, Offer};
use super::{Plan, Service};
use crate::control::{Answering, Control, STATUS};
use crate::failure::Result;
use crate::report::{MergePart, Report};

/// The COW file that is merged while it is served.
#[derive(Debug)]
pub(crate) struct MergePlan {
    pub(crate) cow: PathBuf,
    pub(crate) every_write: bool,
    pub(crate) journal: JournalMode,
}

/// A merge, and its export.
pub(super) struct Merging {
    exports: Arc<Exports>,
    name: String,
    cow: PathBuf,
    merge: Arc<OnlineMerge>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Merging {
    /// Opens and locks both for this process alone. The origin may be written to from here on.
    pub(super) fn open(plan: &Plan, merging: &MergePlan) -> Result<Self> {
        let options = MergeOptions {
            force_origin: plan.force_origin,
            journal: merging.journal,
            ..MergeOptions::default()
        };
        let (merge, notes) = Merge::open(&merging.cow, &plan.origin, &options)?;
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        let chunk_size = merge.chunk_size();
        let online = OnlineOptions {
            durability: if merging.every_write {
                Durability::EveryWrite
            } else {
                Durability::Flush
            },
            ..OnlineOptions::default()
        };
        let merge = Arc::new(merge.serve(&online)?);
        let device = Arc::clone(&merge) as Arc<dyn BlockDevice>;
        let export = export_of(plan.name.clone(), device, chunk_size);
        let export = match &plan.description {
            Some(text) => export.with_description(text.clone()),
            None => export,
        };
        Ok(Self {
            exports: Arc::new(Exports::new(vec![export])),
            name: plan.name.clone(),
            cow: merging.cow.clone(),
            merge,
            thread: Mutex::new(None),
        })
    }

    fn take_thread(&self) -> Option<JoinHandle<()>> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.take()
    }
}

impl Offer for Merging {
    fn exports(&self) -> Arc<Exports> {
        Arc::clone(&self.exports)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&self, _: &Service) -> Result<()> {
        let merge = Arc::clone(&self.merge);
        let thread = std::thread::Builder::new()
            .name("merge".to_owned())
            .spawn(move || merge.run())
            .context("cannot start a thread")?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    fn answer(self: Arc<Self>, listening: Listening) -> Vec<Answering> {
        let uri = listening.uri(&self.name);
        let (merge, counters) = (Arc::clone(&self.merge), listening.counters);
        let answering = Control::bind(&self.cow).and_then(|control| {
            control.answer(move |request| {
                let report = || Report {
                    merge: Some(MergePart::from(&merge.progress())),
                    ..Report::live(&merge.report(), counters.counts()).at(uri.clone())
                };
                (request == STATUS).then(|| report().to_line())
            })
        });
        answering
            .inspect_err(|error| {
                tracing::warn!("status can not ask this server: no control socket: {error}");
            })
            .into_iter()
            .collect()
    }

    fn keep_new_files(&self) {}

    fn close(&self) -> Result<()> {
        self.merge.stop();
        if let Some(thread) = self.take_thread() {
            // It can only have panicked, and then the panic is in the log.
            let _ = thread.join();
        }
        self.merge.close()?;
        let left = self.merge.progress().chunks_left;
        if left > 0 {
            tracing::info!(
                "{left} chunks are left to be merged: `usnap merge` or `usnap serve --merge` goes on"
            );
        }
        Ok(())
    }

    fn end(&self) {}

    fn abandon(&self) {
        self.merge.stop();
    }
}
