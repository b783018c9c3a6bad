//! Which ranges of a snapshot its own COW device has.

use std::ops::Range;

use usnap_format::OldChunk;

use super::Snapshot;
use crate::table::Slot;

impl Snapshot {
    /// The first range at or behind `offset` that lies in mapped chunks, in bytes: not empty, inside
    /// the snapshot, and as long as it goes.
    pub(crate) fn changed_from(&self, offset: u64) -> Option<Range<u64>> {
        let shift = self.chunk_size.shift();
        let chunk_count = self.table.chunk_count();
        let mut found: Option<Range<u64>> = None;
        let mut chunk = offset >> shift;
        while chunk < chunk_count {
            let run = self.table.run_at(OldChunk(chunk), chunk_count - chunk);
            let is_mapped = matches!(run.slot, Slot::Mapped(_));
            if !is_mapped && found.is_some() {
                break;
            }
            if is_mapped {
                let end = ((chunk + run.count) << shift).min(self.size_bytes);
                let start = found.map_or((chunk << shift).max(offset), |range| range.start);
                found = Some(start..end);
            }
            chunk += run.count;
        }
        found.filter(|range| !range.is_empty())
    }
}
