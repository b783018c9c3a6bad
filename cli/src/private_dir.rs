//! Folders that only their owner can enter: for sockets, whose permissions some systems ignore.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use tempfile::TempDir;

/// The longest path that a unix socket can have, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// The user's runtime folder, if there is one that deserves the name.
pub(crate) fn runtime_dir() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    (path.is_absolute() && is_private(&path).unwrap_or(false)).then_some(path)
}

/// Makes a new folder, mode 0700, with a name nobody can guess, below the runtime folder or the
/// temporary one; it is removed when dropped. A socket called `name` fits in it.
pub(crate) fn create_random(name: &str) -> io::Result<TempDir> {
    create_below(runtime_dir().into_iter().chain(temporary_dirs()), name)
}

/// The same below the temporary folder, for larger files beside the socket.
pub(crate) fn create_temporary(name: &str) -> io::Result<TempDir> {
    create_below(temporary_dirs().into_iter(), name)
}

fn temporary_dirs() -> [PathBuf; 2] {
    [std::env::temp_dir(), PathBuf::from("/tmp")]
}

fn create_below(places: impl Iterator<Item = PathBuf>, name: &str) -> io::Result<TempDir> {
    let mut failure = None;
    for place in places {
        match private().tempdir_in(&place) {
            Ok(dir) if dir.path().join(name).as_os_str().len() <= MAX_SOCKET_PATH => {
                return Ok(dir);
            }
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::other("every place for it has too long a path")))
}

fn private() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder
        .prefix("usnap-")
        .permissions(PermissionsExt::from_mode(0o700));
    builder
}

/// The folders where this user's servers may have their control sockets, the preferred one first.
pub(crate) fn control_dirs() -> Vec<PathBuf> {
    let fallback = PathBuf::from(format!("/tmp/usnap-{}", geteuid().as_raw()));
    runtime_dir()
        .map(|dir| dir.join("usnap"))
        .into_iter()
        .chain([fallback])
        .collect()
}

/// Makes sure of a folder, mode 0700, that is ours.
///
/// Anyone may have made one of that name below `/tmp` before us: then it is refused.
pub(crate) fn ensure(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if is_private(path)? {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} is not a folder that only its owner can enter",
            path.display()
        ),
    ))
}

/// Whether `path` is a folder (no link to one) that is ours and closed to all others.
pub(crate) fn is_private(path: &Path) -> io::Result<bool> {
    let metadata = std::fs::symlink_metadata(path)?;
    let closed = metadata.permissions().mode() & 0o077 == 0;
    Ok(metadata.is_dir() && closed && metadata.uid() == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_folder_is_private_and_goes_away() {
        let dir = create_random("socket").unwrap();
        let path = dir.path().to_path_buf();
        assert!(is_private(&path).unwrap());
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_place_with_too_long_a_path_is_passed_over() {
        let long = tempfile::tempdir().unwrap();
        let deep = long.path().join("x".repeat(100));
        std::fs::create_dir(&deep).unwrap();
        let short = tempfile::tempdir_in("/tmp").unwrap();
        let places = [deep.clone(), short.path().to_path_buf()];
        let dir = create_below(places.into_iter(), "socket").unwrap();
        assert!(
            dir.path().starts_with(short.path()),
            "{}",
            dir.path().display()
        );
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
        assert!(create_below([deep].into_iter(), "socket").is_err());
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usnap");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(
            ensure(&path).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn a_link_to_a_private_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &path).unwrap();
        assert!(ensure(&path).is_err());
    }

    #[test]
    fn a_folder_made_by_us_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usnap");
        ensure(&path).unwrap();
        ensure(&path).unwrap();
        assert!(is_private(&path).unwrap());
    }
}
