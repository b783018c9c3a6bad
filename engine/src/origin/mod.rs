//! The origin: a file or block device that is read and never written; or, for a merge and for a
//! server of the origin itself, one that nobody else uses and that is written.

pub(crate) mod identity;
mod writable;

use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use usnap_format::OriginIdentity;

use crate::device::{
    Attempt, BlockDevice, Extent, FileDevice, ZeroFlags, check_range, share_with_qemu,
};
use crate::error::{Error, ErrorKind, Result};

pub use writable::WritableOrigin;

/// An origin: read-only, of a size fixed when it is opened.
#[derive(Debug)]
pub struct Origin {
    device: FileDevice,
    size_bytes: u64,
    /// The extent that was found last, whole. An origin does not change, and finding an extent
    /// can take a walk over the file, so those who go through it in small steps pay for it once.
    last_extent: Mutex<Option<(Range<u64>, Extent)>>,
}

impl Origin {
    /// Opens a file or block device as an origin and declares it in use by qemu's convention.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `InUse` (a virtual machine writes to it), `Usage` (it is
    /// empty, or neither a file nor a block device).
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot use origin {}", path.display());
        let device = FileDevice::open_read_only(path).map_err(|e| e.context(cannot()))?;
        share_with_qemu(device.file(), path)?;
        let size_bytes = size_of(&device, cannot)?;
        Ok(Self {
            device,
            size_bytes,
            last_extent: Mutex::default(),
        })
    }

    /// What this origin is recognised by. Reads about a mebibyte of it.
    ///
    /// # Errors
    /// `Io`.
    pub fn identity(&self) -> Result<OriginIdentity> {
        identity::of(&self.device, self.size_bytes)
    }

    /// Whether `path` names this origin's file or block device.
    pub(crate) fn is_same_file(&self, path: &Path) -> bool {
        is_same_file(&self.device, path)
    }
}

/// The size of an origin, which has some bytes at least.
fn size_of(device: &FileDevice, cannot: impl FnOnce() -> String) -> Result<u64> {
    match device.size_bytes() {
        0 => Err(Error::new(
            ErrorKind::Usage,
            format!("{}: it is empty", cannot()),
        )),
        size_bytes => Ok(size_bytes),
    }
}

/// Whether `path` names this file or block device.
fn is_same_file(device: &FileDevice, path: &Path) -> bool {
    let (Ok(ours), Ok(theirs)) = (device.file().metadata(), std::fs::metadata(path)) else {
        return false;
    };
    let same_device =
        device.is_block() && theirs.file_type().is_block_device() && ours.rdev() == theirs.rdev();
    same_device || (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())
}

/// An origin that can be compared with a record of one.
pub(crate) trait Identify: BlockDevice {
    /// What it is recognised by. Reads about a mebibyte of it.
    ///
    /// # Errors
    /// `Io`.
    fn identify(&self) -> Result<OriginIdentity>;

    /// Whether `path` names its file or block device.
    fn is_at(&self, path: &Path) -> bool;
}

impl Identify for Origin {
    fn identify(&self) -> Result<OriginIdentity> {
        self.identity()
    }

    fn is_at(&self, path: &Path) -> bool {
        self.is_same_file(path)
    }
}

impl BlockDevice for Origin {
    #[inline]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn name(&self) -> &str {
        self.device.name()
    }

    #[inline]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.device.read_at(buf, offset)
    }

    #[inline]
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.device.try_read_at(buf, offset)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Err(self.refusal())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(self.refusal())
    }

    fn zero_at(&self, _offset: u64, _len: u64, _flags: ZeroFlags) -> Result<()> {
        Err(self.refusal())
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(self.refusal())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.device.name(), self.size_bytes, offset, len)?;
        let known = self
            .last_extent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (range, extent) = match known {
            Some((range, extent)) if range.contains(&offset) => (range, extent),
            _ => {
                let extent = self.device.extent_at(offset, self.size_bytes - offset)?;
                let found = (offset..offset + extent.len, extent);
                *self
                    .last_extent
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
                found
            }
        };
        let len = len.min(range.end - offset);
        Ok(Extent { len, ..extent })
    }

    fn is_read_only(&self) -> bool {
        true
    }
}

impl Origin {
    #[cold]
    fn refusal(&self) -> Error {
        Error::new(
            ErrorKind::ReadOnly,
            format!("cannot change origin {}", self.device.name()),
        )
    }
}
