//! A device through which nothing can be written.

use std::sync::Arc;

use super::{Attempt, BlockDevice, Extent, ZeroFlags};
use crate::error::{Error, ErrorKind, Result};

/// Another device, with every change refused.
pub struct ReadOnlyDevice {
    below: Arc<dyn BlockDevice>,
}

impl ReadOnlyDevice {
    /// The same device, read-only.
    #[must_use]
    pub fn new(below: Arc<dyn BlockDevice>) -> Self {
        Self { below }
    }

    fn refuse(&self) -> Result<()> {
        let context = format!("cannot change {}: it is read-only", self.below.name());
        Err(Error::new(ErrorKind::ReadOnly, context))
    }
}

impl BlockDevice for ReadOnlyDevice {
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

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        self.refuse()
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard_at(&self, _offset: u64, _len: u64) -> Result<()> {
        self.refuse()
    }

    fn zero_at(&self, _offset: u64, _len: u64, _flags: ZeroFlags) -> Result<()> {
        self.refuse()
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> Result<()> {
        self.refuse()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        true
    }
}
