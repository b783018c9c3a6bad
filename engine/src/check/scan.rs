//! One look at everything that a store's metadata says, believable or not. What can't be read is
//! left out, and the look goes on behind it.

use std::collections::HashSet;

use usnap_format::{
    AreaIndex, DiskException, EXCEPTION_LEN, Exception, Layout, NewChunk, OldChunk,
};

use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::{SECTOR_LEN, to_usize};
use crate::store::persistent::leftover::Leftover;
use crate::store::persistent::open::why_refused;

/// A device that fails so many areas is not asked for more: each question may take seconds.
const UNREADABLE_MAX: usize = 16;

/// A device full of something else must not fill the memory: no store has so much damage.
const UNBELIEVABLE_MAX: u64 = 1 << 20;

/// Stands for an entry that can't be read: no live entry has new chunk 0.
const UNREAD: Exception = Exception {
    old_chunk: OldChunk(u64::MAX),
    new_chunk: NewChunk(0),
};

/// What the areas of a store hold.
pub(crate) struct Scan {
    pub(crate) layout: Layout,
    pub(crate) device_chunks: u64,
    /// Areas looked at.
    pub(crate) areas: u64,
    /// The entries before the terminator, by their numbers in the store.
    entries: Vec<Exception>,
    /// How many of them can't be, each by itself.
    unbelievable: u64,
    /// Where the first byte behind the terminator lies that is not zero: area, offset in it.
    pub(crate) junk: Option<(AreaIndex, u64)>,
    /// What behind the terminator could be entries.
    pub(crate) leftover: Leftover,
    /// The area that would come next does not lie on the device.
    pub(crate) missing: Option<AreaIndex>,
    /// The last area is a hole of the file.
    pub(crate) is_hole: bool,
    pub(crate) unreadable: Vec<Unreadable>,
}

/// A part of an area that the device does not give back.
pub(crate) struct Unreadable {
    pub(crate) area: AreaIndex,
    /// The first entry of it.
    pub(crate) index: u64,
    pub(crate) cause: String,
}

/// Whether the look stops at the first entry that can't be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// It shows everything.
    Everything,
    /// It stops: this is no store.
    Believable,
}

impl Scan {
    /// Looks at the store on `device`, which holds two chunks at least. `None` where the look is
    /// to stop at what can't be.
    ///
    /// # Errors
    /// `Corrupt` where nearly nothing can be.
    pub(crate) fn run(
        device: &dyn BlockDevice,
        layout: Layout,
        strictness: Strictness,
    ) -> Result<Option<Self>> {
        let chunk_size = layout.chunk_size;
        let mut scan = Self {
            layout,
            device_chunks: chunk_size.whole_chunks(device.size_bytes()),
            areas: 0,
            entries: Vec::new(),
            unbelievable: 0,
            junk: None,
            leftover: Leftover::default(),
            missing: None,
            is_hole: false,
            unreadable: Vec::new(),
        };
        let mut bytes = vec![0; to_usize(chunk_size.bytes())];
        let mut is_doubtful = false;
        for area in (0..).map(AreaIndex) {
            let offset = scan.area_offset(area);
            let Some(offset) = offset else {
                scan.missing = (!is_doubtful).then_some(area);
                break;
            };
            let unread = scan.read_area(device, area, offset, &mut bytes);
            if is_doubtful && !scan.begins_believably(&bytes) {
                break;
            }
            scan.areas += 1;
            let before = scan.entries.len();
            let ended = scan.take_entries(area, &bytes, &unread);
            scan.unbelievable += scan.count_unbelievable_from(before);
            if strictness == Strictness::Believable && scan.unbelievable > 0 {
                return Ok(None);
            }
            if scan.unbelievable > UNBELIEVABLE_MAX {
                let context = format!(
                    "cannot make sense of the areas of {}: more than {UNBELIEVABLE_MAX} entries \
                     can't be",
                    device.name()
                );
                let hint = "is it a COW device, and is this its chunk size?";
                return Err(Error::new(ErrorKind::Corrupt, context).with_hint(hint));
            }
            if ended {
                let extent = device.extent_at(offset, chunk_size.bytes());
                scan.is_hole = extent.is_ok_and(|e| e.hole && e.len == chunk_size.bytes());
                break;
            }
            // Whether an area with an unreadable end is full can't be known.
            is_doubtful = unread.last() == Some(&true);
            if scan.unreadable.len() >= UNREADABLE_MAX {
                break;
            }
        }
        while scan.entries.last() == Some(&UNREAD) {
            scan.entries.pop();
        }
        Ok(Some(scan))
    }

    /// Where an area begins, if it lies on the device entirely.
    pub(crate) fn area_offset(&self, area: AreaIndex) -> Option<u64> {
        let location = self.layout.area_location(area)?;
        if location.0 >= self.device_chunks {
            return None;
        }
        self.layout.chunk_size.new_to_offset(location)
    }

