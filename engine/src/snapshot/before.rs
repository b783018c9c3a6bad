//! What the session before left behind with a COW device: nothing, or a journal that waits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use usnap_format::IdentityRecord;

use super::session::OpenSession;
use super::waiting::{JournalMode, Waiting};
use super::{JournalReport, JournalState, SnapshotOptions};
use crate::device::FileDevice;
use crate::error::{ErrorKind, Result};
use crate::journal::{Found, Journal, Notes, Session, Unreadable, Witness, place};

/// What the session before left behind.
#[derive(Default)]
pub(super) struct Before {
    /// A journal whose notes may be missing on the device.
    pub(super) waiting: Option<Waiting>,
    /// Where a journal of that session lies, whether it is of use or not.
    pub(super) path: Option<PathBuf>,
    /// The session was killed in this boot, and its journal was not found, or is empty.
    pub(super) is_absent: bool,
    /// The session did not end in order, before this boot or on another machine.
    was_cut_off: bool,
    /// Exceptions that its journal had noted, in that case.
    thrown_away: u64,
    /// There is no record, so nobody knows how the session before ended.
    is_unrecorded: bool,
    /// A merge, which has no session, did not end: it may have been a flush that failed.
    was_merging: bool,
    /// The journal may be removed: it is not of another file, of which this one is a copy.
    is_ours: bool,
}

