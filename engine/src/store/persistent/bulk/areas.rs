//! Reading areas with several threads. Where the store ends is known only when all areas before it
//! were seen to be full, and what lies behind is not to be taken for anything: so the areas are
//! read in rounds, and of each round those before the end are handed on.

use std::sync::atomic::{AtomicBool, Ordering};

use usnap_format::{
    AreaIndex, ChunkSize, DiskException, EXCEPTION_LEN, Exception, FIRST_DATA_CHUNK, Layout,
    NewChunk,
};

use crate::device::{Attempt, BlockDevice};
use crate::error::{Error, Result};
use crate::num::to_usize;
use crate::parallel::{in_parallel, threads};
use crate::store::persistent::rules::why_refused;
use crate::store::persistent::walk::cannot_read_area;

/// How the work is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Division {
    pub(super) threads: u64,
    /// So much is read in a round at the most, or one area for each thread.
    pub(super) round_bytes: u64,
    /// A thread is worth its start for so much at the least.
    pub(super) share_bytes: u64,
}

impl Default for Division {
    fn default() -> Self {
        Self {
            threads: threads(),
            round_bytes: 4 << 20,
            share_bytes: 128 << 10,
        }
    }
}

/// An area's entries, live or not.
pub(super) type Entries = [[u8; EXCEPTION_LEN]];

/// The areas of a store.
pub(super) struct Areas<'a> {
    device: &'a dyn BlockDevice,
    layout: Layout,
    device_chunks: u64,
    /// Chunks of the snapshot.
    chunk_count: u64,
    division: Division,
    /// A read had to wait, so that the others are asked for ahead.
    is_cold: AtomicBool,
}

/// What is known of consecutive areas.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// How many entries there are.
    pub(super) committed: u64,
    /// Those for chunks that the snapshot does not have.
    pub(super) beyond_origin: u64,
    pub(super) max_new_chunk: Option<NewChunk>,
    first_new_chunk: Option<NewChunk>,
    is_disordered: bool,
    /// How many areas are full, from the first on.
    pub(super) full_areas: u64,
    /// The bytes of the area behind those, which has room: the store ends here.
    pub(super) last_area: Option<Vec<u8>>,
}

/// Why an area ends a walk over all of them.
enum Trouble {
    /// It has an entry that can't be.
    Unsound,
    /// It can't be read.
    Unreadable(Error),
}

impl Found {
    /// Whether each new chunk is greater than all before it, so that none is there twice.
    pub(super) fn is_ascending(&self) -> bool {
        !self.is_disordered
    }

    fn push(&mut self, exception: Exception, chunk_count: u64) {
        let new_chunk = Some(exception.new_chunk);
        self.is_disordered |= new_chunk <= self.max_new_chunk;
        self.max_new_chunk = self.max_new_chunk.max(new_chunk);
        self.first_new_chunk = self.first_new_chunk.or(new_chunk);
        self.committed += 1;
        self.beyond_origin += u64::from(exception.old_chunk.0 >= chunk_count);
    }

    /// Adds what was found right behind.
    fn append(&mut self, behind: Self) {
        let is_behind =
            behind.first_new_chunk.is_none() || self.max_new_chunk < behind.first_new_chunk;
        self.is_disordered |= behind.is_disordered || !is_behind;
        self.max_new_chunk = self.max_new_chunk.max(behind.max_new_chunk);
        self.first_new_chunk = self.first_new_chunk.or(behind.first_new_chunk);
        self.committed += behind.committed;
        self.beyond_origin += behind.beyond_origin;
        self.full_areas += behind.full_areas;
        self.last_area = behind.last_area;
    }
}

impl<'a> Areas<'a> {
    /// The areas of the store on `device`, whose chunk size has been validated.
    pub(super) fn new(
        device: &'a dyn BlockDevice,
        chunk_size: ChunkSize,
        chunk_count: u64,
        division: Division,
    ) -> Self {
        Self {
            device,
            layout: Layout::new(chunk_size),
            device_chunks: chunk_size.whole_chunks(device.size_bytes()),
            chunk_count,
            division,
            is_cold: AtomicBool::new(false),
        }
    }

    /// Reads all areas up to the first that is not full, and hands the entries of each to `take`,
    /// from any thread and in any order. `None` where there is anything that can't be; some of them
    /// may have been handed on then.
    ///
    /// # Errors
    /// `Io` where an area can't be read.
    pub(super) fn walk(&self, take: impl Fn(&Entries) + Sync) -> Result<Option<Found>> {
        let Division {
            threads,
            round_bytes,
            share_bytes,
        } = self.division;
        let area_bytes = self.layout.chunk_size.bytes();
        let stride = self.layout.chunk_size.stride();
        // Area k is chunk 1 + k * stride.
        let on_device = self.device_chunks.saturating_sub(1).div_ceil(stride);
        let largest = threads.max(round_bytes / area_bytes);
        let least = (share_bytes / area_bytes).max(1);
        let mut bytes = Vec::new();
        let mut all = Found::default();
        let mut round = 1;
        while all.last_area.is_none() {
            let areas = round.min(on_device - all.full_areas);
            if areas == 0 {
                // The device ends, and the store does not.
                return Ok(None);
            }
            let share = areas.div_ceil(threads).max(least);
            bytes.resize(to_usize(areas * area_bytes), 0);
            let firsts = (all.full_areas..).step_by(to_usize(share));
            let shares = bytes.chunks_mut(to_usize(share * area_bytes)).zip(firsts);
            let found = in_parallel(shares, |(bytes, first)| self.look_at(first, bytes));
            // What lies behind the end does not count, whatever it is.
            let mut before_end = Vec::new();
            for found in found {
                let found = match found {
                    Ok(found) => found,
                    Err(Trouble::Unsound) => return Ok(None),
                    Err(Trouble::Unreadable(error)) => return Err(error),
                };
                before_end.push(found.full_areas + u64::from(found.last_area.is_some()));
                all.append(found);
                if all.last_area.is_some() {
                    break;
                }
            }
            let shares = bytes.chunks(to_usize(share * area_bytes)).zip(before_end);
            in_parallel(shares, |(bytes, areas)| {
                let areas = bytes.chunks(to_usize(area_bytes)).take(to_usize(areas));
                areas.for_each(|area| take(live_entries(area)));
            });
            round = largest.min(round.saturating_mul(4));
        }
        Ok(Some(all))
    }

