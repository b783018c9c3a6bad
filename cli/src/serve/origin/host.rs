//! The origin that is served, and the operations on its snapshots: add, drop, list, and the end.
//!
//! Operations are done one at a time, each on a thread that may wait for a disk or for clients. A
//! snapshot that is dropped is taken from its clients first, in order, and closed when the last of
//! them is gone.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use usnap_engine::ErrorKind;
use usnap_engine::device::BlockDevice;
use usnap_engine::origin::WritableOrigin;
use usnap_engine::snapshot_origin::SnapshotOrigin;
use usnap_nbd::export::{Export, Exports};

use super::OriginPlan;
use super::member::Member;
use super::request::{Answer, List, Listed, Request, words};
use super::spec::SnapshotSpec;
use crate::control::{Answering, Control, STATUS};
use crate::failure::{Failure, Result};
use crate::report::{SnapshotPart, SpaceReport};
use crate::serve::Service;
use crate::serve::device;
use crate::serve::host::{Listening, Offer};

/// An origin, its snapshots and their exports.
pub(super) struct OriginHost {
    plan: Arc<OriginPlan>,
    /// As other processes are told it: they may be somewhere else.
    path: PathBuf,
    origin: Arc<SnapshotOrigin>,
    exports: Arc<Exports>,
    listening: OnceLock<Listening>,
    /// Held as long as an operation lasts.
    operation: Mutex<Phase>,
    members: Mutex<Vec<Member>>,
}

/// How far the server is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Serving,
    Ended,
}

impl OriginHost {
    pub(super) fn open(plan: &Arc<OriginPlan>) -> Result<Arc<Self>> {
        let origin = SnapshotOrigin::open(WritableOrigin::open(&plan.origin)?, plan.when_full);
        let device = Arc::clone(&origin) as Arc<dyn BlockDevice>;
        let mut export = Export::new(plan.name.clone(), device);
        if let Some(text) = &plan.description {
            export = export.with_description(text.clone());
        }
        let host = Arc::new(Self {
            path: std::path::absolute(&plan.origin).unwrap_or_else(|_| plan.origin.clone()),
            plan: Arc::clone(plan),
            origin,
            exports: Arc::new(Exports::new(vec![export])),
            listening: OnceLock::new(),
            operation: Mutex::new(Phase::Opening),
            members: Mutex::default(),
        });
        for spec in &plan.snapshots {
            host.add(spec)?
                .iter()
                .for_each(|note| tracing::warn!("{note}"));
        }
        Ok(host)
    }

    /// Adds a snapshot of this moment; returns what a person should know.
    fn add(self: &Arc<Self>, spec: &SnapshotSpec) -> Result<Vec<String>> {
        let phase = lock(&self.operation);
        if *phase == Phase::Ended {
            return Err(ending(&spec.name));
        }
        spec.check().map_err(Failure::usage)?;
        if self.exports.find(&spec.name).is_some() {
            return Err(Failure::usage(format!(
                "cannot add snapshot {:?}: there is an export of that name",
                spec.name
            )));
        }
        let cow = self.plan.keeping.cow_plan(spec)?;
        let new_cow = device::create_if_absent(&cow, self.origin.size_bytes(), || Ok(None))?;
        let options = device::options(&cow, self.plan.keeping.force_origin);
        let added = self.origin.add(&spec.name, &spec.cow, &options);
        let (snapshot, notes) = added.inspect_err(|error| {
            // Where somebody was faster, it is theirs.
            if error.kind() != ErrorKind::InUse
                && let Some(new_cow) = &new_cow
            {
                new_cow.remove();
            }
        })?;
        // What is said of a store that was just made is what was asked for.
        let notes = if new_cow.is_some() {
            notes.iter().for_each(|note| tracing::debug!("{note}"));
            Vec::new()
        } else {
            notes
        };
        device::warn_of_chunk_size(&cow, &snapshot);
        let export = Member::export(spec, &snapshot);
        let mut member = Member::new(spec, snapshot, new_cow);
        if *phase == Phase::Serving {
            let begun = member
                .begin(&self.plan.service)
                .and_then(|()| Ok(self.exports.add(export).map_err(anyhow::Error::new)?));
            if let Err(failure) = begun {
                let _already_told = self.origin.remove(&spec.name);
                member.abandon();
                return Err(failure);
            }
            self.answer_for(&mut member);
            member.new_cow = None;
            tracing::info!("added snapshot {:?} on {}", spec.name, spec.cow.display());
        } else {
            self.exports.add(export).map_err(anyhow::Error::new)?;
        }
        lock(&self.members).push(member);
        Ok(notes)
    }

    /// Takes a snapshot from its clients and closes it.
    fn drop_snapshot(&self, name: &str) -> Result<()> {
        let phase = lock(&self.operation);
        if *phase == Phase::Ended {
            return Err(ending(name));
        }
        let member = {
            let mut members = lock(&self.members);
            let index = members.iter().position(|member| member.name == name);
            index.map(|index| members.remove(index))
        };
        let Some(mut member) = member else {
            return Err(Failure::new(format!(
                "cannot drop snapshot {name:?}: {} has none of that name",
                self.path.display()
            ))
            .with_hint("usnap snapshot list shows those it has"));
        };
        if let (Some(removed), Some(listening)) = (self.exports.remove(name), self.listening.get())
            && !removed.wait(&listening.limits)
        {
            tracing::warn!("a client of snapshot {name:?} is stuck in a request");
        }
        member.end_commits();
        let result = self.origin.remove(name);
        tracing::info!("dropped snapshot {name:?}, on {}", member.cow.display());
        member.end();
        Ok(result?)
    }

