//! The file with our process id: a sign to scripts that we are ready.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A written pid file; removed when dropped, unless it is somebody else's by then.
pub(super) struct PidFile {
    path: PathBuf,
    text: String,
}

impl PidFile {
    /// Writes it whole: who sees the file sees the number.
    pub(super) fn write(path: &Path) -> Result<Self> {
        let failed = || format!("cannot write the pid file {}", path.display());
        // Absolute, since it is removed later.
        let path = std::path::absolute(path).with_context(failed)?;
        let text = format!("{}\n", std::process::id());
        let folder = path.parent().unwrap_or(Path::new("/"));
        let file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
            .with_context(failed)?;
        std::fs::write(file.path(), &text).with_context(failed)?;
        file.persist(&path).with_context(failed)?;
        Ok(Self { path, text })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if std::fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PidFile;

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
}
