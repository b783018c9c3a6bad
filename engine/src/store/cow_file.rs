//! COW files: making one that appears whole or not at all, and opening one for a single user.

use std::path::Path;
use std::sync::Arc;

use usnap_format::{ChunkSize, IdentityRecord, Label, Layout, MAGIC_BYTES, OriginIdentity};

use super::new_file::NewFile;
use super::persistent::create::{initialise, is_unused};
use super::persistent::walk::{HeaderSector, MAX_CHUNK_BYTES, read_header};
use crate::device::{BlockDevice, FileDevice, lock_cow};
use crate::error::{Error, ErrorKind, Result};
use crate::num::SECTOR_LEN;

/// What a new store is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Size of the COW file in bytes. Ignored for a block device, which has its own.
    pub size_bytes: u64,
    /// The chunk size.
    pub chunk_size: ChunkSize,
    /// A name for people, at most 64 bytes; may be empty.
    pub label: String,
    /// The origin it is for, where that is known already.
    pub origin: Option<OriginIdentity>,
    /// Whether an identity record is written. Without it the file is the kernel's to the byte.
    pub identity: bool,
}

/// What a person should know about a store that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Created {
    /// Size of the store in bytes.
    pub size_bytes: u64,
    /// One sentence each.
    pub warnings: Vec<String>,
}

/// The size at which a COW file for an origin of `origin_bytes` never runs full, in bytes, for the
/// kernel too. `None` if it is more than a file can be.
#[must_use]
pub fn default_size_bytes(origin_bytes: u64, chunk_size: ChunkSize) -> Option<u64> {
    Layout::new(chunk_size).never_full_bytes(origin_bytes)
}

/// Makes a store: a new sparse file, or on an unused block device. Nothing is ever overwritten,
/// and a file appears only when it is complete and durable.
///
/// # Errors
/// `Exists`, `Usage` (sizes, the label), `NoSpace`, `ReadOnly`, `PermissionDenied`, `Io`.
pub fn create(path: &Path, options: &CreateOptions) -> Result<Created> {
    refuse_large_chunks(path, options)?;
    let identity = identity_of(options)?;
    if std::fs::metadata(path).is_ok_and(|m| is_block(&m)) {
        return create_on_block_device(path, options, identity.as_ref());
    }
    let file = NewFile::make(path, options.size_bytes)?;
    initialise(file.device(), options.chunk_size, identity.as_ref())?;
    file.finish()?;
    Ok(created(options.chunk_size, options.size_bytes))
}

/// Makes an empty store of an existing file or block device, of the size that it has: one that
/// holds a store, or begins with zeros (was reset, or is to be a store). What is in it is lost.
///
/// # Errors
/// `Foreign` (it holds something else, and is left as it is), `Usage`, `InUse`, `NotFound`,
/// `NoSpace`, `ReadOnly`, `PermissionDenied`, `Io`.
pub fn create_over(path: &Path, options: &CreateOptions) -> Result<Created> {
    refuse_large_chunks(path, options)?;
    let identity = identity_of(options)?;
    let cannot = || format!("cannot make a store of {}", path.display());
    let device = FileDevice::open_read_write(path).map_err(|e| e.context(cannot()))?;
    lock_cow(device.file(), path, true)?;
    let mut sector = [0; SECTOR_LEN];
    let read = device.read_at(&mut sector, 0);
    read.map_err(|e| e.context(cannot()))?;
    if !begins_with_zeros(&device) && !sector.starts_with(&MAGIC_BYTES) {
        let context = format!("cannot make a store of {}", path.display());
        return Err(Error::new(
            ErrorKind::Foreign,
            format!("{context}: it holds something else"),
        )
        .with_hint("nothing was changed; is it the origin? The COW file is another"));
    }
    // No cut may leave an old header over an area of the new store, or the other way round.
    if options.chunk_size.whole_chunks(device.size_bytes()) >= 2 {
        device.write_at(&[0; SECTOR_LEN], 0)?;
        device.flush()?;
    }
    initialise(&device, options.chunk_size, identity.as_ref())?;
    Ok(created(options.chunk_size, device.size_bytes()))
}

/// What a person should know about a store of this size.
pub(crate) fn created(chunk_size: ChunkSize, size_bytes: u64) -> Created {
    let mut warnings = Vec::new();
    let layout = Layout::new(chunk_size);
    let device_chunks = chunk_size.whole_chunks(size_bytes);
    if layout.kernel_poisoned(device_chunks) {
        warnings.push(format!(
            "a kernel that fills this size ({device_chunks} chunks of {} bytes) invalidates the \
             whole store; one chunk less or more is safe, and usnap is not affected",
            chunk_size.bytes()
        ));
    }
    Created {
        size_bytes,
        warnings,
    }
}

