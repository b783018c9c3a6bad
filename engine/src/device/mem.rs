//! A device in memory, for tests and for measuring without a disk: pages that appear as they are
//! written, each behind a lock of its own.

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{BlockDevice, Extent, ZeroFlags, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

const PAGE_LEN: usize = 4096;
const PAGE_BYTES: u64 = PAGE_LEN as u64;

type Page = Option<Box<[u8; PAGE_LEN]>>;

/// A device in memory. Pages never written are holes.
pub struct MemDevice {
    name: String,
    size_bytes: AtomicU64,
    pages: RwLock<Vec<RwLock<Page>>>,
    prefers_rewrites: AtomicBool,
}

impl MemDevice {
    /// A device of `size_bytes` zeros.
    #[must_use]
    pub fn new(size_bytes: u64) -> Self {
        let device = Self {
            name: "memory".to_owned(),
            size_bytes: AtomicU64::new(0),
            pages: RwLock::new(Vec::new()),
            prefers_rewrites: AtomicBool::new(false),
        };
        device.resize(size_bytes);
        device
    }

    /// A device that holds `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let device = Self::new(bytes.len() as u64);
        for (page, data) in device.lock_pages().iter().zip(bytes.chunks(PAGE_LEN)) {
            if data.iter().any(|&byte| byte != 0) {
                write_page(page, 0, data);
            }
        }
        device
    }

    /// Says from now on, as a file on a journaling filesystem does, that rewriting is cheaper.
    pub fn prefer_rewrites(&self) {
        self.prefers_rewrites.store(true, Ordering::Relaxed);
    }

    /// Grows or shrinks the device; what is cut off is gone.
    pub fn resize(&self, size_bytes: u64) {
        let count = to_usize(size_bytes.div_ceil(PAGE_BYTES));
        let mut pages = self
            .pages
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        pages.resize_with(count, RwLock::default);
        self.size_bytes.store(size_bytes, Ordering::Release);
    }

    /// All of it, as one vector.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; to_usize(self.size_bytes())];
        for (page, out) in self.lock_pages().iter().zip(bytes.chunks_mut(PAGE_LEN)) {
            read_page(page, 0, out);
        }
        bytes
    }

    fn lock_pages(&self) -> std::sync::RwLockReadGuard<'_, Vec<RwLock<Page>>> {
        self.pages
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Calls `each` for every page that the range touches: page, offset in it, range in the buffer.
    fn for_pages(
        &self,
        offset: u64,
        len: u64,
        mut each: impl FnMut(&RwLock<Page>, usize, std::ops::Range<usize>),
    ) -> Result<()> {
        check_range(&self.name, self.size_bytes(), offset, len)?;
        let pages = self.lock_pages();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let within = at % PAGE_BYTES;
            let piece = (PAGE_BYTES - within).min(len - done);
            let index = to_usize(at / PAGE_BYTES);
            let Some(page) = pages.get(index) else {
                // Shrunk between the check and the lock.
                let context = format!("cannot reach byte {at} of {}", self.name);
                return Err(Error::new(ErrorKind::Io, context));
            };
            each(
                page,
                to_usize(within),
                to_usize(done)..to_usize(done + piece),
            );
            done += piece;
        }
        Ok(())
    }
}

fn read_page(page: &RwLock<Page>, within: usize, out: &mut [u8]) {
    let page = page
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match page
        .as_ref()
        .and_then(|page| page.get(within..within + out.len()))
    {
        Some(bytes) => out.copy_from_slice(bytes),
        None => out.fill(0),
    }
}

fn write_page(page: &RwLock<Page>, within: usize, data: &[u8]) {
    let mut page = page
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let page = page.get_or_insert_with(|| Box::new([0; PAGE_LEN]));
    if let Some(bytes) = page.get_mut(within..within + data.len()) {
        bytes.copy_from_slice(data);
    }
}

impl BlockDevice for MemDevice {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        self.for_pages(offset, len, |page, within, range| {
            if let Some(out) = buf.get_mut(range) {
                read_page(page, within, out);
            }
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.for_pages(offset, data.len() as u64, |page, within, range| {
            if let Some(data) = data.get(range) {
                write_page(page, within, data);
            }
        })
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.zero_at(offset, len, ZeroFlags::default())
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.for_pages(offset, len, |page, within, range| {
            let whole = range.len() as u64 == PAGE_BYTES;
            let mut page = page
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if whole && !flags.no_hole {
                *page = None;
            } else if flags.no_hole || page.is_some() {
                let page = page.get_or_insert_with(|| Box::new([0; PAGE_LEN]));
                if let Some(bytes) = page.get_mut(within..within + range.len()) {
                    bytes.fill(0);
                }
            }
        })
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn extend_to(&self, size_bytes: u64) -> Result<()> {
        if size_bytes > self.size_bytes() {
            self.resize(size_bytes);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let mut first: Option<bool> = None;
        let mut run = 0;
        let mut ended = false;
        self.for_pages(offset, len, |page, _, range| {
            let hole = page
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .is_none();
            ended |= *first.get_or_insert(hole) != hole;
            if !ended {
                run += range.len() as u64;
            }
        })?;
        let hole = first.unwrap_or(false);
        Ok(Extent {
            len: run,
            hole,
            zero: hole,
            depth: u32::from(!hole),
        })
    }

    fn prefers_rewrites(&self) -> bool {
        self.prefers_rewrites.load(Ordering::Relaxed)
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn can_zero_fast(&self) -> bool {
        true
    }
}
