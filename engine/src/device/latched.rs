//! A device that remembers a failed flush. After one, the kernel may have dropped dirty pages and
//! will answer the next flush with success all the same: so nothing more is written and no later
//! flush succeeds, until the device is opened anew (DESIGN.md, "When a flush fails").

use std::sync::{Arc, OnceLock};

use super::{Attempt, BlockDevice, Extent, ZeroFlags};
use crate::error::{Error, ErrorKind, Result};

/// Another device, whose first failed flush is its last.
pub struct LatchedDevice {
    below: Arc<dyn BlockDevice>,
    latch: OnceLock<String>,
}

impl LatchedDevice {
    /// The same device, with a latch.
    #[must_use]
    pub fn new(below: Arc<dyn BlockDevice>) -> Self {
        Self {
            below,
            latch: OnceLock::new(),
        }
    }

    /// Why the device is latched, if it is.
    #[must_use]
    pub fn latched(&self) -> Option<&str> {
        self.latch.get().map(String::as_str)
    }

    /// Latches the device; the first reason stays.
    #[cold]
    pub fn latch(&self, cause: &Error) {
        let _first_stays = self.latch.set(format!("{cause:?}"));
    }

    #[inline]
    fn refuse_if_latched(&self) -> Result<()> {
        match self.latch.get() {
            None => Ok(()),
            Some(cause) => Err(refusal(self.below.name(), cause)),
        }
    }
}

#[cold]
fn refusal(name: &str, cause: &str) -> Error {
    Error::new(
        ErrorKind::Latched,
        format!("cannot write to {name}: an earlier flush failed ({cause})"),
    )
    .with_hint("stop the server, find out what is wrong with the disk, then serve again")
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

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.refuse_if_latched()?;
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.refuse_if_latched()?;
        self.below.flush().inspect_err(|e| self.latch(e))
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.refuse_if_latched()?;
        self.below.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.refuse_if_latched()?;
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.refuse_if_latched()?;
        self.below.reserve_at(offset, len)
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
