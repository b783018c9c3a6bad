//! What a journal that was left behind is compared with, gathered in a walk over the areas.

use usnap_format::{EXCEPTION_LEN, Exception, Layout, NewChunk};

use super::walk::Area;
use crate::num::to_usize;

/// The entries behind a journal's base, and what the base can be recognised by.
pub(crate) struct Behind {
    layout: Layout,
    base: u64,
    /// CRC-32 of the entries that the base counts in its last area; `None` where there are fewer.
    pub(crate) area_crc32: Option<u32>,
    /// The entries behind the base, in order.
    pub(crate) entries: Vec<Exception>,
    new_chunks: Vec<NewChunk>,
}

impl Behind {
    /// For a base of so many entries.
    pub(crate) fn new(layout: Layout, base: u64) -> Self {
        Self {
            layout,
            base,
            area_crc32: None,
            entries: Vec::new(),
            new_chunks: Vec::new(),
        }
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
            if entry >= self.base {
                self.entries.push(exception);
            }
            self.new_chunks.push(exception.new_chunk);
        }
    }

    /// All areas are taken in.
    pub(crate) fn finish(&mut self) {
        // Nearly always in order, which costs one look.
        self.new_chunks.sort_unstable();
    }

    /// Whether an entry names this new chunk.
    pub(crate) fn is_taken(&self, new_chunk: NewChunk) -> bool {
        self.new_chunks.binary_search(&new_chunk).is_ok()
    }
}