    /// Reads as many areas as `bytes` has room for, from `first` on, or up to the end.
    fn look_at(&self, first: u64, bytes: &mut [u8]) -> std::result::Result<Found, Trouble> {
        let area_bytes = self.layout.chunk_size.bytes();
        let mut found = Found::default();
        let mut judge = Judge::new(self.layout, self.device_chunks);
        let count = bytes.len() as u64 / area_bytes;
        if self.is_cold.load(Ordering::Relaxed) {
            self.ask_for(first, count);
        }
        for (area, bytes) in (first..).zip(bytes.chunks_mut(to_usize(area_bytes))) {
            let read = self.read(area, first + count, bytes);
            read.map_err(Trouble::Unreadable)?;
            let live = live_entries(bytes);
            for entry in live {
                let exception = DiskException::decode(entry).to_exception();
                let exception = exception.filter(|exception| judge.may_be(*exception));
                let exception = exception.ok_or(Trouble::Unsound)?;
                found.push(exception, self.chunk_count);
            }
            if live.len() * EXCEPTION_LEN < bytes.len() {
                found.last_area = Some(bytes.to_vec());
                break;
            }
            found.full_areas += 1;
        }
        Ok(found)
    }

    /// Reads an area. The first that has to wait for a disk asks for those behind it as well, up to
    /// `end`: so many of them are under way at once.
    fn read(&self, area: u64, end: u64, bytes: &mut [u8]) -> Result<()> {
        let offset = self.offset(area).unwrap_or(u64::MAX);
        if !self.is_cold.load(Ordering::Relaxed) {
            let tried = self.device.try_read_at(bytes, offset);
            match tried.map_err(|e| self.cannot_read(area, e))? {
                Attempt::Done => return Ok(()),
                Attempt::WouldBlock => self.is_cold.store(true, Ordering::Relaxed),
            }
            self.ask_for(area, end - area);
        }
        let read = self.device.read_at(bytes, offset);
        read.map_err(|e| self.cannot_read(area, e))
    }

    fn cannot_read(&self, area: u64, error: Error) -> Error {
        let index = AreaIndex(area);
        let location = self.layout.area_location(index).unwrap_or_default();
        cannot_read_area(self.device.name(), index, location, error)
    }

    fn ask_for(&self, first: u64, count: u64) {
        let offsets = (first..)
            .take(to_usize(count))
            .map_while(|area| self.offset(area));
        offsets.for_each(|offset| {
            self.device
                .will_read(offset, self.layout.chunk_size.bytes())
        });
    }

    fn offset(&self, area: u64) -> Option<u64> {
        let location = self.layout.area_location(AreaIndex(area))?;
        self.layout.chunk_size.new_to_offset(location)
    }
}

/// The entries before the terminator.
fn live_entries(area: &[u8]) -> &Entries {
    let (entries, _none_left) = area.as_chunks();
    let is_live = |entry| !DiskException::decode(entry).is_terminator();
    let live = entries.iter().take_while(|entry| is_live(entry)).count();
    entries.get(..live).unwrap_or_default()
}

/// Judges entries as `why_refused` does, mostly without a division: where one data chunk may be
/// named, so may its neighbours up to the next area.
struct Judge {
    layout: Layout,
    device_chunks: u64,
    /// Chunks that may be named.
    first: u64,
    count: u64,
}

impl Judge {
    fn new(layout: Layout, device_chunks: u64) -> Self {
        Self {
            layout,
            device_chunks,
            first: 0,
            count: 0,
        }
    }

    #[inline]
    fn may_be(&mut self, exception: Exception) -> bool {
        let new_chunk = exception.new_chunk.0;
        new_chunk.wrapping_sub(self.first) < self.count || self.may_be_elsewhere(exception)
    }

    fn may_be_elsewhere(&mut self, exception: Exception) -> bool {
        if why_refused(self.layout, self.device_chunks, exception).is_some() {
            return false;
        }
        let stride = self.layout.chunk_size.stride();
        let behind_area_0 = exception.new_chunk.0 - FIRST_DATA_CHUNK.0;
        self.first = exception.new_chunk.0 - behind_area_0 % stride;
        self.count = (stride - 1).min(self.device_chunks - self.first);
        true
    }
}
