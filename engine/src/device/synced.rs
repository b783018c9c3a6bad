//! A device that many threads flush: one at a time, and who waited shares the sync of another that
//! began after it asked. The system tells of a lost page once: were two syncs under way, one would
//! be told and the other would hear that all is well, before the latch is there to say otherwise. So
//! the latch is looked at and set under the lock that the sync is made under.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Attempt, BlockDevice, Extent, LatchedDevice, RoomBelow, ZeroFlags};
use crate::error::Result;

/// A latched device whose flushes come one after the other.
pub(crate) struct SyncedDevice {
    below: LatchedDevice,
    /// Syncs that have begun.
    begun: AtomicU64,
    /// The number of the last one that succeeded.
    succeeded: Mutex<u64>,
}

impl SyncedDevice {
    pub(crate) fn new(below: Arc<dyn BlockDevice>) -> Self {
        Self {
            below: LatchedDevice::new(below),
            begun: AtomicU64::new(0),
            succeeded: Mutex::new(0),
        }
    }

    /// Why nothing more is written, after a failed flush.
    pub(crate) fn latched(&self) -> Option<&str> {
        self.below.latched()
    }

    /// # Errors
    /// `Latched`.
    pub(crate) fn refuse_if_latched(&self) -> Result<()> {
        self.below.refuse_if_latched()
    }

    /// Nothing more is written from here on.
    pub(crate) fn close(&self) {
        self.below.close();
    }
}

impl BlockDevice for SyncedDevice {
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
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut succeeded = self
            .succeeded
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A sync that began after this call covers all that it has to cover.
        if *succeeded > begun_before {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.below.flush()?;
        *succeeded = number;
        Ok(())
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.below.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.below.reserve_at(offset, len)
    }

    fn needs_reservation(&self) -> bool {
        self.below.needs_reservation()
    }

    fn prefers_rewrites(&self) -> bool {
        self.below.prefers_rewrites()
    }

    fn extend_to(&self, size_bytes: u64) -> Result<()> {
        self.below.extend_to(size_bytes)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::SyncedDevice;
    use crate::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
    use crate::error::{Error, ErrorKind, Result};

    /// As a system does: of the syncs after a lost page the first is told, the others are not.
    struct TellsOnce {
        memory: MemDevice,
        syncs: AtomicU64,
    }

    impl BlockDevice for TellsOnce {
        fn size_bytes(&self) -> u64 {
            self.memory.size_bytes()
        }

        fn name(&self) -> &'static str {
            "tells once"
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            self.memory.read_at(buf, offset)
        }

        fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
            self.memory.write_at(data, offset)
        }

        fn flush(&self) -> Result<()> {
            let is_first = self.syncs.fetch_add(1, Ordering::SeqCst) == 0;
            // The one that is told is back last.
            if is_first {
                std::thread::sleep(Duration::from_millis(50));
                return Err(Error::new(ErrorKind::Io, "a page is lost"));
            }
            Ok(())
        }

        fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
            self.memory.discard_at(offset, len)
        }

        fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
            self.memory.zero_at(offset, len, flags)
        }

        fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
            self.memory.reserve_at(offset, len)
        }

        fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
            self.memory.extent_at(offset, len)
        }

        fn is_read_only(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_lost_page_that_one_flush_is_told_of_is_told_to_all() {
        let below = TellsOnce {
            memory: MemDevice::new(4096),
            syncs: AtomicU64::new(0),
        };
        let device = SyncedDevice::new(Arc::new(below));
        let together = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    together.wait();
                    device.flush().unwrap_err();
                });
            }
        });
        assert!(device.latched().is_some());
        let error = device.write_at(&[1], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Latched);
    }
}
