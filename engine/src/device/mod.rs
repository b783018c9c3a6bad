//! A device of bytes: what everything in this crate reads from and writes to, and what the
//! snapshot itself is.
//!
//! The contract, for every implementation:
//! - Methods take `&self` and may be called from many threads at once.
//! - Offsets and lengths are bytes, of any alignment. A range that does not lie inside
//!   `size_bytes` is refused with `OutOfRange` and changes nothing. Empty ranges succeed.
//! - A read is whole or an error: there are no short reads.
//! - A write that failed may have been done in part, never outside its range.
//! - What a completed write wrote is durable after a `flush` that began later and succeeded.

mod file;
mod filesystem;
mod latched;
mod lock;
mod mem;
mod read_only;
mod stamped;
mod synced;

use crate::error::{Error, ErrorKind, Result};

pub use file::FileDevice;
pub use filesystem::RoomBelow;
pub use latched::LatchedDevice;
pub use lock::holder;
pub use mem::MemDevice;
pub use read_only::ReadOnlyDevice;

pub(crate) use lock::{lock_cow, lock_origin_to_write, share_with_qemu};
pub(crate) use stamped::StampedDevice;
pub(crate) use synced::SyncedDevice;

/// How `zero_at` may do its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroFlags {
    /// Keep (or make) the space allocated: no punching of holes.
    pub no_hole: bool,
    /// Refuse with `NotSupported`, changing nothing, unless it is faster than writing zeros.
    pub fast: bool,
}

/// What a range of a device is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, never 0.
    pub len: u64,
    /// Nothing is allocated for it. Only ever set together with `zero`.
    pub hole: bool,
    /// It reads as zeros.
    pub zero: bool,
    /// Where the content comes from: 0 nowhere (a hole all the way down), 1 this device's own
    /// storage, 2 the device below it, and so on (qemu's allocation depth).
    pub depth: u32,
}

/// What came of a read that must not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is done.
    Done,
    /// It would have to wait: read again, where waiting does no harm.
    WouldBlock,
}

/// A device of bytes. The module's documentation has the contract.
pub trait BlockDevice: Send + Sync {
    /// The size in bytes, as of now: a device may grow while it is in use.
    fn size_bytes(&self) -> u64;

    /// A name for messages: a path, or what kind of device it is.
    fn name(&self) -> &str;

    /// Reads `buf.len()` bytes.
    ///
    /// # Errors
    /// `Io` where the device answers with an error or has fewer bytes than it should.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Reads as `read_at` does if that takes no waiting for a disk; otherwise leaves `buf` in an
    /// unknown state and says so. A device that can't tell reads.
    ///
    /// # Errors
    /// As `read_at`.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.read_at(buf, offset).map(|()| Attempt::Done)
    }

    /// Says that the range will be read soon, so that a device that has to fetch it may begin to.
    /// Costs little where there is nothing to fetch, and never fails; a device that can't does nothing.
    fn will_read(&self, _offset: u64, _len: u64) {}

    /// Writes all of `data`.
    ///
    /// # Errors
    /// `NoSpace` where there is no room, `ReadOnly`, `Latched`, `Io`.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes every write that was completed before this call durable.
    ///
    /// # Errors
    /// `Io`, `NoSpace` or `Latched`: nothing is promised for any of those writes.
    fn flush(&self) -> Result<()>;

    /// Forgets what a cache holds of the device, as far as it can, so that what is read next is what
    /// is on the disk. Needed after a flush that failed: the next one succeeds, and the cache shows
    /// what was lost. A device without a cache does nothing.
    fn drop_page_cache(&self) {}

    /// Says that the range's content is of no more interest. It may read as before or as zeros
    /// afterwards; the device may free space.
    ///
    /// # Errors
    /// As `write_at`. A device that can't discard does nothing and succeeds.
    fn discard_at(&self, offset: u64, len: u64) -> Result<()>;

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// As `write_at`; `NotSupported` only with `flags.fast`, and then nothing was changed.
    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()>;

    /// Makes sure that a later write to the range does not fail for want of space.
    ///
    /// # Errors
    /// `NoSpace`; a device that can't promise does nothing and succeeds.
    fn reserve_at(&self, offset: u64, len: u64) -> Result<()>;

    /// Whether a write may find its space missing only after it succeeded, unless `reserve_at` was
    /// called before it.
    fn needs_reservation(&self) -> bool {
        false
    }

    /// Whether a flush costs less where only what had been written before was written again: a
    /// filesystem with a journal commits that too for blocks that are new to the file.
    fn prefers_rewrites(&self) -> bool {
        false
    }

    /// Makes the device at least so long; what is added reads as zeros. Never makes it shorter.
    ///
    /// # Errors
    /// `NoSpace` (the filesystem's or a limit's end, too), `NotSupported`, `Io`.
    fn extend_to(&self, size_bytes: u64) -> Result<()> {
        let context = format!("cannot make {} {size_bytes} bytes long", self.name());
        Err(Error::new(ErrorKind::NotSupported, context))
    }

    /// The room that the filesystem below has for this device, where there is one and it has a
    /// limit.
    fn room_below(&self) -> Option<RoomBelow> {
        None
    }

    /// The extent that begins at `offset`, at most `len` bytes long (`len` > 0, in range).
    ///
    /// # Errors
    /// `Io`, `OutOfRange`.
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent>;

    /// Whether writes are refused.
    fn is_read_only(&self) -> bool;

    /// Whether `zero_at` with `fast` can succeed at all.
    fn can_zero_fast(&self) -> bool {
        false
    }
}

/// Refuses a range that does not lie inside a device of `size_bytes`.
///
/// # Errors
/// `OutOfRange`.
pub fn check_range(device: &str, size_bytes: u64, offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(Error::new(
            ErrorKind::OutOfRange,
            format!("range {offset}+{len} does not lie inside {device} of {size_bytes} bytes"),
        )),
    }
}
