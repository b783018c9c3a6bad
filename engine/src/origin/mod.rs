//! The origin: what is read and never written. A file or block device, or one with read-only COW
//! devices over it (`layers.rs`); or, for a merge and for a server of the origin itself, one that
//! nobody else uses and that is written (`writable.rs`).

pub(crate) mod identity;
mod layers;
mod writable;

use std::fmt;
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use usnap_format::OriginIdentity;

use crate::device::{
    Attempt, BlockDevice, Extent, FileDevice, ZeroFlags, check_range, share_with_qemu,
};
use crate::error::{Error, ErrorKind, Result};

use self::layers::Layer;
pub use self::writable::WritableOrigin;

/// An origin: read-only, of a size fixed when it is opened.
pub struct Origin {
    content: Content,
    size_bytes: u64,
    /// The extent that was found last, whole. An origin does not change, and finding an extent
    /// can take a walk over the file, so those who go through it in small steps pay for it once.
    last_extent: Mutex<Option<(Range<u64>, Extent)>>,
}

/// Where an origin's bytes come from.
enum Content {
    File(FileDevice),
    Layer(Box<Layer>),
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
        Ok(Self::of(Content::File(device), size_bytes))
    }

    fn of(content: Content, size_bytes: u64) -> Self {
        Self {
            content,
            size_bytes,
            last_extent: Mutex::default(),
        }
    }

    /// What this origin is recognised by. Reads about a mebibyte of it.
    ///
    /// # Errors
    /// `Io`.
    pub fn identity(&self) -> Result<OriginIdentity> {
        match &self.content {
            Content::File(device) => identity::of(device, self.size_bytes),
            Content::Layer(layer) => layer.identity(self.size_bytes),
        }
    }

    /// Whether `path` names this origin's file or block device, or that of a layer.
    pub(crate) fn is_same_file(&self, path: &Path) -> bool {
        match &self.content {
            Content::File(device) => is_same_file(device, path),
            Content::Layer(layer) => layer.is_same_file(path),
        }
    }

    fn device(&self) -> &dyn BlockDevice {
        match &self.content {
            Content::File(device) => device,
            Content::Layer(layer) => layer.device(),
        }
    }
}

/// Whether `path` names the file or block device that `ours` is of.
pub(crate) fn is_known(ours: &Metadata, path: &Path) -> bool {
    let Ok(theirs) = std::fs::metadata(path) else {
        return false;
    };
    let same_device = ours.file_type().is_block_device()
        && theirs.file_type().is_block_device()
        && ours.rdev() == theirs.rdev();
    same_device || (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())
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
    let ours = device.file().metadata();
    ours.is_ok_and(|ours| is_known(&ours, path))
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

    /// Whether there are layers over its file.
    fn has_layers(&self) -> bool {
        false
    }
}

impl Identify for Origin {
    fn identify(&self) -> Result<OriginIdentity> {
        self.identity()
    }

    fn is_at(&self, path: &Path) -> bool {
        self.is_same_file(path)
    }

    fn has_layers(&self) -> bool {
        matches!(self.content, Content::Layer(_))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("name", &self.name())
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

impl BlockDevice for Origin {
    #[inline]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn name(&self) -> &str {
        match &self.content {
            Content::File(device) => device.name(),
            Content::Layer(layer) => layer.name(),
        }
    }

    #[inline]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match &self.content {
            Content::File(device) => device.read_at(buf, offset),
            Content::Layer(layer) => layer.device().read_at(buf, offset),
        }
    }

    #[inline]
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        match &self.content {
            Content::File(device) => device.try_read_at(buf, offset),
            Content::Layer(layer) => layer.device().try_read_at(buf, offset),
        }
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
        check_range(self.name(), self.size_bytes, offset, len)?;
        let known = self
            .last_extent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (range, extent) = match known {
            Some((range, extent)) if range.contains(&offset) => (range, extent),
            _ => {
                let extent = self.device().extent_at(offset, self.size_bytes - offset)?;
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
            format!("cannot change origin {}", self.name()),
        )
    }
}