impl Before {
    /// Looks for the journal of the session that `record` names. Nothing is changed.
    pub(super) fn look(cow: &Path, file: &FileDevice, record: Option<&IdentityRecord>) -> Self {
        let Some(record) = record else {
            return Self {
                is_unrecorded: true,
                ..Self::default()
            };
        };
        if record.session == [0; 16] {
            return Self {
                was_merging: record.origin_changing,
                ..Self::default()
            };
        }
        let witness = Witness::of(file.file());
        let was_cut_off = !record.clean
            && witness
                .as_ref()
                .is_ok_and(|now| now.boot_id != record.boot_id);
        let found = place::find_read_only(cow, Session(record.session))
            .map(|found| found.map(|(path, memory)| (path, Found::read(Arc::new(memory)))));
        let is_of_same_start = match (&found, &witness) {
            (Ok(Some((_, Ok(found)))), Ok(now)) => found.is_of_same_start(now),
            _ => false,
        };
        if record.clean || (was_cut_off && !is_of_same_start) {
            // Everything was committed, or the page cache that it speaks of is gone.
            let Some((path, read)) = found.ok().flatten() else {
                return Self {
                    was_cut_off,
                    ..Self::default()
                };
            };
            let is_ours = match (&read, &witness) {
                // A copy names the journal that the first one's server may be using.
                (Ok(found), Ok(now)) => found.is_left_by(now),
                (Ok(_), Err(_)) => false,
                // One that is in use can be read.
                (Err(_), _) => true,
            };
            return Self {
                path: Some(path),
                was_cut_off,
                is_ours,
                thrown_away: read.map_or(0, |found| found.exceptions_noted()),
                ..Self::default()
            };
        }
        let (path, read) = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                let session = Session(record.session);
                let is_needed = record.has_journal;
                return Self {
                    waiting: is_needed
                        .then(|| Waiting::Missing(place::not_to_be_found(cow, session))),
                    is_absent: true,
                    ..Self::default()
                };
            }
            Err(error) => {
                return Self {
                    waiting: Some(match error.kind() {
                        // What lies there is not ours.
                        ErrorKind::PermissionDenied => Waiting::Unreadable(format!("{error:?}")),
                        _ => Waiting::not_looked_at(&error),
                    }),
                    ..Self::default()
                };
            }
        };
        if let Err(error) = &witness
            && error.kind() == ErrorKind::Io
        {
            return Self {
                waiting: Some(Waiting::not_looked_at(error)),
                path: Some(path),
                ..Self::default()
            };
        }
        if read.as_ref().is_err_and(|why| *why == Unreadable::NotBegun) {
            // The record names a session once its journal has begun, so this one was emptied.
            let why = format!("{} is empty", path.display());
            return Self {
                waiting: record.has_journal.then_some(Waiting::Missing(why)),
                path: Some(path),
                is_absent: true,
                is_ours: true,
                ..Self::default()
            };
        }
        let is_ours = match (&read, &witness) {
            (Ok(found), Ok(now)) => found.is_for(now),
            // Nobody knows whose it is.
            _ => false,
        };
        let waiting = Waiting::new(read, |found| match &witness {
            Ok(now) => found.doubts(now),
            Err(error) => vec![format!("can't be compared with this boot ({error:?})")],
        });
        Self {
            waiting,
            path: Some(path),
            is_ours,
            ..Self::default()
        }
    }

    /// What a waiting journal has.
    pub(super) fn journal_notes(&self) -> Option<Notes<'_>> {
        let found = self.waiting.as_ref().and_then(Waiting::found)?;
        Some(found.notes())
    }

    /// Whether the session before may have ended with a flush that failed: its journal says so, or
    /// there is none that could.
    pub(super) fn may_have_latched(&self) -> bool {
        match &self.waiting {
            Some(waiting) => waiting.found().is_none_or(|found| found.is_latched),
            None => self.is_absent || self.is_unrecorded || self.was_merging,
        }
    }

    /// The journal itself, to be stamped and poisoned; `None` where there is none of ours. One that
    /// is to be discarded is poisoned right away, where it can be: stamped it would be believed
    /// again, if what follows fails.
    ///
    /// # Errors
    /// Where it can't be opened for writing, unless it is to be discarded.
    pub(super) fn open(&self, cow: &Path, mode: JournalMode) -> Result<Option<Found>> {
        if mode != JournalMode::Discard {
            return self.open_own(cow);
        }
        if let Ok(Some(discarded)) = self.open_own(cow) {
            discarded.latch();
        }
        Ok(None)
    }

    fn open_own(&self, cow: &Path) -> Result<Option<Found>> {
        let Some(found) = self.waiting.as_ref().and_then(Waiting::found) else {
            return Ok(None);
        };
        if !self.is_ours {
            return Ok(None);
        }
        let memory = place::find(cow, found.session)?.map(|(_, memory)| memory);
        Ok(memory.and_then(|memory| Found::read(memory).ok()))
    }

    /// What a person should know, where `replayed` exceptions are replayed, or shown.
    pub(super) fn notes(
        &self,
        cow: &Path,
        options: &SnapshotOptions,
        replayed: u64,
    ) -> Option<String> {
        let name = cow.display();
        if self.is_absent {
            let what = if self.path.is_some() {
                "its journal is empty"
            } else {
                "it has no journal"
            };
            return Some(format!(
                "the server before of {name} was killed and {what}: what was written and not flushed \
                 may be missing"
            ));
        }
        if self.was_cut_off {
            let noted = match self.thrown_away {
                0 => String::new(),
                n => format!(" (its journal, worth nothing now, had noted {n} exceptions)"),
            };
            return Some(format!(
                "{name} was not closed in order, before this system was started or elsewhere: what was \
                 not flushed may be missing{noted}"
            ));
        }
        let waiting = self.waiting.as_ref()?;
        if options.journal == JournalMode::Discard {
            let noted = waiting.noted();
            // A read-only open changes nothing, and another file's journal is not ours to remove.
            let verb = if self.is_ours && !options.read_only {
                "discarded"
            } else {
                "left out"
            };
            return Some(format!(
                "{verb} the journal of a killed server, which had noted {noted} exceptions"
            ));
        }
        if replayed == 0 {
            return None;
        }
        let verb = if options.read_only {
            "shown, not committed:"
        } else {
            "replayed"
        };
        let exceptions = if replayed == 1 {
            "exception"
        } else {
            "exceptions"
        };
        Some(format!(
            "{verb} {replayed} {exceptions} that a killed server had not committed"
        ))
    }

    /// The journal's report for the snapshot that was opened after this.
    pub(super) fn report(
        &self,
        read_only: bool,
        shown: u64,
        journal: &std::result::Result<Journal, String>,
        session: &Option<OpenSession>,
    ) -> JournalReport {
        if read_only {
            let is_waiting = self.waiting.is_some();
            return JournalReport {
                state: match (is_waiting, self.is_absent) {
                    (_, true) => JournalState::Absent,
                    (true, false) => JournalState::Waiting,
                    (false, false) => JournalState::None,
                },
                path: self.path.clone().filter(|_| is_waiting),
                pending: if self.is_absent { None } else { Some(shown) },
                ..JournalReport::default()
            };
        }
        JournalReport {
            state: match journal {
                Ok(_) => JournalState::Active,
                Err(_) => JournalState::None,
            },
            path: session.as_ref().and_then(|session| session.path.clone()),
            why_none: journal.as_ref().err().cloned(),
            ..JournalReport::default()
        }
    }

    /// Removes the journal file, which is of no more use.
    pub(super) fn remove(&self) {
        if let Some(path) = self.path.as_deref().filter(|_| self.is_ours) {
            tracing::debug!("removing the journal {}", path.display());
            place::remove(path);
        }
    }
}
