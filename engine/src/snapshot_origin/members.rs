//! Snapshots that come and go while the origin is served: at a moment at which no write to it is in
//! flight.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use usnap_format::OriginIdentity;

use super::member::Member;
use super::{Below, SnapshotOrigin, SnapshotState};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Snapshot, SnapshotOptions};

/// Forcing a snapshot that missed writes would show a mixture of two moments.
const LEFT_BEHIND: &str = "add it to the origin it was made for; one that missed writes to its \
     origin shows no moment any more: begin with a new COW file";

impl SnapshotOrigin {
    /// Opens the COW device at `cow` as a snapshot of the origin, called `name`. The moment of an
    /// empty store is now; another one has to fit the origin, as with `Snapshot::open`. Writes to
    /// the origin wait meanwhile. Also returns what a person should know, a sentence each.
    ///
    /// # Errors
    /// `Exists` where the name is taken, `Usage` where it is to be read-only, those of
    /// `Snapshot::open`, and those of `flush`, since the origin is flushed.
    pub fn add(
        &self,
        name: &str,
        cow: &Path,
        options: &SnapshotOptions,
    ) -> Result<(Arc<Snapshot>, Vec<String>)> {
        let Below::File(origin) = &self.below else {
            let context = format!("cannot add snapshot {name}: the origin is not a file");
            return Err(Error::new(ErrorKind::NotSupported, context));
        };
        let mut notes = Vec::new();
        let snapshot = self.add_with(name, cow.to_owned(), options, || {
            let was_changed = self.was_changed.load(Ordering::Relaxed);
            let (snapshot, found) =
                Snapshot::open_on_shared_origin(origin, cow, options, was_changed)?;
            notes = found;
            Ok(snapshot)
        })?;
        Ok((snapshot, notes))
    }

    /// As `add`, on any device; `origin` is what the snapshot sees of the origin where that is not
    /// all of it. For tests.
    ///
    /// # Errors
    /// As `Snapshot::on_devices`, and `add`.
    #[doc(hidden)]
    pub fn add_device(
        &self,
        name: &str,
        origin: Option<Arc<dyn BlockDevice>>,
        cow: Arc<dyn BlockDevice>,
        options: &SnapshotOptions,
    ) -> Result<Arc<Snapshot>> {
        let below = match &self.below {
            Below::File(origin) => Arc::clone(origin) as Arc<dyn BlockDevice>,
            Below::Device(origin) => Arc::clone(origin),
        };
        self.add_with(name, PathBuf::from(cow.name()), options, || {
            Snapshot::on_shared_devices(origin.unwrap_or(below), cow, options)
        })
    }

    fn add_with(
        &self,
        name: &str,
        cow: PathBuf,
        options: &SnapshotOptions,
        open: impl FnOnce() -> Result<Snapshot>,
    ) -> Result<Arc<Snapshot>> {
        let cannot = || format!("cannot add snapshot {name}");
        if options.read_only {
            let context = format!(
                "{}: what the origin's writes replace is kept in its COW device, so that is \
                 written to",
                cannot()
            );
            return Err(Error::new(ErrorKind::Usage, context));
        }
        let mut members = self.enter_alone();
        if members.iter().any(|member| member.name == name) {
            let context = format!("{}: there is one of that name", cannot());
            return Err(Error::new(ErrorKind::Exists, context));
        }
        // Chunks that are never saved are this moment's only if they are durable.
        self.device.flush().map_err(|e| e.context(cannot()))?;
        let opened = open().map_err(|e| match e.kind() {
            ErrorKind::OriginMismatch => e.with_hint(LEFT_BEHIND),
            _ => e,
        })?;
        let member = Member::new(name, cow, opened)?;
        let snapshot = Arc::clone(&member.snapshot);
        members.push(Arc::new(member));
        Ok(snapshot)
    }

    /// Takes a snapshot out. It answers nothing from here on, and its COW device is closed in order:
    /// everything is committed, and it belongs to the origin as that is now. One that was dropped is
    /// only forgotten.
    ///
    /// # Errors
    /// `NotFound`; those of `flush`, and then it is out all the same, as if killed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let mut members = self.enter_alone();
        let Some(index) = members.iter().position(|member| member.name == name) else {
            let context = format!("cannot remove snapshot {name}: there is none of that name");
            return Err(Error::new(ErrorKind::NotFound, context));
        };
        let member = members.remove(index);
        if member.is_dropped() {
            return Ok(());
        }
        let cannot = || format!("cannot close the COW device of snapshot {name} in order");
        let identity = self.settled_identity();
        member.snapshot.end("it was removed");
        // Alone still: the identity is of an origin that nobody changes meanwhile.
        let closed = match identity {
            Ok(identity) => member.snapshot.close_over(identity),
            Err(error) => member.snapshot.close_over(None).and(Err(error)),
        };
        closed.map_err(|e| e.context(cannot()))
    }

    /// The snapshots, in the order in which they were added.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotState> {
        // Not under the gate: a report looks at files.
        let members = self.enter().clone();
        members.iter().map(|member| member.state()).collect()
    }

    /// The snapshot of this name, dropped or not.
    #[must_use]
    pub fn snapshot(&self, name: &str) -> Option<Arc<Snapshot>> {
        let members = self.enter();
        let found = members.iter().find(|member| member.name == name)?;
        Some(Arc::clone(&found.snapshot))
    }

    /// Ends in order: no write to the origin from here on, the origin durable, and each COW device
    /// closed as one that belongs to it as it is now. For when nobody writes to the snapshots any
    /// more.
    ///
    /// # Errors
    /// The first of those of `flush`; the snapshots behind it are closed all the same.
    pub fn close(&self) -> Result<()> {
        let members = self.enter_alone();
        if members.iter().all(|member| member.snapshot.is_closed()) && self.is_closed() {
            return Ok(());
        }
        let (identity, mut result) = match self.settled_identity() {
            Ok(identity) => (identity, Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.device.close();
        for member in members.iter().filter(|member| !member.is_dropped()) {
            let closed = member.snapshot.close_over(identity).map_err(|e| {
                let name = &member.name;
                e.context(format!(
                    "cannot close the COW device of snapshot {name} in order"
                ))
            });
            result = result.and(closed);
        }
        result
    }

    fn is_closed(&self) -> bool {
        self.device.latched().is_none() && self.device.refuse_if_latched().is_err()
    }

    /// What the origin is recognised by, once all of it is durable.
    fn settled_identity(&self) -> Result<Option<OriginIdentity>> {
        self.device.flush()?;
        match &self.below {
            Below::File(origin) => origin.identify().map(Some),
            Below::Device(_) => Ok(None),
        }
    }
}