    /// How many entries lie before the terminator, unreadable ones among them included.
    pub(crate) fn entry_count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The entries that could be read, with their numbers.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, Exception)> + '_ {
        (0..)
            .zip(self.entries.iter().copied())
            .filter(|(_, entry)| *entry != UNREAD)
    }

    /// Entry `n`, if there is one and it could be read.
    pub(crate) fn entry(&self, n: u64) -> Option<Exception> {
        let entry = self.entries.get(to_usize(n)).copied();
        entry.filter(|entry| *entry != UNREAD)
    }

    /// Why an entry can't be, from itself and the device's size alone.
    pub(crate) fn why_refused(&self, exception: Exception) -> Option<&'static str> {
        why_refused(self.layout, self.device_chunks, exception)
    }

    /// Whether each entry has the chunk that a store without holes gives it.
    pub(crate) fn is_in_order(&self) -> bool {
        self.entries()
            .all(|(n, entry)| self.layout.nth_data_chunk(n) == Some(entry.new_chunk))
    }

    /// Whether there is more that can be than that can't: garbage is nobody's area.
    pub(crate) fn is_mostly_believable(&self) -> bool {
        self.unbelievable * 2 <= self.entry_count()
    }

    /// Entries whose key an earlier one has, with the first of those: numbers, ascending.
    pub(crate) fn repeated(&self, key: impl Fn(Exception) -> u64) -> Vec<(u64, u64)> {
        let ascends = self
            .entries()
            .is_sorted_by(|(_, a), (_, b)| key(*a) < key(*b));
        if ascends {
            // Nearly always so of new chunks, which saves the sorting.
            return Vec::new();
        }
        let mut keys: Vec<(u64, u64)> = self.entries().map(|(n, entry)| (key(entry), n)).collect();
        keys.sort_unstable();
        let mut repeated: Vec<(u64, u64)> = keys
            .chunk_by(|(a, _), (b, _)| a == b)
            .filter_map(|same| same.split_first())
            .flat_map(|((_, first), later)| later.iter().map(|(_, n)| (*n, *first)))
            .collect();
        repeated.sort_unstable();
        repeated
    }

    /// How many of the entries from this one on can't be.
    fn count_unbelievable_from(&self, first: usize) -> u64 {
        let new = self.entries.get(first..).unwrap_or_default();
        let refused = |entry: &&Exception| **entry != UNREAD && self.why_refused(**entry).is_some();
        new.iter().filter(refused).count() as u64
    }

    fn begins_believably(&self, bytes: &[u8]) -> bool {
        let first = bytes.first_chunk::<EXCEPTION_LEN>();
        let first = first.and_then(|bytes| DiskException::decode(bytes).to_exception());
        first.is_some_and(|first| self.why_refused(first).is_none())
    }

    /// Fills `bytes` with the area; says of each sector whether it could not be read (it is zeros
    /// then), or nothing where all could.
    fn read_area(
        &mut self,
        device: &dyn BlockDevice,
        area: AreaIndex,
        offset: u64,
        bytes: &mut [u8],
    ) -> Vec<bool> {
        let Err(error) = device.read_at(bytes, offset) else {
            return Vec::new();
        };
        let mut unread = Vec::new();
        for (sector, at) in bytes
            .chunks_mut(SECTOR_LEN)
            .zip((offset..).step_by(SECTOR_LEN))
        {
            let failed = device.read_at(sector, at).is_err();
            if failed {
                sector.fill(0);
            }
            unread.push(failed);
        }
        let in_sector = (SECTOR_LEN / EXCEPTION_LEN) as u64;
        let first = unread.iter().position(|failed| *failed);
        if let Some(first) = first {
            self.unreadable.push(Unreadable {
                area,
                index: first as u64 * in_sector,
                cause: format!("{error:?}"),
            });
        }
        unread
    }

    /// What behind the terminator of the last area, at this index, could be entries.
    fn find_leftover(&self, bytes: &[u8], terminator: u64) -> Leftover {
        let old_chunks: HashSet<OldChunk> = self.entries().map(|(_, e)| e.old_chunk).collect();
        Leftover::find(
            self.layout,
            self.device_chunks,
            bytes,
            terminator,
            |old_chunk| old_chunks.contains(&old_chunk),
            self.entries().map(|(_, e)| e.new_chunk),
        )
    }

    /// Takes the entries before the terminator; says whether there is one.
    fn take_entries(&mut self, area: AreaIndex, bytes: &[u8], unread: &[bool]) -> bool {
        let (entries, _none_left) = bytes.as_chunks::<EXCEPTION_LEN>();
        for (index, entry) in entries.iter().enumerate() {
            let at = index * EXCEPTION_LEN;
            if unread.get(at / SECTOR_LEN) == Some(&true) {
                self.entries.push(UNREAD);
                continue;
            }
            match DiskException::decode(entry).to_exception() {
                Some(exception) => self.entries.push(exception),
                None => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let junk = rest.iter().position(|&byte| byte != 0);
                    self.junk = junk.map(|junk| (area, (at + junk) as u64));
                    if junk.is_some() {
                        self.leftover = self.find_leftover(bytes, index as u64);
                    }
                    return true;
                }
            }
        }
        false
    }
}
