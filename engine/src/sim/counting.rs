//! What a path costs, in calls to its device.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ask_below;
use crate::device::{Attempt, BlockDevice, ZeroFlags};
use crate::error::Result;

/// Calls to a device, and the bytes that they moved. Calls count whether they succeed or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `read_at` and `try_read_at`.
    pub reads: u64,
    /// Bytes asked for by reads.
    pub read_bytes: u64,
    /// `write_at`.
    pub writes: u64,
    /// Bytes handed to writes.
    pub written_bytes: u64,
    /// `zero_at`.
    pub zeroes: u64,
    /// `discard_at`.
    pub discards: u64,
    /// `reserve_at`.
    pub reserves: u64,
    /// `flush`.
    pub flushes: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reads ({} bytes), {} writes ({} bytes), {} zeroes, {} discards, {} reserves, {} \
             flushes",
            self.reads,
            self.read_bytes,
            self.writes,
            self.written_bytes,
            self.zeroes,
            self.discards,
            self.reserves,
            self.flushes
        )
    }
}

/// A device that counts what is asked of the one below it.
pub struct Counting {
    below: Arc<dyn BlockDevice>,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    zeroes: AtomicU64,
    discards: AtomicU64,
    reserves: AtomicU64,
    flushes: AtomicU64,
}

fn add(to: &AtomicU64, count: u64) {
    to.fetch_add(count, Ordering::Relaxed);
}

impl Counting {
    /// The same device, with counters.
    #[must_use]
    pub fn new(below: Arc<dyn BlockDevice>) -> Self {
        Self {
            below,
            reads: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            zeroes: AtomicU64::new(0),
            discards: AtomicU64::new(0),
            reserves: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        }
    }

    /// What was counted since this was last asked.
    pub fn take(&self) -> Counts {
        let take = |from: &AtomicU64| from.swap(0, Ordering::Relaxed);
        Counts {
            reads: take(&self.reads),
            read_bytes: take(&self.read_bytes),
            writes: take(&self.writes),
            written_bytes: take(&self.written_bytes),
            zeroes: take(&self.zeroes),
            discards: take(&self.discards),
            reserves: take(&self.reserves),
            flushes: take(&self.flushes),
        }
    }

    /// What `path` costs, if nobody else uses the device meanwhile.
    pub fn cost_of<T>(&self, path: impl FnOnce() -> T) -> (T, Counts) {
        self.take();
        let result = path();
        (result, self.take())
    }

    /// Does `path` and says so where it cost something else than `wanted`.
    ///
    /// # Errors
    /// Both counts, in words.
    pub fn expect<T>(
        &self,
        wanted: Counts,
        path: impl FnOnce() -> T,
    ) -> std::result::Result<T, String> {
        let (result, found) = self.cost_of(path);
        if found == wanted {
            Ok(result)
        } else {
            Err(format!("cost {found}; should cost {wanted}"))
        }
    }
}

impl BlockDevice for Counting {
    ask_below!();

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        add(&self.reads, 1);
        add(&self.read_bytes, buf.len() as u64);
        self.below.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        add(&self.reads, 1);
        add(&self.read_bytes, buf.len() as u64);
        self.below.try_read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        add(&self.writes, 1);
        add(&self.written_bytes, data.len() as u64);
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        add(&self.flushes, 1);
        self.below.flush()
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        add(&self.discards, 1);
        self.below.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        add(&self.zeroes, 1);
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        add(&self.reserves, 1);
        self.below.reserve_at(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::{Counting, Counts};
    use crate::device::{BlockDevice, MemDevice};
    use std::sync::Arc;

    #[test]
    fn a_path_that_costs_more_than_it_should_is_told() {
        let device = Counting::new(Arc::new(MemDevice::new(1024)));
        let twice = || {
            device.write_at(&[1; 300], 0).unwrap();
            device.write_at(&[1; 200], 300).unwrap();
            device.flush().unwrap();
        };
        let wanted = Counts {
            writes: 2,
            written_bytes: 500,
            flushes: 1,
            ..Counts::default()
        };
        assert_eq!(device.expect(wanted, twice), Ok(()));
        let less = Counts {
            writes: 1,
            ..wanted
        };
        let told = device.expect(less, twice).unwrap_err();
        assert!(
            told.contains("2 writes") && told.contains("1 writes"),
            "{told}"
        );
    }
}
