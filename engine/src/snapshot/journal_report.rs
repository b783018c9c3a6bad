//! What is said of a store's journal: whether it protects, or waits, or is missing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use usnap_format::{Exception, Layout, NewChunk, OldChunk};

use super::before::Before;
use super::waiting::{JournalMode, Waiting};
use crate::device::{BlockDevice, FileDevice, holder};
use crate::error::Result;
use crate::journal::StoreView;
use crate::store::persistent::behind::Behind;
use crate::store::persistent::walk::{AreaWalk, HeaderSector, read_header};

/// What becomes of writes that are not committed yet when the process ends without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalReport {
    /// In short.
    pub state: JournalState,
    /// Where the journal lies, if there is one.
    pub path: Option<PathBuf>,
    /// Exceptions that wait in it for the next writable open; `None` where nobody knows how many.
    pub pending: Option<u64>,
    /// Why the next open will not replay it without being told, each a sentence.
    pub doubts: Vec<String>,
    /// Why there is none, where that is worth saying.
    pub why_none: Option<String>,
}

/// No journal, and nothing that waits.
impl Default for JournalReport {
    fn default() -> Self {
        Self {
            state: JournalState::None,
            path: None,
            pending: Some(0),
            doubts: Vec::new(),
            why_none: None,
        }
    }
}

/// A journal's state, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalState {
    /// There is none, and none is missing.
    #[default]
    None,
    /// It protects the store, which is in use.
    Active,
    /// A killed server left it.
    Waiting,
    /// A killed server left it, and a flush had failed.
    Latched,
    /// A server was killed in this boot, and its journal is not to be found.
    Absent,
    /// Somebody else has the store open, and knows.
    Unknown,
}

/// A journal that a killed server left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingJournal {
    /// Where it lies, if that is known.
    pub path: Option<PathBuf>,
    /// The exceptions that are noted and not in the store, sorted by new chunk; `None` where nobody
    /// can tell.
    pub missing: Option<Vec<Exception>>,
    /// Circumstances that speak against it, each a sentence. The next open refuses then, until it is
    /// told to replay or to discard.
    pub doubts: Vec<String>,
    /// Why it is not replayed even when told to, as a sentence.
    pub hopeless: Option<String>,
    /// It is not to be found, and the session had one.
    pub is_absent: bool,
    /// A flush had failed: the page cache is not to be trusted.
    pub is_latched: bool,
}

impl WaitingJournal {
    /// Whether the next writable open replays it without being told.
    #[must_use]
    pub fn is_believed(&self) -> bool {
        self.doubts.is_empty() && self.hopeless.is_none()
    }

    /// How many exceptions are missing, where that is known.
    #[must_use]
    pub fn pending(&self) -> Option<u64> {
        self.missing.as_ref().map(|missing| missing.len() as u64)
    }

    /// Whether there is nothing to replay, and nothing is lost without it.
    #[must_use]
    pub fn is_all_committed(&self) -> bool {
        self.hopeless.is_none() && self.pending() == Some(0)
    }
}

/// The journal that a killed server left with the store at `cow`, which is compared with the store
/// as an open would. `None` where none waits, or where somebody has the store open. Nothing is
/// changed.
///
/// # Errors
/// `Foreign`, `Corrupt`, `NotFound`, `Io`: the store can't be read.
pub fn journal_waiting(cow: &Path) -> Result<Option<WaitingJournal>> {
    Ok(at_rest(cow)?.1)
}

/// What is to be said of the journal of a store that this process has not open.
pub(crate) fn report_at_rest(cow: &Path) -> Result<JournalReport> {
    if holder(cow).is_some() {
        return Ok(JournalReport {
            state: JournalState::Unknown,
            pending: None,
            ..JournalReport::default()
        });
    }
    let (is_absent, waiting) = at_rest(cow)?;
    let Some(waiting) = waiting else {
        let none = JournalReport::default();
        return Ok(if is_absent {
            JournalReport {
                state: JournalState::Absent,
                pending: None,
                ..none
            }
        } else {
            none
        });
    };
    Ok(JournalReport {
        state: if waiting.is_absent {
            JournalState::Absent
        } else if waiting.is_latched {
            JournalState::Latched
        } else {
            JournalState::Waiting
        },
        pending: waiting.pending(),
        path: waiting.path,
        doubts: waiting.doubts.into_iter().chain(waiting.hopeless).collect(),
        why_none: None,
    })
}

