//! A device whose changes are stamped in journals while a store is being opened: in the one that a
//! killed server left, and in the new one.

use std::sync::Arc;

use super::{BlockDevice, Extent, ZeroFlags};
use crate::error::Result;
use crate::journal::Stamp;

/// Another device, with each change of it stamped.
pub(crate) struct StampedDevice<'a> {
    below: &'a dyn BlockDevice,
    stamps: Vec<Arc<Stamp>>,
}

impl<'a> StampedDevice<'a> {
    /// The same device, stamping in all of these.
    pub(crate) fn new(
        below: &'a dyn BlockDevice,
        stamps: impl IntoIterator<Item = Arc<Stamp>>,
    ) -> Self {
        Self {
            below,
            stamps: stamps.into_iter().collect(),
        }
    }

    fn write(&self, call: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.stamps.as_slice() {
            [] => call(),
            [one] => one.during_write(call),
            [one, other, ..] => one.during_write(|| other.during_write(call)),
        }
    }

    fn change<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.stamps.as_slice() {
            [] => call(),
            [one] => one.during(call),
            [one, other, ..] => one.during(|| other.during(call)),
        }
    }
}

impl BlockDevice for StampedDevice<'_> {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        self.below.name()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        self.below.will_read(offset, len);
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.write(|| self.below.write_at(data, offset))
    }

    fn flush(&self) -> Result<()> {
        self.below.flush()
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|| self.below.discard_at(offset, len))
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.change(|| self.below.zero_at(offset, len, flags))
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|| self.below.reserve_at(offset, len))
    }

    fn needs_reservation(&self) -> bool {
        self.below.needs_reservation()
    }

    fn prefers_rewrites(&self) -> bool {
        self.below.prefers_rewrites()
    }

    fn extend_to(&self, size_bytes: u64) -> Result<()> {
        self.change(|| self.below.extend_to(size_bytes))
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        self.below.is_read_only()
    }

    /// Asking for the first time may punch a hole behind the end, which changes the file's times.
    fn can_zero_fast(&self) -> bool {
        self.change(|| Ok(self.below.can_zero_fast()))
            .unwrap_or(false)
    }
}
