//! COW files: making one that appears whole or not at all, and opening one for a single user.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags};
use usnap_format::{ChunkSize, IdentityRecord, Label, Layout, MAGIC_BYTES, OriginIdentity};

use super::persistent::create::{initialise, is_unused};
use super::persistent::walk::{HeaderSector, MAX_CHUNK_BYTES, read_header};
use crate::device::{BlockDevice, FileDevice, lock_cow};
use crate::error::{Error, ErrorKind, Result};

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
    let name = path.display();
    if options.chunk_size.bytes() > MAX_CHUNK_BYTES {
        let context = format!(
            "cannot create {name}: a chunk size of {} bytes is larger than {MAX_CHUNK_BYTES}",
            options.chunk_size.bytes()
        );
        return Err(Error::new(ErrorKind::Usage, context));
    }
    let identity = identity_of(options)?;
    if std::fs::metadata(path).is_ok_and(|m| is_block(&m)) {
        return create_on_block_device(path, options, identity.as_ref());
    }
    if path.symlink_metadata().is_ok() {
        let error = Error::new(
            ErrorKind::Exists,
            format!("cannot create {name}: it exists"),
        );
        return Err(error.with_hint("nothing was changed; choose another name or remove the file"));
    }
    let fail = |e: std::io::Error| Error::io(format!("cannot create {name}"), e);
    let directory = parent(path);
    let (file, mut is_linked) = open_unlinked(&directory, path).map_err(fail)?;
    if is_linked {
        // It has its name already: whoever opens it now must not take it for an unused device.
        lock_cow(&file, path, true)?;
        if file.metadata().map_err(fail)?.len() != 0 {
            let context = format!("cannot create {name}: somebody else is making it");
            return Err(Error::new(ErrorKind::Exists, context));
        }
    }
    let made = (|| {
        file.set_len(options.size_bytes).map_err(fail)?;
        let device = FileDevice::from_regular(file, name.to_string());
        initialise(&device, options.chunk_size, identity.as_ref())?;
        device.file().sync_all().map_err(fail)?;
        if !is_linked {
            link(device.file(), path).map_err(fail)?;
            is_linked = true;
        }
        sync_directory(&directory).map_err(fail)
    })();
    if let Err(error) = made {
        if is_linked {
            let _best_effort = std::fs::remove_file(path);
        }
        return Err(error);
    }
    Ok(created(options.chunk_size, options.size_bytes))
}

fn created(chunk_size: ChunkSize, size_bytes: u64) -> Created {
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

fn refuse_if_used(device: &FileDevice) -> Result<()> {
    if is_unused(device, device.is_block())? {
        return Ok(());
    }
    let context = format!("cannot make a store on {}: it is not empty", device.name());
    Err(Error::new(ErrorKind::Exists, context)
        .with_hint("nothing was changed; if its content may go, zero its first MiB"))
}

fn is_block(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type())
}

fn parent(path: &Path) -> std::path::PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    }
}

/// A new file without a name, or, where the filesystem can't do that, with the final name; and
/// whether it has one.
fn open_unlinked(directory: &Path, path: &Path) -> std::io::Result<(File, bool)> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, mode) {
        Ok(fd) => {
            avoid_data_cow(&fd);
            Ok((File::from(fd), false))
        }
        Err(
            rustix::io::Errno::OPNOTSUPP
            | rustix::io::Errno::ISDIR
            | rustix::io::Errno::INVAL
            | rustix::io::Errno::NOSYS,
        ) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            Ok((File::from(rustix::fs::open(path, flags, mode)?), true))
        }
        Err(e) => Err(e.into()),
    }
}

/// On btrfs a write to a block that was written before takes a new one, and may find no space:
/// only a file without data checksums is written in place (DESIGN.md, "Full"). Elsewhere, or
/// where it can't be had, nothing is lost.
fn avoid_data_cow(fd: &impl AsFd) {
    const BTRFS_MAGIC: u64 = 0x9123_683e;
    let on_btrfs = rustix::fs::fstatfs(fd).is_ok_and(|fs| fs.f_type.cast_unsigned() == BTRFS_MAGIC);
    if on_btrfs && let Ok(flags) = rustix::fs::ioctl_getflags(fd) {
        let _best_effort = rustix::fs::ioctl_setflags(fd, flags | IFlags::NOCOW);
    }
}

fn link(file: &File, path: &Path) -> std::io::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(
        CWD,
        unnamed,
        CWD,
        path,
        AtFlags::SYMLINK_FOLLOW,
    )?)
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
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
                     go, zero all of it, or name a file that does not exist",
                ));
            }
            None
        }
    };
    if sector.is_some_and(|sector| !sector.header.is_valid()) {
        let context = format!("{}: it was invalidated (valid = 0)", cannot());
        return Err(Error::new(ErrorKind::InvalidStore, context).with_hint(
            "a kernel does this when its COW device runs full or fails; the data may be whole: \
             `usnap repair --revalidate --dry-run` shows what can be done",
        ));
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