/// Whether a journal is missing, and the one that waits.
fn at_rest(cow: &Path) -> Result<(bool, Option<WaitingJournal>)> {
    if holder(cow).is_some() {
        return Ok((false, None));
    }
    let device = FileDevice::open_read_only(cow)
        .map_err(|e| e.context(format!("cannot read {}", cow.display())))?;
    look(cow, &device, false)
}

/// As `journal_waiting`, for a `device` at `cow` that this process has locked. One that can't be
/// replayed from here is hopeless; looking for it must not fail.
///
/// # Errors
/// As `journal_waiting`.
pub(crate) fn journal_waiting_on(
    cow: &Path,
    device: &FileDevice,
) -> Result<Option<WaitingJournal>> {
    Ok(look(cow, device, true)?.1)
}

fn look(
    cow: &Path,
    device: &FileDevice,
    to_replay: bool,
) -> Result<(bool, Option<WaitingJournal>)> {
    let sector = read_header(device)?;
    let record = sector.identity.ok().flatten();
    let before = Before::look(cow, device, record.as_ref());
    if to_replay && let Some(waiting @ Waiting::NotLookedAt { .. }) = &before.waiting {
        // It may pass: no reason to do anything about the journal.
        waiting.refuse_hopeless(&cow.display().to_string(), JournalMode::Auto)?;
    }
    let unusable = if to_replay {
        before.open(cow, JournalMode::Auto).err()
    } else {
        None
    };
    let Some(waiting) = before.waiting else {
        return Ok((before.is_absent, None));
    };
    let (missing, contradiction) = match missing(device, &sector, &waiting) {
        Ok(missing) => (missing, None),
        Err(why) => (None, Some(why)),
    };
    let is_latched = waiting.found().is_some_and(|found| found.is_latched);
    let hopeless = waiting.why_never().or(contradiction);
    let is_all_there = missing.as_ref().is_some_and(Vec::is_empty);
    let doubts = match &waiting {
        // What would change nothing need not be believed.
        Waiting::Whole { doubts, .. } if !is_all_there => doubts.as_slice(),
        _ => &[],
    };
    let unusable = unusable.filter(|_| hopeless.is_some() || !is_all_there);
    let waiting = WaitingJournal {
        path: before.path,
        missing,
        doubts: doubts
            .iter()
            .map(|doubt| format!("the journal {doubt}"))
            .collect(),
        hopeless: hopeless.or(unusable.map(|error| format!("{error:?}"))),
        is_absent: before.is_absent,
        is_latched,
    };
    Ok((false, Some(waiting)))
}

/// What the journal has and the store has not; or why they can't both be right, as a sentence.
fn missing(
    device: &FileDevice,
    sector: &HeaderSector,
    waiting: &Waiting,
) -> std::result::Result<Option<Vec<Exception>>, String> {
    let Some(found) = waiting.found() else {
        return Ok(None);
    };
    let chunk_size = sector.header.chunk_size;
    let layout = Layout::new(chunk_size);
    let mut behind = Behind::new(layout, found.notes());
    let mut committed = 0;
    let mut places: HashMap<OldChunk, NewChunk> = HashMap::new();
    let mut walk = AreaWalk::new(device, chunk_size);
    while let Some(area) = walk.next_area().map_err(|e| format!("{e:?}"))? {
        behind.add(&area);
        committed += area.view.committed();
        let entries = area.view.exceptions();
        places.extend(entries.map(|entry| (entry.old_chunk, entry.new_chunk)));
    }
    behind.finish();
    found
        .missing(&StoreView {
            layout,
            device_chunks: chunk_size.whole_chunks(device.size_bytes()),
            // It may have been served over a longer origin than the one on record.
            old_chunks: u64::MAX,
            committed,
            base_area_crc32: behind.area_crc32,
            entries_behind_base: &behind.entries,
            lookup: &|old_chunk| places.get(&old_chunk).copied(),
            is_new_chunk_taken: &|new_chunk| behind.is_taken(new_chunk),
        })
        .map(Some)
        .map_err(|contradiction| format!("the journal {}", contradiction.0))
}
