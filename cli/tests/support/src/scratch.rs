//! A directory of one test's own, removed at its end (kept where `USNAP_TEST_KEEP` is set).

use std::path::{Path, PathBuf};
use std::{fs, io, thread};

use anyhow::{Context, Result};

/// The directory; dereferences to its path.
pub struct Scratch {
    directory: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes a directory below `root` whose name begins with `name`.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn new(root: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(root)
            .with_context(|| format!("cannot create a directory in {}", root.display()))?;
        let path = directory.path().to_owned();
        Ok(Self {
            directory: Some(directory),
            path,
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` inside.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a sparse file of `size_bytes` inside and returns its path.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn sparse_file(&self, name: &str, size_bytes: u64) -> Result<PathBuf> {
        let path = self.join(name);
        let made = fs::File::create(&path).and_then(|file| file.set_len(size_bytes));
        made.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else {
            return;
        };
        // A failed test keeps its files, for whoever looks into it, if asked to: they can be large.
        if thread::panicking() || std::env::var_os("USNAP_TEST_KEEP").is_some() {
            let kept = directory.keep();
            drop(writeln_stderr(&format!("files kept in {}", kept.display())));
        }
    }
}

/// Prints lines that are a test's result, figures for example, even where the test passes.
///
/// # Errors
/// Standard error is gone.
pub fn say(text: &str) -> Result<()> {
    writeln_stderr(&format!("\n{text}")).context("cannot write to standard error")
}

/// Writes a line to the real standard error: the test harness captures only the print macros.
pub(crate) fn writeln_stderr(line: &str) -> io::Result<()> {
    use io::Write as _;
    io::stderr()
        .lock()
        .write_all(format!("{line}\n").as_bytes())
}
