//! What is said of a store's journal: whether it protects, or waits, or is missing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use usnap_format::{Exception, IdentityRecord, Layout, NewChunk, OldChunk};

use super::before::Before;
use super::waiting::Waiting;
use crate::device::{BlockDevice, FileDevice, holder};
use crate::error::Result;
use crate::journal::StoreView;
use crate::store::persistent::behind::Behind;
use crate::store::persistent::walk::{AreaWalk, HeaderSector, read_header};

/// What becomes of writes that are not committed yet when the process ends without a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    /// In short.
    pub state: JournalState,
    /// Where the journal lies, if there is one.
    pub path: Option<PathBuf>,
    /// Exceptions that wait in it for the next writable open.
    pub pending: u64,
    /// Why the next open will not replay it without being told, each a sentence.
    pub doubts: Vec<String>,
    /// Why there is none, where that is worth saying.
    pub why_none: Option<String>,
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
    /// The exceptions that are noted and not in the store, sorted by new chunk.
    pub missing: Vec<Exception>,
    /// Circumstances that speak against it, each a sentence. The next open refuses then, until it is
    /// told to replay or to discard.
    pub doubts: Vec<String>,
    /// Why it is not replayed even when told to, as a sentence.
    pub hopeless: Option<String>,
    /// A flush had failed: the page cache is not to be trusted.
    pub is_latched: bool,
}

impl WaitingJournal {
    /// Whether the next writable open replays it without being told.
    #[must_use]
    pub fn is_believed(&self) -> bool {
        self.doubts.is_empty() && self.hopeless.is_none()
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
            ..JournalReport::default()
        });
    }
    let (is_absent, waiting) = at_rest(cow)?;
    let Some(waiting) = waiting else {
        let state = if is_absent {
            JournalState::Absent
        } else {
            JournalState::None
        };
        return Ok(JournalReport {
            state,
            ..JournalReport::default()
        });
    };
    Ok(JournalReport {
        state: if waiting.is_latched {
            JournalState::Latched
        } else {
            JournalState::Waiting
        },
        path: waiting.path,
        pending: waiting.missing.len() as u64,
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
    let sector = read_header(&device)?;
    let record = sector.identity.ok().flatten();
    let before = Before::look(cow, &device, record.as_ref());
    let Some(waiting) = before.waiting else {
        return Ok((before.is_absent, None));
    };
    let (missing, contradiction) = match missing(&device, &sector, record.as_ref(), &waiting) {
        Ok(missing) => (missing, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let is_latched = waiting.found().is_some_and(|found| found.is_latched);
    let never = waiting.why_never();
    let doubts = match &waiting {
        Waiting::Whole { doubts, .. } => doubts.as_slice(),
        Waiting::Unreadable(_) => &[],
    };
    let waiting = WaitingJournal {
        path: before.path,
        missing,
        doubts: doubts
            .iter()
            .map(|doubt| format!("the journal {doubt}"))
            .collect(),
        hopeless: never.or(contradiction),
        is_latched,
    };
    Ok((false, Some(waiting)))
}

/// What the journal has and the store has not; or why they can't both be right, as a sentence.
fn missing(
    device: &FileDevice,
    sector: &HeaderSector,
    record: Option<&IdentityRecord>,
    waiting: &Waiting,
) -> std::result::Result<Vec<Exception>, String> {
    let Some(found) = waiting.found() else {
        return Ok(Vec::new());
    };
    let chunk_size = sector.header.chunk_size;
    let layout = Layout::new(chunk_size);
    let mut behind = Behind::new(layout, found.base.committed);
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
    let origin = record.and_then(|record| record.origin);
    found
        .missing(&StoreView {
            layout,
            device_chunks: chunk_size.whole_chunks(device.size_bytes()),
            old_chunks: origin.map_or(u64::MAX, |origin| {
                chunk_size.chunks_to_hold(origin.size_bytes)
            }),
            committed,
            base_area_crc32: behind.area_crc32,
            entries_behind_base: &behind.entries,
            lookup: &|old_chunk| places.get(&old_chunk).copied(),
            is_new_chunk_taken: &|new_chunk| behind.is_taken(new_chunk),
        })
        .map_err(|contradiction| format!("the journal {}", contradiction.0))
}
