//! A new file that appears whole or not at all: it has no name until it is complete and durable.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags};

use crate::device::{FileDevice, lock_cow};
use crate::error::{Error, ErrorKind, Result};

/// A file that is being made.
pub(crate) struct NewFile {
    device: FileDevice,
    path: PathBuf,
    /// It has its name already, where the filesystem can't do without.
    is_linked: bool,
    is_finished: bool,
}

impl NewFile {
    /// Begins the file at `path`, a hole of `size_bytes`.
    ///
    /// # Errors
    /// `Exists`, `NoSpace`, `ReadOnly`, `PermissionDenied`, `NotFound` (the folder), `Io`.
    pub(crate) fn make(path: &Path, size_bytes: u64) -> Result<Self> {
        let name = path.display();
        if path.symlink_metadata().is_ok() {
            let error = Error::new(
                ErrorKind::Exists,
                format!("cannot create {name}: it exists"),
            );
            return Err(
                error.with_hint("nothing was changed; choose another name or remove the file")
            );
        }
        let fail = |e: io::Error| Error::io(format!("cannot create {name}"), e);
        let (file, is_linked) = open_unlinked(&folder(path), path).map_err(fail)?;
        if is_linked {
            // It has its name already: whoever opens it now must not take it for an unused device.
            lock_cow(&file, path, true)?;
            if file.metadata().map_err(fail)?.len() != 0 {
                let context = format!("cannot create {name}: somebody else is making it");
                return Err(Error::new(ErrorKind::Exists, context));
            }
        }
        let new = Self {
            device: FileDevice::from_regular(file, name.to_string()),
            path: path.to_owned(),
            is_linked,
            is_finished: false,
        };
        new.set_size(size_bytes)?;
        Ok(new)
    }

    /// What is written to.
    pub(crate) fn device(&self) -> &FileDevice {
        &self.device
    }

    /// Makes it so long, or so short.
    ///
    /// # Errors
    /// `NoSpace` (it is longer than a file can be), `Io`.
    pub(crate) fn set_size(&self, size_bytes: u64) -> Result<()> {
        let set = self.device.file().set_len(size_bytes);
        set.map_err(|e| Error::io(format!("cannot create {}", self.path.display()), e))
    }

    /// Gives it its name, durably.
    ///
    /// # Errors
    /// `Exists` where somebody else took the name meanwhile, `NoSpace`, `Io`.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.sync_and_link()
            .map_err(|e| Error::io(format!("cannot create {}", self.path.display()), e))?;
        self.is_finished = true;
        Ok(())
    }

    fn sync_and_link(&mut self) -> io::Result<()> {
        self.device.file().sync_all()?;
        if !self.is_linked {
            link(self.device.file(), &self.path)?;
            self.is_linked = true;
        }
        File::open(folder(&self.path))?.sync_all()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.is_linked && !self.is_finished {
            let _best_effort = std::fs::remove_file(&self.path);
        }
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    }
}

/// A new file without a name, or, where the filesystem can't do that, with the final name; and
/// whether it has one.
fn open_unlinked(directory: &Path, path: &Path) -> io::Result<(File, bool)> {
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

fn link(file: &File, path: &Path) -> io::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(
        CWD,
        unnamed,
        CWD,
        path,
        AtFlags::SYMLINK_FOLLOW,
    )?)
}
