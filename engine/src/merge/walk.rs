//! From the last entry backwards: which entries the next batch takes, and reading them.

use usnap_format::{AreaIndex, AreaView, EXCEPTIONS_PER_SECTOR, Exception, Layout};

use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::store::persistent::commit::area_offset;
use crate::store::persistent::open::why_refused;

/// What is left of a store that is being merged: entries 0 to `committed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    layout: Layout,
    committed: u64,
}

/// Entries from number `first` up to the end of the store.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) first: u64,
    /// One behind the last.
    pub(crate) end: u64,
    /// In the order of the store.
    pub(crate) entries: Vec<Exception>,
    /// The bytes of the area in which `first` lies.
    pub(crate) lowest_area: Vec<u8>,
}

impl Tail {
    pub(crate) fn new(layout: Layout, committed: u64) -> Self {
        Self { layout, committed }
    }

    /// How many entries are left.
    pub(crate) fn committed(self) -> u64 {
        self.committed
    }

    /// The number of the first entry of a batch of about `chunks` chunks, and of as many at most;
    /// `None` where nothing is left.
    ///
    /// Each sector of the lowest area costs a sync, areas above it cost none. So a batch of more
    /// than one area takes one sector of the lowest, and one inside an area whole sectors.
    pub(crate) fn next_first(self, chunks: u64) -> Option<u64> {
        let last = self.committed.checked_sub(1)?;
        let first = self.committed.saturating_sub(chunks.max(1));
        if first == 0 {
            return Some(0);
        }
        let per_area = self.layout.chunk_size.exceptions_per_area();
        let (area, _) = self.layout.entry_position(first);
        let (last_area, _) = self.layout.entry_position(last);
        let aligned = if area < last_area {
            first.max((area.0 + 1) * per_area - EXCEPTIONS_PER_SECTOR)
        } else {
            first
        };
        let aligned = aligned.next_multiple_of(EXCEPTIONS_PER_SECTOR);
        // A batch of less than a sector.
        Some(if aligned > last { first } else { aligned })
    }

    /// Reads the entries from number `first` on. Each is checked once more: nothing is written where
    /// it does not belong.
    ///
    /// # Errors
    /// `Corrupt` where an entry is not there any more, or can't be; `Io`.
    pub(crate) fn read(
        self,
        device: &dyn BlockDevice,
        first: u64,
        origin_bytes: u64,
    ) -> Result<Batch> {
        let layout = self.layout;
        let chunk_size = layout.chunk_size;
        let device_chunks = chunk_size.whole_chunks(device.size_bytes());
        let origin_chunks = chunk_size.chunks_to_hold(origin_bytes);
        let (lowest, first_index) = layout.entry_position(first);
        let (highest, last_index) = layout.entry_position(self.committed.saturating_sub(1));
        let mut batch = Batch {
            first,
            end: self.committed,
            entries: Vec::with_capacity(to_usize(self.committed.saturating_sub(first))),
            lowest_area: Vec::new(),
        };
        let mut bytes = vec![0; to_usize(chunk_size.bytes())];
        for area in (lowest.0..=highest.0).map(AreaIndex) {
            device.read_at(&mut bytes, area_offset(layout, area)?)?;
            let from = if area == lowest { first_index } else { 0 };
            let to = if area == highest {
                last_index + 1
            } else {
                chunk_size.exceptions_per_area()
            };
            let view = AreaView::new(&bytes, chunk_size)?;
            for index in from..to {
                let found = view.entry(index).to_exception();
                let believed = found.filter(|exception| {
                    why_refused(layout, device_chunks, *exception).is_none()
                        && exception.old_chunk.0 < origin_chunks
                });
                let Some(exception) = believed else {
                    let context = format!(
                        "cannot use COW device {}: area {area}, entry {index} changed since it was \
                         opened",
                        device.name()
                    );
                    return Err(Error::new(ErrorKind::Corrupt, context).with_hint(
                        "something else writes to this COW device; find it and stop it",
                    ));
                };
                batch.entries.push(exception);
            }
            if area == lowest {
                batch.lowest_area.clone_from(&bytes);
            }
        }
        Ok(batch)
    }

    /// The entries from number `first` on are cleared.
    pub(crate) fn cleared(&mut self, first: u64) {
        self.committed = first;
    }
}

#[cfg(test)]
mod tests {
    use super::Tail;
    use crate::device::{BlockDevice, MemDevice};
    use crate::error::ErrorKind;
    use usnap_format::{ChunkSize, Exception, Layout, NewChunk, OldChunk, encode_exception};

    fn layout(sectors: u32) -> Layout {
        Layout::new(ChunkSize::from_sectors(sectors).unwrap())
    }

    /// The first entries of the batches that empty a store.
    fn firsts(sectors: u32, committed: u64, chunks: u64) -> Vec<u64> {
        let mut tail = Tail::new(layout(sectors), committed);
        let mut firsts = Vec::new();
        while let Some(first) = tail.next_first(chunks) {
            assert!(first < tail.committed() && tail.committed() - first <= chunks.max(1));
            firsts.push(first);
            tail.cleared(first);
        }
        firsts
    }

    #[test]
    fn a_small_store_is_one_batch_and_an_empty_one_none() {
        assert_eq!(firsts(8, 200, 1000), [0]);
        assert_eq!(firsts(8, 0, 1000), [0; 0]);
    }

    #[test]
    fn a_batch_of_several_areas_takes_one_sector_of_the_lowest() {
        // 256 entries an area.
        assert_eq!(firsts(8, 1000, 600), [480, 0]);
        assert_eq!(firsts(8, 2000, 600), [1504, 992, 480, 0]);
    }

    #[test]
    fn a_batch_inside_an_area_takes_whole_sectors() {
        assert_eq!(firsts(8, 250, 100), [160, 64, 0]);
        assert_eq!(firsts(8, 40, 10), [32, 22, 12, 2, 0]);
        assert_eq!(firsts(1, 34, 1).len(), 34);
    }

    #[test]
    fn an_entry_that_is_gone_is_refused() {
        let device = MemDevice::new(40 * 4096);
        let mut area = vec![0; 4096];
        for n in 0..3 {
            let exception = Exception {
                old_chunk: OldChunk(n),
                new_chunk: NewChunk(n + 2),
            };
            encode_exception(&mut area, n, exception).unwrap();
        }
        device.write_at(&area, 4096).unwrap();
        let batch = Tail::new(layout(8), 3).read(&device, 1, 3 * 4096).unwrap();
        assert_eq!((batch.first, batch.end, batch.entries.len()), (1, 3, 2));
        assert_eq!(batch.lowest_area, area);
        // One more than there is, and one for a chunk that a shorter origin does not have.
        for (committed, origin) in [(4, 4096 * 9), (3, 4096 * 2)] {
            let tail = Tail::new(layout(8), committed);
            let error = tail.read(&device, 0, origin).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
