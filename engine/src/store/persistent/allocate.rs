//! Who gets which new chunk. Pure bookkeeping: the caller holds the lock and does the I/O.
//!
//! Invariants:
//! - A number is in one place: free (at or above `next_free`, or returned), or taken.
//! - For every exception taken, committed or not, the entry it will become lies in an area inside
//!   the device; if that entry fills its area, the next area lies inside the device too and its
//!   space is reserved (SPEC.md section 6; DESIGN.md, invariant 5). So a commit never finds the
//!   store full.

use std::collections::BTreeSet;
use std::ops::Range;

use usnap_format::{AreaIndex, Layout, NewChunk};

use crate::store::NewRun;

/// What came of asking for chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// These are the caller's now.
    Run(NewRun),
    /// Reserve the space of this area first, then say so with `area_reserved`, and ask again.
    NeedsArea(AreaIndex),
    /// Reserve space for chunks from this one on first, then say so with `data_reserved`, and ask
    /// again.
    NeedsData(NewChunk),
    /// Write zeros to chunks from this one on first, then say so with `written_up_to`, and ask
    /// again.
    NeedsZeros(NewChunk),
    /// Not even one fits.
    Full,
}

/// The numbers of new chunks, free and taken.
#[derive(Debug)]
pub(super) struct Allocator {
    layout: Layout,
    next_free: NewChunk,
    /// Committed, written and pending exceptions together: the index of the next entry.
    entries_taken: u64,
    /// Numbers below `next_free` that were taken and given back.
    returned: BTreeSet<u64>,
    device_chunks: u64,
    /// Areas below this one have their space.
    reserved_areas: u64,
    /// Numbers below this one have their space: all, where a write takes it.
    reserved_data: u64,
    /// Numbers below this one may be taken; none from it on was ever taken. All may, where nothing
    /// is written ahead.
    written_ahead: u64,
    /// Numbers whose chunks were cut off while they were taken: never handed out again.
    gone: Range<u64>,
}

impl Allocator {
    /// An allocator behind `committed` entries, on a device of `device_chunks` whole chunks.
    pub(super) fn new(
        layout: Layout,
        next_free: NewChunk,
        committed: u64,
        device_chunks: u64,
    ) -> Self {
        let (current_area, _) = layout.entry_position(committed);
        Self {
            layout,
            next_free,
            entries_taken: committed,
            returned: BTreeSet::new(),
            device_chunks,
            reserved_areas: current_area.0 + 1,
            reserved_data: u64::MAX,
            written_ahead: u64::MAX,
            gone: 0..0,
        }
    }

    /// From now on no number is handed out before its chunk's space is reserved.
    pub(super) fn reserve_ahead(&mut self) {
        self.reserved_data = self.next_free.0;
    }

    /// From now on no number that was never taken is handed out before its chunk was written to.
    pub(super) fn write_ahead(&mut self) {
        if self.written_ahead == u64::MAX {
            self.written_ahead = self.next_free.0;
        }
    }

    /// From now on numbers are handed out as they come.
    pub(super) fn end_write_ahead(&mut self) {
        self.written_ahead = u64::MAX;
    }

    /// Whether this number waits for `written_up_to`.
    pub(super) fn needs_zeros(&self, number: NewChunk) -> bool {
        number.0 >= self.written_ahead
    }

    /// Chunks of numbers below `end` were written to.
    pub(super) fn written_up_to(&mut self, end: NewChunk) {
        self.written_ahead = self.written_ahead.max(end.0);
    }

    /// Numbers below this one have their space.
    pub(super) fn reserved_data(&self) -> NewChunk {
        NewChunk(self.reserved_data)
    }

    /// The next number that was never taken.
    pub(super) fn next_free(&self) -> NewChunk {
        self.next_free
    }

    /// How many exceptions there are: committed, written and pending.
    pub(super) fn entries_taken(&self) -> u64 {
        self.entries_taken
    }