fn refuse_large_chunks(path: &Path, options: &CreateOptions) -> Result<()> {
    let chunk_bytes = options.chunk_size.bytes();
    if chunk_bytes <= MAX_CHUNK_BYTES {
        return Ok(());
    }
    let context = format!(
        "cannot create {}: a chunk size of {chunk_bytes} bytes is larger than {MAX_CHUNK_BYTES}",
        path.display()
    );
    Err(Error::new(ErrorKind::Usage, context))
}

fn identity_of(options: &CreateOptions) -> Result<Option<IdentityRecord>> {
    let label = Label::new(&options.label).map_err(|e| {
        Error::from(e)
            .context("cannot use the label")
            .with_kind(ErrorKind::Usage)
    })?;
    if !options.identity {
        return Ok(None);
    }
    Ok(Some(IdentityRecord {
        origin: options.origin,
        label,
        ..IdentityRecord::default()
    }))
}

fn create_on_block_device(
    path: &Path,
    options: &CreateOptions,
    identity: Option<&IdentityRecord>,
) -> Result<Created> {
    let device = FileDevice::open_read_write(path)?;
    lock_cow(device.file(), path, true)?;
    refuse_if_used(&device)?;
    initialise(&device, options.chunk_size, identity)?;
    Ok(created(options.chunk_size, device.size_bytes()))
}

pub(crate) fn refuse_if_used(device: &FileDevice) -> Result<()> {
    if is_unused(device, device.is_block())? {
        return Ok(());
    }
    let context = format!("cannot make a store on {}: it is not empty", device.name());
    Err(Error::new(ErrorKind::Exists, context)
        .with_hint("nothing was changed; if its content may go, zero its first MiB"))
}

pub(crate) fn is_block(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type())
}

/// A COW device, opened and locked.
pub(crate) struct OpenCow {
    pub(crate) device: Arc<FileDevice>,
    /// The store on it; `None` where the device is unused and may become one.
    pub(crate) sector: Option<HeaderSector>,
    /// Its chunk size, or the one that it will have.
    pub(crate) chunk_size: ChunkSize,
    /// What a person should know of the device's size.
    pub(crate) warnings: Vec<String>,
}

impl OpenCow {
    /// Makes an empty store of an unused device.
    ///
    /// # Errors
    /// As `initialise`.
    pub(crate) fn initialise(&self) -> Result<HeaderSector> {
        let identity = IdentityRecord::default();
        initialise(&*self.device, self.chunk_size, Some(&identity))?;
        read_header(&*self.device)
    }
}

/// Whether the magic's place is zero, which to the kernel says that there is no store yet.
fn begins_with_zeros(device: &dyn BlockDevice) -> bool {
    let mut magic = [1; MAGIC_BYTES.len()];
    device.read_at(&mut magic, 0).is_ok() && magic == [0; MAGIC_BYTES.len()]
}

/// Opens a COW device for one user: locked exclusively, or shared to read it only. Nothing is
/// written. A device that is unused may become an empty store of `chunk_size_if_unused`, unless
/// it is only to be read.
///
/// # Errors
/// `InUse` naming the holder, `Foreign`, `Corrupt`, `InvalidStore`, `NotFound`, `Io`.
pub(crate) fn open(
    path: &Path,
    read_only: bool,
    chunk_size_if_unused: ChunkSize,
) -> Result<OpenCow> {
    let cannot = || format!("cannot use COW device {}", path.display());
    let file = if read_only {
        FileDevice::open_read_only(path)
    } else {
        FileDevice::open_read_write(path)
    }
    .map_err(|e| e.context(cannot()))?;
    lock_cow(file.file(), path, !read_only)?;
    let sector = match read_header(&file) {
        Ok(sector) => Some(sector),
        Err(error) => {
            let enough = chunk_size_if_unused.whole_chunks(file.size_bytes()) >= 2;
            if read_only || !enough || !begins_with_zeros(&file) {
                return Err(error);
            }
            if !is_unused(&file, file.is_block())? {
                return Err(error.with_hint(
                    "there is data behind its beginning, so nothing was made of it; if that may \
                     go (it was reset), `usnap create --force` makes it an empty COW",
                ));
            }
            None
        }
    };
    if let Some(sector) = sector.filter(|sector| !sector.header.is_valid()) {
        let context = format!("{}: it was invalidated (valid = 0)", cannot());
        let is_dropped = matches!(sector.identity, Ok(Some(record)) if record.origin_changing);
        return Err(Error::new(ErrorKind::InvalidStore, context).with_hint(if is_dropped {
            "the server of its origin dropped it, full or failed, and the origin went on without \
             it: what it did not save is lost; `usnap check` says more"
        } else {
            "a kernel does this when its COW device runs full or fails; the data may be whole: \
             `usnap repair --revalidate --dry-run` shows what can be done"
        }));
    }
    let chunk_size = sector.map_or(chunk_size_if_unused, |sector| sector.header.chunk_size);
    let Created { warnings, .. } = created(chunk_size, file.size_bytes());
    Ok(OpenCow {
        device: Arc::new(file),
        sector,
        chunk_size,
        warnings,
    })
}
