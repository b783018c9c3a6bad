//! A device behind a page cache, as Linux has it: a sync that fails is told once, what it was to
//! write counts as written from then on, and the cache goes on showing it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::{Error, ErrorKind, Result};

const SECTOR_LEN: usize = 512;

pub(crate) struct Cached {
    cache: MemDevice,
    disk: MemDevice,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Sectors that only the cache has.
    dirty: BTreeSet<u64>,
    /// The sync that fails, counted from the next, which is 0.
    failing: Option<u64>,
    /// A sync failed.
    has_failed: bool,
}

impl Cached {
    pub(crate) fn new(image: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            cache: MemDevice::from_bytes(image),
            disk: MemDevice::from_bytes(image),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fail_sync(&self, n: u64) {
        self.state().failing = Some(n);
    }

    /// Whether one failed since this was last asked; from here on none does.
    pub(crate) fn take_failure(&self) -> bool {
        let mut state = self.state();
        state.failing = None;
        std::mem::take(&mut state.has_failed)
    }

    /// What a power cut leaves.
    pub(crate) fn on_disk(&self) -> Vec<u8> {
        let size = usize::try_from(self.size_bytes()).expect("devices of the test fit in memory");
        let mut image = vec![0; size];
        self.disk.read_at(&mut image, 0).expect("it is memory");
        image
    }

    fn touch(&self, offset: u64, len: u64) {
        let sector = SECTOR_LEN as u64;
        let sectors = offset / sector..(offset + len).div_ceil(sector);
        self.state().dirty.extend(sectors);
    }
}

fn copy_sector(from: &MemDevice, to: &MemDevice, sector: u64) -> Result<()> {
    let mut bytes = [0; SECTOR_LEN];
    from.read_at(&mut bytes, sector * SECTOR_LEN as u64)?;
    to.write_at(&bytes, sector * SECTOR_LEN as u64)
}

impl BlockDevice for Cached {
    fn size_bytes(&self) -> u64 {
        self.cache.size_bytes()
    }

    fn name(&self) -> &str {
        "cached"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.cache.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.cache.write_at(data, offset)?;
        self.touch(offset, data.len() as u64);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.state();
        let dirty = std::mem::take(&mut state.dirty);
        if let Some(left) = state.failing {
            state.failing = left.checked_sub(1);
            if left == 0 {
                state.has_failed = true;
                return Err(Error::new(ErrorKind::Io, "the test lost a page"));
            }
        }
        dirty
            .into_iter()
            .try_for_each(|sector| copy_sector(&self.cache, &self.disk, sector))
    }

    fn drop_page_cache(&self) {
        let state = self.state();
        let sectors = 0..self.size_bytes() / SECTOR_LEN as u64;
        for sector in sectors.filter(|sector| !state.dirty.contains(sector)) {
            copy_sector(&self.disk, &self.cache, sector).expect("it is memory");
        }
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.zero_at(offset, len, ZeroFlags::default())
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.cache.zero_at(offset, len, flags)?;
        self.touch(offset, len);
        Ok(())
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.cache.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}