    fn list(&self) -> List {
        let uri = |name: &str| self.listening.get().and_then(|l| l.uri(name));
        let outlooks: Vec<_> = lock(&self.members)
            .iter()
            .map(|member| (member.name.clone(), member.outlook()))
            .collect();
        let snapshots = self.origin.snapshots().into_iter().map(|state| {
            let outlook = outlooks.iter().find(|(name, _)| *name == state.name);
            let outlook = outlook.and_then(|(_, outlook)| outlook.as_ref());
            let space = &state.report.space;
            let space = outlook.map_or_else(
                || SpaceReport::live(space, None),
                |outlook| outlook.report(space),
            );
            Listed::new(&state, uri(&state.name), space)
        });
        List {
            pid: std::process::id(),
            origin: self.path.display().to_string(),
            uri: uri(&self.plan.name),
            snapshots: snapshots.collect(),
        }
    }

    fn respond(self: &Arc<Self>, line: &str) -> Option<String> {
        let request = match line {
            STATUS => Request::List,
            line => serde_json::from_str(line).ok()?,
        };
        let result = match request {
            Request::List => Ok(Vec::new()),
            Request::Add(spec) => self.add(&spec),
            Request::Drop { name } => self.drop_snapshot(&name).map(|()| Vec::new()),
        };
        let answer = match result {
            Ok(notes) => Answer {
                notes,
                list: Some(self.list()),
                ..Answer::default()
            },
            Err(failure) => {
                tracing::warn!("{}", failure.message());
                Answer::of_failure(&failure)
            }
        };
        Some(answer.to_line())
    }

    /// Lets `usnap status COW` ask about a snapshot.
    fn answer_for(self: &Arc<Self>, member: &mut Member) {
        let Some(listening) = self.listening.get() else {
            return;
        };
        let (origin, path, name) = (
            Arc::downgrade(&self.origin),
            self.path.display().to_string(),
            member.name.clone(),
        );
        member.answer(listening, move || {
            let states = origin.upgrade().map(|origin| origin.snapshots());
            let state = states.iter().flatten().find(|state| state.name == name);
            let (state, why) = state.map_or(("dropped", None), |state| words(&state.state));
            SnapshotPart {
                name: name.clone(),
                origin: path.clone(),
                state: state.to_owned(),
                why,
            }
        });
    }
}

fn ending(name: &str) -> Failure {
    Failure::new(format!(
        "cannot change snapshot {name:?}: the server is ending"
    ))
}

impl Offer for OriginHost {
    fn exports(&self) -> Arc<Exports> {
        Arc::clone(&self.exports)
    }

    fn name(&self) -> &str {
        &self.plan.name
    }

    fn begin(&self, service: &Service) -> Result<()> {
        let mut phase = lock(&self.operation);
        for member in &mut *lock(&self.members) {
            member.begin(service)?;
        }
        *phase = Phase::Serving;
        Ok(())
    }

    fn answer(self: Arc<Self>, listening: Listening) -> Vec<Answering> {
        self.listening.get_or_init(|| listening);
        for member in &mut *lock(&self.members) {
            self.answer_for(member);
        }
        let host = Arc::downgrade(&self);
        let answering = Control::bind(&self.plan.origin).and_then(|control| {
            control.answer(move |line| host.upgrade().and_then(|host| host.respond(line)))
        });
        answering
            .inspect_err(|error| {
                tracing::warn!("snapshots can not be added or dropped: no control socket: {error}");
            })
            .into_iter()
            .collect()
    }

    fn keep_new_files(&self) {
        for member in &mut *lock(&self.members) {
            member.new_cow = None;
        }
    }

    fn close(&self) -> Result<()> {
        let mut phase = lock(&self.operation);
        *phase = Phase::Ended;
        // Not under the lock: it waits for commits that are under way, and others look at it.
        let mut members = std::mem::take(&mut *lock(&self.members));
        members.iter_mut().for_each(Member::end_commits);
        *lock(&self.members) = members;
        Ok(self.origin.close()?)
    }

    fn end(&self) {
        let members = std::mem::take(&mut *lock(&self.members));
        members.into_iter().for_each(Member::end);
    }

    fn abandon(&self) {
        let members = std::mem::take(&mut *lock(&self.members));
        members.into_iter().for_each(Member::abandon);
    }
}

/// A run that could not begin leaves no COW files behind that it made itself.
impl Drop for OriginHost {
    fn drop(&mut self) {
        let mut members = std::mem::take(&mut *lock(&self.members));
        let new: Vec<_> = members
            .iter_mut()
            .filter_map(|member| member.new_cow.take().filter(|_| member.is_empty()))
            .collect();
        if !new.is_empty() {
            // Nothing was written: this takes the journals away.
            let _best_effort = self.origin.close();
            new.iter().for_each(device::NewCow::remove);
        }
    }
}

/// Nothing is done under these locks that could leave anything half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
