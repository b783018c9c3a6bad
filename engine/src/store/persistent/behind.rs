//! What a journal that was left behind is compared with, gathered in a walk over the areas.

use std::ops::Range;

use usnap_format::{ChunkSize, EXCEPTION_LEN, Exception, Layout, NewChunk};

use super::walk::{Area, AreaWalk};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::journal::{Notes, REPLAY_CHUNKS_MAX};
use crate::num::to_usize;

/// More entries behind the base than this can't all be noted: one of them speaks against the
/// journal then.
const ENTRIES_MAX: u64 = 1 + REPLAY_CHUNKS_MAX;

/// The entries behind a journal's base, what the base can be recognised by, and which of the chunks
/// that it notes are named.
pub(crate) struct Behind {
    layout: Layout,
    base: u64,
    /// CRC-32 of the entries that the base counts in its last area; `None` where there are fewer.
    pub(crate) area_crc32: Option<u32>,
    /// The entries behind the base, in order, so many of them that one can't be noted.
    pub(crate) entries: Vec<Exception>,
    /// New chunks that are noted, ascending.
    noted: Vec<Range<u64>>,
    /// Those of them that entries name.
    taken: Vec<NewChunk>,
}

impl Behind {
    /// For what a journal has.
    pub(crate) fn new(layout: Layout, notes: Notes<'_>) -> Self {
        let runs = notes.runs.iter();
        let mut noted: Vec<_> = runs
            .map(|run| run.first_new.0..run.first_new.0.saturating_add(run.count))
            .collect();
        noted.sort_unstable_by_key(|range| range.start);
        noted.dedup_by(|next, range| {
            let overlap = next.start <= range.end;
            if overlap {
                range.end = range.end.max(next.end);
            }
            overlap
        });
        Self {
            layout,
            base: notes.base,
            area_crc32: None,
            entries: Vec::new(),
            noted,
            taken: Vec::new(),
        }
    }

    /// Walks over the store on `device`.
    ///
    /// # Errors
    /// As `AreaWalk::next_area`.
    pub(crate) fn read(
        device: &dyn BlockDevice,
        chunk_size: ChunkSize,
        notes: Notes<'_>,
    ) -> Result<Self> {
        let mut behind = Self::new(Layout::new(chunk_size), notes);
        let mut walk = AreaWalk::new(device, chunk_size);
        while let Some(area) = walk.next_area()? {
            behind.add(&area);
        }
        behind.finish();
        Ok(behind)
    }

    /// Takes in the next area of the walk.
    pub(crate) fn add(&mut self, area: &Area<'_>) {
        let first = area.index.0 * self.layout.chunk_size.exceptions_per_area();
        let (base_area, base_index) = self.layout.entry_position(self.base);
        if area.index == base_area && area.view.committed() >= base_index {
            let len = to_usize(base_index).saturating_mul(EXCEPTION_LEN);
            self.area_crc32 = area.bytes.get(..len).map(crc32fast::hash);
        }
        for (entry, exception) in (first..).zip(area.view.exceptions()) {
            if entry >= self.base && (self.entries.len() as u64) < ENTRIES_MAX {
                self.entries.push(exception);
            }
            if self.is_noted(exception.new_chunk) {
                self.taken.push(exception.new_chunk);
            }
        }
    }

    /// All areas are taken in.
    pub(crate) fn finish(&mut self) {
        // Nearly always in order, which costs one look.
        self.taken.sort_unstable();
    }

    /// Whether an entry names this new chunk, which is noted.
    pub(crate) fn is_taken(&self, new_chunk: NewChunk) -> bool {
        self.taken.binary_search(&new_chunk).is_ok()
    }

    fn is_noted(&self, new_chunk: NewChunk) -> bool {
        // Mostly they lie behind all that are committed.
        if self
            .noted
            .first()
            .is_none_or(|first| new_chunk.0 < first.start)
        {
            return false;
        }
        let at = self.noted.partition_point(|range| range.end <= new_chunk.0);
        self.noted
            .get(at)
            .is_some_and(|range| range.contains(&new_chunk.0))
    }
}
