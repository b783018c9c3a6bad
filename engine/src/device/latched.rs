//! A device that remembers a failed flush. After one, the kernel may have dropped dirty pages and
//! will answer the next flush with success all the same: so nothing more is written and no later
//! flush succeeds, until the device is opened anew (DESIGN.md, "When a flush fails").

use std::sync::{Arc, OnceLock};

use super::{Attempt, BlockDevice, Extent, RoomBelow, ZeroFlags};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Stamp;

/// Another device, whose first failed flush is its last.
pub struct LatchedDevice {
    below: Arc<dyn BlockDevice>,
    latch: OnceLock<Latch>,
    /// Told of each change, where a journal depends on knowing when the last one was.
    stamp: Option<Arc<Stamp>>,
}

/// Why nothing more is written.
enum Latch {
    /// A flush failed; this is what it said.
    Failed(String),
    /// The store was closed.
    Closed,
}

impl LatchedDevice {
    /// The same device, with a latch.
    #[must_use]
    pub fn new(below: Arc<dyn BlockDevice>) -> Self {
        Self::with_stamp(below, None)
    }

    /// The same device, with a latch, stamping each change.
    pub(crate) fn with_stamp(below: Arc<dyn BlockDevice>, stamp: Option<Arc<Stamp>>) -> Self {
        Self {
            below,
            latch: OnceLock::new(),
            stamp,
        }
    }

    /// Why the device is latched, if a flush failed.
    #[must_use]
    pub fn latched(&self) -> Option<&str> {
        match self.latch.get() {
            Some(Latch::Failed(cause)) => Some(cause),
            Some(Latch::Closed) | None => None,
        }
    }

    /// Latches the device; the first reason stays.
    #[cold]
    pub fn latch(&self, cause: &Error) {
        let _first_stays = self.latch.set(Latch::Failed(format!("{cause:?}")));
    }

    /// Nothing more is written from here on, since the store is closed.
    #[cold]
    pub(crate) fn close(&self) {
        let _first_stays = self.latch.set(Latch::Closed);
    }

    /// Refuses what would change the device after a failed flush, or when it is closed.
    ///
    /// # Errors
    /// `Latched`.
    #[inline]
    pub(crate) fn refuse_if_latched(&self) -> Result<()> {
        match self.latch.get() {
            None => Ok(()),
            Some(latch) => Err(refusal(self.below.name(), latch)),
        }
    }

    #[inline]
    fn change(&self, call: impl FnOnce(&dyn BlockDevice) -> Result<()>) -> Result<()> {
        self.refuse_if_latched()?;
        match &self.stamp {
            None => call(&*self.below),
            Some(stamp) => stamp.during(|| call(&*self.below)),
        }
    }

    #[inline]
    fn write(&self, call: impl FnOnce(&dyn BlockDevice) -> Result<()>) -> Result<()> {
        self.refuse_if_latched()?;
        match &self.stamp {
            None => call(&*self.below),
            Some(stamp) => stamp.during_write(|| call(&*self.below)),
        }
    }
}

#[cold]
fn refusal(name: &str, latch: &Latch) -> Error {
    match latch {
        Latch::Failed(cause) => Error::new(
            ErrorKind::Latched,
            format!("cannot write to {name}: an earlier flush failed ({cause})"),
        )
        .with_hint("stop the server, find out what is wrong with the disk, then serve again"),
        Latch::Closed => Error::new(
            ErrorKind::Latched,
            format!("cannot write to {name}: the store was closed"),
        ),
    }
}

impl BlockDevice for LatchedDevice {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        self.below.name()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.below.try_read_at(buf, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        self.below.will_read(offset, len);
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.write(|below| below.write_at(data, offset))
    }

    fn flush(&self) -> Result<()> {
        self.refuse_if_latched()?;
        self.below.flush().inspect_err(|e| self.latch(e))
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|below| below.discard_at(offset, len))
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.change(|below| below.zero_at(offset, len, flags))
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|below| below.reserve_at(offset, len))
    }

    fn needs_reservation(&self) -> bool {
        self.below.needs_reservation()
    }

    fn prefers_rewrites(&self) -> bool {
        self.below.prefers_rewrites()
    }

    fn extend_to(&self, size_bytes: u64) -> Result<()> {
        self.change(|below| below.extend_to(size_bytes))
    }

    fn room_below(&self) -> Option<RoomBelow> {
        self.below.room_below()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        self.below.is_read_only()
    }

    fn can_zero_fast(&self) -> bool {
        self.below.can_zero_fast()
    }
}
