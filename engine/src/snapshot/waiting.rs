//! A journal that a killed server left: whether it is replayed, and what a person is told.

use usnap_format::Exception;

use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Found, Unreadable};
use crate::store::persistent::open::Loaded;
use crate::table::ExceptionTable;

/// What becomes of a journal that a killed server left, and whether a new one is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JournalMode {
    /// Replay it if nothing speaks against it, else refuse to open; keep a new one.
    #[default]
    Auto,
    /// Replay it although circumstances speak against it, as far as the store does not contradict
    /// it; keep a new one.
    Replay,
    /// Open without it: what was not committed is lost; keep a new one.
    Discard,
    /// As `Auto`, but keep none: what is not flushed does not survive the end of the process.
    Off,
}

/// A journal that waits.
pub(super) enum Waiting {
    /// It can be read; `doubts` are the circumstances that speak against it, each a sentence
    /// without its beginning (`the journal ...`).
    Whole {
        found: Box<Found>,
        doubts: Vec<String>,
    },
    /// It can't; the rest of a sentence that begins with it.
    Unreadable(String),
    /// The session kept one, and it is not to be found: its name, and where it was searched.
    Missing(String),
    /// Looking for it failed, which may pass.
    NotLookedAt { kind: ErrorKind, why: String },
}

impl Waiting {
    /// What came of reading a journal; `None` where nothing was ever noted in it.
    pub(super) fn new(
        read: std::result::Result<Found, Unreadable>,
        doubts: impl FnOnce(&Found) -> Vec<String>,
    ) -> Option<Self> {
        match read {
            Ok(found) => Some(Self::Whole {
                doubts: doubts(&found),
                found: Box::new(found),
            }),
            Err(Unreadable::NotBegun) => None,
            Err(Unreadable::Damaged(why)) => Some(Self::Unreadable(why)),
        }
    }

    pub(super) fn not_looked_at(error: &Error) -> Self {
        Self::NotLookedAt {
            kind: error.kind(),
            why: format!("{error:?}"),
        }
    }

    /// The journal, where it can be read.
    pub(super) fn found(&self) -> Option<&Found> {
        match self {
            Self::Whole { found, .. } => Some(found),
            Self::Unreadable(_) | Self::Missing(_) | Self::NotLookedAt { .. } => None,
        }
    }

    /// How many exceptions it has, committed since or not.
    pub(super) fn noted(&self) -> u64 {
        self.found().map_or(0, Found::exceptions_noted)
    }

    /// The same in words, for where nobody can tell which of them are committed.
    fn at_most(&self) -> String {
        match self {
            Self::Whole { .. } => format!("up to {}", count(Some(self.noted()))),
            _ => count(None),
        }
    }

    /// Why nothing may be replayed, whatever is asked for; known before the store is loaded.
    pub(super) fn why_never(&self) -> Option<String> {
        match self {
            Self::Unreadable(why) => Some(format!("the journal can't be read: {why}")),
            Self::Missing(names) => Some(format!("its journal {names}")),
            Self::NotLookedAt { why, .. } => Some(format!("its journal can't be looked at: {why}")),
            Self::Whole { found, .. } if found.is_latched => Some(
                "a flush failed before the server ended, or the journal was being discarded, so what \
                 the system shows of the file may not be on the disk"
                    .to_owned(),
            ),
            Self::Whole { .. } => None,
        }
    }

    /// Refuses what no store can change, unless the journal is to be discarded.
    ///
    /// # Errors
    /// `JournalInDoubt`.
    pub(super) fn refuse_hopeless(&self, name: &str, mode: JournalMode) -> Result<()> {
        let Some(why) = self.why_never().filter(|_| mode != JournalMode::Discard) else {
            return Ok(());
        };
        let killed = format!("cannot use COW device {name}: a server was killed, and {why}");
        Err(match self {
            Self::Missing(_) => Error::new(ErrorKind::JournalInDoubt, killed).with_hint(
                "nothing was changed; a COW file is moved together with its journal: put that \
                 beside it; --journal=discard serves without it",
            ),
            Self::NotLookedAt { kind, .. } => Error::new(*kind, killed)
                .with_hint("nothing was changed; once that is mended, the journal can be used"),
            _ => hopeless(name, &why, &self.at_most()),
        })
    }

    /// The exceptions that are to be replayed, sorted by new chunk.
    ///
    /// # Errors
    /// `JournalInDoubt`.
    pub(super) fn judge(
        &self,
        name: &str,
        loaded: &Loaded,
        table: &ExceptionTable,
        mode: JournalMode,
    ) -> Result<Vec<Exception>> {
        let Self::Whole { found, doubts } = self else {
            return Ok(Vec::new());
        };
        if mode == JournalMode::Discard {
            return Ok(Vec::new());
        }
        let missing = loaded.missing(found, table).map_err(|contradiction| {
            let why = format!("the journal {}", contradiction.0);
            hopeless(name, &why, &self.at_most())
        })?;
        if missing.is_empty() {
            tracing::debug!("all that the journal of {name} has noted is committed");
            return Ok(missing);
        }
        if doubts.is_empty() || mode == JournalMode::Replay {
            return Ok(missing);
        }
        let context = format!(
            "cannot use COW device {name}: a server was killed, and its journal {}; it has {} not \
             committed",
            doubts.join(", and "),
            count(Some(missing.len() as u64))
        );
        Err(Error::new(ErrorKind::JournalInDoubt, context).with_hint(
            "nothing was changed; if nothing else wrote to the COW device, --journal=replay adds \
             them; --journal=discard serves without them",
        ))
    }
}

/// Proves that the data of what is to be replayed is there.
///
/// # Errors
/// What the sync says. The journal is poisoned then: the next sync would say that all is well.
pub(super) fn prove(device: &dyn BlockDevice, journal: Option<&Found>) -> Result<()> {
    device.flush().map_err(|e| {
        if let Some(journal) = journal {
            journal.latch();
        }
        let name = device.name();
        e.context(format!("cannot replay the journal of COW device {name}"))
    })
}

fn hopeless(name: &str, why: &str, exceptions: &str) -> Error {
    let context = format!(
        "cannot use COW device {name}: a server was killed, and its journal is not to be replayed: \
         {why}; it has {exceptions} not committed"
    );
    Error::new(ErrorKind::JournalInDoubt, context).with_hint(
        "nothing was changed; --journal=replay does not help here; --journal=discard serves \
         without them; keep a copy of the COW file",
    )
}

/// So many exceptions that are, in words; `None` where nobody knows how many.
pub(crate) fn count(exceptions: Option<u64>) -> String {
    match exceptions {
        None => "an unknown number of exceptions that are".to_owned(),
        Some(1) => "1 exception that is".to_owned(),
        Some(n) => format!("{n} exceptions that are"),
    }
}