    /// The device's size may have changed. Returns the numbers whose chunks a device that became
    /// shorter does not have any more; empty where nothing is lost.
    pub(super) fn set_device_chunks(&mut self, device_chunks: u64) -> Range<u64> {
        let end = self.next_free.0.min(self.device_chunks);
        if device_chunks < self.device_chunks {
            // What was reserved behind the end is reserved no more.
            if self.reserved_data != u64::MAX {
                self.reserved_data = self.reserved_data.min(device_chunks);
            }
            let areas = device_chunks
                .saturating_sub(1)
                .div_ceil(self.layout.chunk_size.stride());
            self.reserved_areas = self.reserved_areas.min(areas);
        }
        self.device_chunks = device_chunks;
        if device_chunks >= end {
            return 0..0;
        }
        self.gone = if self.gone.is_empty() {
            device_chunks..end
        } else {
            self.gone.start.min(device_chunks)..self.gone.end.max(end)
        };
        self.returned.split_off(&device_chunks);
        device_chunks..end
    }

    /// The numbers whose chunks were cut off.
    pub(super) fn gone(&self) -> Range<u64> {
        self.gone.clone()
    }

    /// The device's size in chunks, as last told.
    pub(super) fn device_chunks(&self) -> u64 {
        self.device_chunks
    }

    /// The space of `area`, and of all before it, is there.
    pub(super) fn area_reserved(&mut self, area: AreaIndex) {
        self.reserved_areas = self.reserved_areas.max(area.0 + 1);
    }

    /// The space of all numbers below `end` is there.
    pub(super) fn data_reserved(&mut self, end: NewChunk) {
        self.reserved_data = self.reserved_data.max(end.0);
    }

    /// Takes up to `max_count` (> 0) consecutive numbers, lowest first.
    pub(super) fn take(&mut self, max_count: u64) -> Take {
        let reused = self.returned.first().copied();
        let first = reused.map_or(self.next_free, NewChunk);
        let mut count = 0;
        while count < max_count {
            let number = NewChunk(first.0 + count);
            let available = match reused {
                Some(_) => self.returned.contains(&number.0),
                None => number == self.next_free,
            };
            if !available {
                break;
            }
            if !self
                .layout
                .can_allocate(number, self.entries_taken, self.device_chunks)
            {
                break;
            }
            let (area, index) = self.layout.entry_position(self.entries_taken);
            let fills_area = index + 1 == self.layout.chunk_size.exceptions_per_area();
            if fills_area && area.0 + 1 >= self.reserved_areas {
                if count > 0 {
                    break;
                }
                return Take::NeedsArea(AreaIndex(area.0 + 1));
            }
            if number.0 >= self.reserved_data {
                if count > 0 {
                    break;
                }
                return Take::NeedsData(number);
            }
            if self.needs_zeros(number) {
                if count > 0 {
                    break;
                }
                return Take::NeedsZeros(number);
            }
            if reused.is_some() {
                self.returned.remove(&number.0);
            } else {
                let Some(following) = self.layout.following(number) else {
                    break;
                };
                self.next_free = following;
            }
            self.entries_taken += 1;
            count += 1;
        }
        if count == 0 {
            Take::Full
        } else {
            Take::Run(NewRun { first, count })
        }
    }

    /// Takes back numbers whose chunks were not written.
    pub(super) fn give_back(&mut self, run: NewRun) {
        self.entries_taken -= run.count;
        for number in (run.first.0..run.first.0 + run.count).rev() {
            if self.gone.contains(&number) {
                continue;
            }
            if self.layout.following(NewChunk(number)) == Some(self.next_free) {
                self.next_free = NewChunk(number);
            } else {
                self.returned.insert(number);
            }
        }
    }

