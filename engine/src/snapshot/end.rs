//! Ending what a killed server left, without serving: its journal is committed or discarded, and the
//! store is one that was closed in order.

use std::path::Path;

use usnap_format::{ChunkSize, IdentityRecord};

use super::JournalMode;
use super::before::Before;
use super::waiting::{Waiting, prove};
use crate::device::{BlockDevice, FileDevice, StampedDevice};
use crate::error::Result;
use crate::journal::Found;
use crate::store::persistent::create::write_identity;
use crate::store::persistent::open::load;
use crate::store::persistent::walk::{HeaderSector, read_header};
use crate::table::Loading;

/// Ends the session that the record in `sector` names, of the store on `device`, which is at `cow`
/// and locked. Returns how many exceptions were committed. A kill anywhere in it leaves the journal
/// as believable as it was.
///
/// # Errors
/// `JournalInDoubt`, with nothing changed; `Corrupt`, `NoSpace`, `Io`.
pub(crate) fn end_session(
    cow: &Path,
    device: &FileDevice,
    sector: &HeaderSector,
    mode: JournalMode,
) -> Result<u64> {
    let Ok(Some(record)) = sector.identity else {
        return Ok(0);
    };
    let before = Before::look(cow, device, Some(&record));
    let name = cow.display().to_string();
    let old = before.open(cow, mode)?;
    let stamped = StampedDevice::new(device, old.as_ref().map(Found::stamp));
    let mut replayed = 0;
    if let Some(waiting) = before
        .waiting
        .as_ref()
        .filter(|_| mode != JournalMode::Discard)
    {
        waiting.refuse_hopeless(&name, mode)?;
        let loading = Loading::new(old_chunks(&record, sector.header.chunk_size, waiting))?;
        let (mut loaded, table) = load(device, sector, loading, before.journal_notes())?;
        let missing = waiting.judge(&name, &loaded, &table, mode)?;
        loaded.add(&missing, &table);
        if !missing.is_empty() {
            prove(device, old.as_ref())?;
        }
        loaded.settle(&stamped)?;
        loaded.replay(&stamped, &missing)?;
        replayed = missing.len() as u64;
    }
    let ended = IdentityRecord {
        session: [0; 16],
        boot_id: [0; 16],
        clean: true,
        has_journal: false,
        ..record
    };
    write_identity(&stamped, &sector.raw, &ended)?;
    before.remove();
    Ok(replayed)
}

/// Drops what the page cache holds of the store on `device` where nobody can say that no flush of it
/// failed before. `record` is its identity record.
pub(crate) fn distrust_cache(cow: &Path, device: &FileDevice, record: Option<&IdentityRecord>) {
    if Before::look(cow, device, record).may_have_latched() {
        device.drop_page_cache();
    }
}

/// Proves what the journal that waits for the store on `device` notes, before anything else syncs.
///
/// # Errors
/// What the sync says; the journal is poisoned then.
pub(crate) fn prove_waiting(cow: &Path, device: &FileDevice) -> Result<()> {
    let record = read_header(device)?.identity.ok().flatten();
    let before = Before::look(cow, device, record.as_ref());
    let journal = before.open(cow, JournalMode::Auto).ok().flatten();
    prove(device, journal.as_ref())
}

/// How many chunks the snapshot has: what the record says, or more where the journal names more. It
/// may have been served over another origin.
fn old_chunks(record: &IdentityRecord, chunk_size: ChunkSize, waiting: &Waiting) -> u64 {
    let recorded = record
        .origin
        .map_or(0, |origin| chunk_size.chunks_to_hold(origin.size_bytes));
    let runs = waiting.found().map_or(&[][..], |found| &found.runs);
    let ends = runs
        .iter()
        .map(|run| run.first_old.0.saturating_add(run.count));
    ends.fold(recorded, u64::max)
}
