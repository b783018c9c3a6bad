//! The file with our process id: a sign to scripts that we are ready.
//!
//! It replaces nothing but what another pid file left behind: a path mistyped must not cost anybody
//! a disk image.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use crate::failure::{self, Failure};

/// Longer than any number of a process with its newline.
const MAX_BYTES: u64 = 32;

/// What is at a path that a pid file is to have.
enum Found {
    Nothing,
    /// A number on a line, with the newline.
    Number(String),
    /// What it is instead.
    Other(&'static str),
}

/// A written pid file; removed when dropped, unless it is somebody else's by then.
pub(super) struct PidFile {
    path: PathBuf,
    text: String,
}

/// Refuses a path where there is anything but a pid file.
pub(super) fn refuse_other_files(path: &Path) -> failure::Result<()> {
    find(path).map(drop)
}

impl PidFile {
    /// Writes it whole: who sees the file sees the number.
    pub(super) fn write(path: &Path) -> failure::Result<Self> {
        // Again, since something may have been made there meanwhile, by ourselves even.
        let found = find(path)?;
        Ok(Self::write_over(path, &found)?)
    }

    fn write_over(path: &Path, found: &Found) -> Result<Self> {
        let failed = || cannot_write(path);
        // Absolute, since it is removed later.
        let path = std::path::absolute(path).with_context(failed)?;
        let text = format!("{}\n", std::process::id());
        let folder = path.parent().unwrap_or(Path::new("/"));
        let file = tempfile::Builder::new()
            .permissions(PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
            .with_context(failed)?;
        std::fs::write(file.path(), &text).with_context(failed)?;
        let put = match found {
            Found::Nothing => file.persist_noclobber(&path),
            _ => file.persist(&path),
        };
        put.with_context(failed)?;
        Ok(Self { path, text })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if matches!(inspect(&self.path), Ok(Found::Number(text)) if text == self.text) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write the pid file {}", path.display())
}

/// What may be replaced at `path`, or the refusal.
fn find(path: &Path) -> failure::Result<Found> {
    match inspect(path).with_context(|| cannot_write(path))? {
        Found::Other(what) => Err(
            Failure::new(format!("{}: there is {what}", cannot_write(path))).with_hint(
                "only a file with nothing but a process id in it is replaced; choose another \
                 path, or remove what is there",
            ),
        ),
        found => Ok(found),
    }
}

/// Looks without following a link, and opens nothing but a small regular file: opening is an act
/// on some devices.
fn inspect(path: &Path) -> io::Result<Found> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    if metadata.is_symlink() {
        return Ok(Found::Other("a symbolic link"));
    }
    if metadata.is_dir() {
        return Ok(Found::Other("a folder"));
    }
    if !metadata.is_file() {
        return Ok(Found::Other("a device, pipe or socket"));
    }
    let other = Ok(Found::Other("a file that is no pid file"));
    if metadata.len() > MAX_BYTES {
        return other;
    }
    // It may have become a link or a pipe since.
    let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(careful.bits().cast_signed())
        .open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match String::from_utf8(bytes) {
        Ok(text) if is_number_line(&text) => Ok(Found::Number(text)),
        _ => other,
    }
}

fn is_number_line(text: &str) -> bool {
    text.strip_suffix('\n').is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    }) && text.len() as u64 <= MAX_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_our_pid_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn another_servers_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        std::fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_link_in_the_files_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink("moved", &path).unwrap();
        drop(file);
        assert!(path.is_symlink());
    }

    #[test]
    fn only_a_number_on_a_line_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let long = "1".repeat(40) + "\n";
        for (text, is_replaced) in [
            ("1\n", true),
            ("4194304\n", true),
            ("", false),
            ("\n", false),
            ("1", false),
            ("1\n2\n", false),
            ("-1\n", false),
            ("one\n", false),
            (&long, false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(refuse_other_files(&path).is_ok(), is_replaced, "{text:?}");
            let written = PidFile::write(&path);
            assert_eq!(written.is_ok(), is_replaced, "{text:?}");
            if !is_replaced {
                assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            }
        }
    }
}
