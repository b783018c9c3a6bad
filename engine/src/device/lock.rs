//! Who may use a file. The COW device is locked whole with an open-file-description lock; the
//! origin is shared by qemu's convention, so that no virtual machine writes to it meanwhile, or
//! locked whole where we write to it.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, ErrorKind, Result};

/// qemu's image locks are single bytes of the image file: the first for a permission held, the
/// second for a permission that others must not hold (qemu, block/file-posix.c).
const QEMU_HELD: i64 = 100;
const QEMU_UNSHARED: i64 = 200;
/// The numbers of qemu's permissions that matter to a reader.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Locks the COW device for this open file: exclusively, or shared for reading.
///
/// # Errors
/// `InUse`, naming the holder where it can be found; `Io` where the filesystem has no locks.
pub(crate) fn lock_cow(file: &File, path: &Path, exclusive: bool) -> Result<()> {
    let kind = if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, 0, 0))) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let who = find_holder(file, None).unwrap_or_else(|| "another process".to_owned());
            let context = format!(
                "cannot use COW device {}: it is in use by {who}",
                path.display()
            );
            Err(Error::new(ErrorKind::InUse, context)
                .with_hint("a COW device has one user at a time; stop that one first"))
        }
        Err(e) => Err(Error::io(
            format!("cannot lock COW device {}", path.display()),
            std::io::Error::from(e),
        )
        .with_hint("the COW device must lie on a filesystem with open-file-description locks")),
    }
}

/// Declares this file read and not to be written, in qemu's terms, after finding no writer.
///
/// # Errors
/// `InUse` where a qemu process has the image open for writing. A filesystem without locks is no
/// error: the image is only read.
pub(crate) fn share_with_qemu(file: &File, path: &Path) -> Result<()> {
    for byte in [
        QEMU_HELD + CONSISTENT_READ,
        QEMU_UNSHARED + WRITE,
        QEMU_UNSHARED + RESIZE,
    ] {
        // Shared locks: only a writer's test sees them.
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, byte, 1))) {
            Ok(_) => {}
            // Locked exclusively: it is somebody's COW device.
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(written_by_another(file, path)),
            Err(_no_locks_there) => return Ok(()),
        }
    }
    for byte in [
        QEMU_HELD + WRITE,
        QEMU_HELD + RESIZE,
        QEMU_UNSHARED + CONSISTENT_READ,
    ] {
        let mut found = range(libc::F_WRLCK, byte, 1);
        let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut found));
        if asked.is_ok() && i32::from(found.l_type) != libc::F_UNLCK {
            return Err(written_by_another(file, path));
        }
    }
    Ok(())
}

/// Locks an origin that is written to, whole and exclusively, so that nobody reads or writes it
/// meanwhile: a server's or a virtual machine's bytes lie in the range, and so does a COW device's.
///
/// # Errors
/// `InUse`, naming the holder where it can be found; `Io` where the filesystem has no locks.
pub(crate) fn lock_origin_to_write(file: &File, path: &Path) -> Result<()> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 0, 0))) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let who = find_holder(file, None).unwrap_or_else(|| "another process".to_owned());
            let context = format!("cannot write to origin {}: {who} uses it", path.display());
            Err(Error::new(ErrorKind::InUse, context)
                .with_hint("nobody may be using an origin that changes; stop that one first"))
        }
        Err(e) => Err(Error::io(
            format!("cannot lock origin {}", path.display()),
            std::io::Error::from(e),
        )
        .with_hint("it must lie on a filesystem with open-file-description locks")),
    }
}

#[cold]
fn written_by_another(file: &File, path: &Path) -> Error {
    // This process holds locks on it too by now, as a reader.
    let who =
        find_holder(file, Some(std::process::id())).unwrap_or_else(|| "another process".to_owned());
    let context = format!(
        "cannot use origin {}: {who} has it open for writing",
        path.display()
    );
    Error::new(ErrorKind::InUse, context)
        .with_hint("an origin must not change while it is served; stop the writer first")
}

/// Who has the COW device at `path` locked: `pid N (command)`, or `another process` where it is not
/// ours to know. `None` where nobody has, or where that can't be seen.
#[must_use]
pub fn holder(path: &Path) -> Option<String> {
    let file_type = std::fs::metadata(path).ok()?.file_type();
    if !file_type.is_file() && !file_type.is_block_device() {
        return None;
    }
    let file = File::open(path).ok()?;
    let mut found = range(libc::F_WRLCK, 0, 0);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found)).ok()?;
    if i32::from(found.l_type) == libc::F_UNLCK {
        return None;
    }
    Some(find_holder(&file, None).unwrap_or_else(|| "another process".to_owned()))
}

fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: 0,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

/// The process that holds an open-file-description lock on the same file, as `pid N (command)`.
/// Such locks have no owner on record, so every process that may be looked at is searched, all
/// but `except`.
fn find_holder(file: &File, except: Option<u32>) -> Option<String> {
    let wanted = file.metadata().ok()?;
    let own_pid = std::process::id();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if Some(pid) == except {
            continue;
        }
        let Ok(fds) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for fd in fds.flatten() {
            let Ok(found) = std::fs::metadata(fd.path()) else {
                continue;
            };
            if (found.dev(), found.ino()) != (wanted.dev(), wanted.ino()) {
                continue;
            }
            let info = process.path().join("fdinfo").join(fd.file_name());
            let locked = std::fs::read_to_string(info).is_ok_and(|info| {
                info.lines()
                    .any(|line| line.starts_with("lock:") && line.contains("OFDLCK"))
            });
            if locked {
                let command = std::fs::read_to_string(process.path().join("comm"));
                let command = command.as_deref().map_or("?", str::trim);
                let this = if pid == own_pid { ", this process" } else { "" };
                return Some(format!("pid {pid} ({command}{this})"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{holder, lock_cow, share_with_qemu};
    use crate::error::ErrorKind;

    #[test]
    fn a_second_open_file_is_refused_and_the_holder_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = file.reopen().unwrap();
        lock_cow(&first, file.path(), true).unwrap();
        let second = file.reopen().unwrap();
        let error = lock_cow(&second, file.path(), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(
            error
                .to_string()
                .contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        drop(first);
        lock_cow(&second, file.path(), true).unwrap();
    }

    #[test]
    fn the_holder_is_found_by_the_path_while_it_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(holder(file.path()), None);
        let locked = file.reopen().unwrap();
        for exclusive in [true, false] {
            lock_cow(&locked, file.path(), exclusive).unwrap();
            let who = holder(file.path()).unwrap();
            let pid = format!("pid {} (", std::process::id());
            assert!(who.starts_with(&pid), "{who}");
        }
        drop(locked);
        assert_eq!(holder(file.path()), None);
        assert_eq!(holder(std::path::Path::new("/dev/null")), None);
    }

    #[test]
    fn a_writer_by_qemus_convention_is_refused_and_readers_share() {
        use nix::fcntl::{FcntlArg, fcntl};
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = file.reopen().unwrap();
        share_with_qemu(&reader, file.path()).unwrap();
        let other_reader = file.reopen().unwrap();
        share_with_qemu(&other_reader, file.path()).unwrap();
        let writer = file.reopen().unwrap();
        let held = super::range(nix::libc::F_RDLCK, super::QEMU_HELD + super::WRITE, 1);
        fcntl(&writer, FcntlArg::F_OFD_SETLK(&held)).unwrap();
        let third = file.reopen().unwrap();
        let error = share_with_qemu(&third, file.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
    }
}