    /// How many exceptions could be taken if the device had this many chunks and their areas'
    /// space could be had.
    pub(super) fn free_within(&self, device_chunks: u64) -> u64 {
        let by_entries = self
            .layout
            .capacity(device_chunks)
            .saturating_sub(self.entries_taken);
        let stride = self.layout.chunk_size.stride();
        // Data chunks in [next_free, device_chunks): all but the metadata chunks 1 + k * stride.
        let metadata_below = |end: u64| (end + stride - 2) / stride;
        // A damaged store's next number may be any, far behind the device's end.
        let start = self.next_free.0.min(device_chunks);
        let span = device_chunks - start;
        let areas = metadata_below(device_chunks) - metadata_below(start);
        by_entries.min(span - areas.min(span) + self.returned.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::{Allocator, Take};
    use crate::store::NewRun;
    use usnap_format::{AreaIndex, ChunkSize, Layout, NewChunk};

    fn layout() -> Layout {
        Layout::new(ChunkSize::from_sectors(1).unwrap())
    }

    /// Takes one at a time until full, reserving areas as asked; how many there were.
    fn fill(allocator: &mut Allocator) -> u64 {
        let mut taken = 0;
        loop {
            match allocator.take(1) {
                Take::Run(run) => taken += run.count,
                Take::NeedsArea(area) => allocator.area_reserved(area),
                Take::NeedsData(chunk) => allocator.data_reserved(NewChunk(chunk.0 + 3)),
                Take::NeedsZeros(chunk) => allocator.written_up_to(NewChunk(chunk.0 + 2)),
                Take::Full => return taken,
            }
        }
    }

    #[test]
    fn exactly_the_capacity_can_be_taken_from_every_size() {
        for device_chunks in 0..200 {
            let mut allocator = Allocator::new(layout(), NewChunk(2), 0, device_chunks);
            let capacity = layout().capacity(device_chunks);
            assert_eq!(
                allocator.free_within(allocator.device_chunks()),
                capacity,
                "free at {device_chunks}"
            );
            assert_eq!(fill(&mut allocator), capacity, "taken at {device_chunks}");
            let mut ahead = Allocator::new(layout(), NewChunk(2), 0, device_chunks);
            ahead.reserve_ahead();
            assert_eq!(
                fill(&mut ahead),
                capacity,
                "reserved ahead, {device_chunks}"
            );
            let mut ahead = Allocator::new(layout(), NewChunk(2), 0, device_chunks);
            ahead.reserve_ahead();
            ahead.write_ahead();
            let taken = fill(&mut ahead);
            assert_eq!(taken, capacity, "written ahead, {device_chunks}");
            assert_eq!(allocator.free_within(allocator.device_chunks()), 0);
        }
    }

    #[test]
    fn a_run_stops_before_a_metadata_chunk_and_the_next_starts_behind_it() {
        let mut allocator = Allocator::new(layout(), NewChunk(2), 0, 1000);
        allocator.area_reserved(AreaIndex(5));
        assert_eq!(
            allocator.take(100),
            Take::Run(NewRun {
                first: NewChunk(2),
                count: 32
            })
        );
        assert_eq!(
            allocator.take(5),
            Take::Run(NewRun {
                first: NewChunk(35),
                count: 5
            })
        );
    }

    #[test]
    fn the_entry_that_fills_an_area_waits_for_the_next_areas_space() {
        let mut allocator = Allocator::new(layout(), NewChunk(2), 0, 1000);
        assert_eq!(
            allocator.take(100),
            Take::Run(NewRun {
                first: NewChunk(2),
                count: 31
            })
        );
        assert_eq!(allocator.take(100), Take::NeedsArea(AreaIndex(1)));
        allocator.area_reserved(AreaIndex(1));
        assert_eq!(
            allocator.take(100),
            Take::Run(NewRun {
                first: NewChunk(33),
                count: 1
            })
        );
    }

    #[test]
    fn a_number_whose_space_is_reserved_ahead_waits_for_it() {
        let run = |first, count| {
            let first = NewChunk(first);
            Take::Run(NewRun { first, count })
        };
        let mut allocator = Allocator::new(layout(), NewChunk(5), 3, 1000);
        allocator.reserve_ahead();
        assert_eq!(allocator.take(9), Take::NeedsData(NewChunk(5)));
        allocator.data_reserved(NewChunk(8));
        assert_eq!(allocator.take(9), run(5, 3));
        assert_eq!(allocator.take(9), Take::NeedsData(NewChunk(8)));
        allocator.give_back(NewRun {
            first: NewChunk(5),
            count: 2,
        });
        assert_eq!(allocator.take(9), run(5, 2), "it has its space");
        // A device cut off and made longer again: what was reserved there is not any more.
        allocator.data_reserved(NewChunk(20));
        assert!(allocator.set_device_chunks(10).is_empty());
        assert!(allocator.set_device_chunks(1000).is_empty());
        assert_eq!(allocator.take(1), run(8, 1));
        assert_eq!(allocator.take(9), run(9, 1));
        assert_eq!(allocator.take(9), Take::NeedsData(NewChunk(10)));
    }

    #[test]
    fn a_number_that_was_never_taken_waits_until_it_was_written_to() {
        let run = |first, count| NewRun {
            first: NewChunk(first),
            count,
        };
        let mut allocator = Allocator::new(layout(), NewChunk(2), 0, 1000);
        assert_eq!(allocator.take(3), Take::Run(run(2, 3)));
        allocator.write_ahead();
        assert_eq!(allocator.take(9), Take::NeedsZeros(NewChunk(5)));
        // What was taken and given back is not written to by anybody else.
        allocator.give_back(run(3, 2));
        assert!(!allocator.needs_zeros(NewChunk(4)) && allocator.needs_zeros(NewChunk(5)));
        assert_eq!(allocator.take(9), Take::Run(run(3, 2)));
        allocator.written_up_to(NewChunk(7));
        // A second time it changes nothing.
        allocator.write_ahead();
        assert_eq!(allocator.take(9), Take::Run(run(5, 2)));
        assert_eq!(allocator.take(9), Take::NeedsZeros(NewChunk(7)));
        allocator.end_write_ahead();
        assert_eq!(allocator.take(9), Take::Run(run(7, 9)));
        allocator.write_ahead();
        assert_eq!(allocator.take(1), Take::NeedsZeros(NewChunk(16)));
    }

    #[test]
    fn numbers_of_chunks_that_were_cut_off_are_never_handed_out_again() {
        let mut allocator = Allocator::new(layout(), NewChunk(2), 0, 100);
        assert!(matches!(allocator.take(20), Take::Run(_)));
        let back = |first, count| NewRun {
            first: NewChunk(first),
            count,
        };
        allocator.give_back(back(4, 2));
        allocator.give_back(back(15, 1));
        assert_eq!(allocator.set_device_chunks(10), 10..22);
        assert_eq!(allocator.set_device_chunks(8), 8..10, "again");
        assert!(allocator.set_device_chunks(100).is_empty());
        assert_eq!(allocator.gone(), 8..22);
        allocator.give_back(back(20, 2));
        assert_eq!(allocator.next_free(), NewChunk(22));
        assert_eq!(allocator.take(9), Take::Run(back(4, 2)));
        assert_eq!(allocator.take(9), Take::Run(back(22, 9)));
    }

    #[test]
    fn numbers_given_back_are_taken_again_lowest_first() {
        let mut allocator = Allocator::new(layout(), NewChunk(2), 0, 1000);
        allocator.area_reserved(AreaIndex(5));
        let Take::Run(run) = allocator.take(10) else {
            panic!("not full")
        };
        assert_eq!(allocator.next_free(), NewChunk(12));
        allocator.give_back(NewRun {
            first: NewChunk(4),
            count: 2,
        });
        assert_eq!(
            allocator.take(5),
            Take::Run(NewRun {
                first: NewChunk(4),
                count: 2
            })
        );
        allocator.give_back(run);
        assert_eq!(allocator.next_free(), NewChunk(2), "nothing is left behind");
    }

    #[test]
    fn giving_back_across_a_metadata_chunk_restores_next_free() {
        let mut allocator = Allocator::new(layout(), NewChunk(2), 0, 1000);
        allocator.area_reserved(AreaIndex(5));
        let Take::Run(run) = allocator.take(32) else {
            panic!("not full")
        };
        assert_eq!(allocator.next_free(), NewChunk(35));
        allocator.give_back(run);
        assert_eq!(allocator.next_free(), NewChunk(2));
    }

    #[test]
    fn behind_a_number_that_is_no_chunk_of_the_device_nothing_is_free() {
        for next_free in [40, 41, 1 << 56, u64::MAX] {
            let allocator = Allocator::new(layout(), NewChunk(next_free), 3, 40);
            assert_eq!(
                allocator.free_within(allocator.device_chunks()),
                0,
                "{next_free}"
            );
        }
    }

    #[test]
    fn a_store_with_holes_is_full_where_its_entries_or_its_chunks_end() {
        // 31 entries, but next_free far ahead: the device ends first.
        let mut allocator = Allocator::new(layout(), NewChunk(60), 31, 66);
        assert_eq!(fill(&mut allocator), 6);
        // The next area lies beyond the end: the entry that fills the area can't be had.
        let mut allocator = Allocator::new(layout(), NewChunk(20), 31, 34);
        assert_eq!(fill(&mut allocator), 0);
    }
}
