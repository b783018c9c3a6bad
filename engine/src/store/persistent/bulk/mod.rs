//! Loading in bulk: areas are read and looked at by several threads, and the index is filled in
//! two passes, counted first, so that every exception gets its place once (DESIGN.md, "Opening").
//!
//! It finds out whether the store is sound, not what is wrong with it: whatever it can't take ends
//! it, and `rules` walks over the store anew.

mod areas;
mod shared;
#[cfg(test)]
mod tests;

use usnap_format::{AreaIndex, ChunkSize, DiskException, NewChunk, OldChunk};

use self::areas::{Areas, Division, Entries};
use self::shared::NewChunks;
use super::rules::Metadata;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::table::{ExceptionTable, Loading, MappedRun};

/// Reads all entries. `None` where anything is not as it should be.
///
/// # Errors
/// `Io` where an area can't be read.
pub(super) fn load(
    device: &dyn BlockDevice,
    chunk_size: ChunkSize,
    loading: Loading,
) -> Result<Option<(Metadata, ExceptionTable)>> {
    load_divided(device, chunk_size, loading, Division::default())
}

fn load_divided(
    device: &dyn BlockDevice,
    chunk_size: ChunkSize,
    loading: Loading,
    division: Division,
) -> Result<Option<(Metadata, ExceptionTable)>> {
    let chunk_count = loading.chunk_count();
    let areas = Areas::new(device, chunk_size, chunk_count, division);
    let count = |run| loading.count(run);
    let Some(found) = areas.walk(|area| for_each_run(area, chunk_count, count))? else {
        return Ok(None);
    };
    if !found.is_ascending() {
        let new_chunks = NewChunks::new(found.committed, found.max_new_chunk);
        areas.walk(|area| new_chunks.add(area))?;
        if new_chunks.has_shared() {
            return Ok(None);
        }
    }
    let filling = loading.make_room();
    let add = |run| filling.add(run);
    let again = areas.walk(|area| for_each_run(area, chunk_count, add))?;
    let (Ok(table), Some(again)) = (filling.finish(), again) else {
        return Ok(None);
    };
    if again != found {
        // Somebody else wrote meanwhile, whatever the lock says.
        return Ok(None);
    }
    let metadata = Metadata {
        committed: found.committed,
        beyond_origin: found.beyond_origin,
        max_new_chunk: found.max_new_chunk,
        last_area: AreaIndex(found.full_areas),
        last_bytes: found.last_area.unwrap_or_default(),
    };
    Ok(Some((metadata, table)))
}

/// The runs that an area's entries make, of chunks that the origin has.
fn for_each_run(area: &Entries, chunk_count: u64, mut each: impl FnMut(MappedRun)) {
    let mut run = MappedRun {
        old: OldChunk(0),
        new: NewChunk(0),
        count: 0,
    };
    for entry in area {
        let DiskException {
            old_chunk,
            new_chunk,
        } = DiskException::decode(entry);
        if old_chunk >= chunk_count {
            continue;
        }
        if old_chunk == run.old.0 + run.count && new_chunk == run.new.0 + run.count && run.count > 0
        {
            run.count += 1;
            continue;
        }
        if run.count > 0 {
            each(run);
        }
        run = MappedRun {
            old: OldChunk(old_chunk),
            new: NewChunk(new_chunk),
            count: 1,
        };
    }
    if run.count > 0 {
        each(run);
    }
}
