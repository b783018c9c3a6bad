//! Where a suite works: the built program and a directory for files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::scratch::Scratch;
use crate::server::Serve;
use crate::tool::Tool;

/// The program under test and the directory for the suite's files. Each test binary makes one from
/// what cargo tells only to test binaries.
#[derive(Clone, Copy, Debug)]
pub struct Lab {
    program: &'static str,
    root: &'static str,
}

impl Lab {
    /// A lab for `program`, with files below `root`.
    #[must_use]
    pub const fn new(program: &'static str, root: &'static str) -> Self {
        Self { program, root }
    }

    /// The program.
    #[must_use]
    pub fn program(self) -> &'static str {
        self.program
    }

    /// Where the suite's files go, those kept for later runs included.
    #[must_use]
    pub fn root(self) -> &'static Path {
        Path::new(self.root)
    }

    /// A directory for one test.
    ///
    /// # Errors
    /// It can't be made.
    pub fn scratch(self, name: &str) -> Result<Scratch> {
        Scratch::new(self.root(), name)
    }

    /// A call of the program.
    #[must_use]
    pub fn usnap(self, args: &[&str]) -> Tool {
        Tool::new(Path::new(self.program)).args(args)
    }

    /// A server for `origin`, not started yet.
    ///
    /// # Errors
    /// The directory for its socket can't be made.
    pub fn serve(self, origin: &Path) -> Result<Serve> {
        Serve::new(Path::new(self.program), self.root(), origin)
    }

    /// A server for `origin` that is written to, with its snapshots, not started yet.
    ///
    /// # Errors
    /// The directory for its socket can't be made.
    pub fn serve_origin(self, origin: &Path) -> Result<Serve> {
        Serve::origin(Path::new(self.program), self.root(), origin)
    }

    /// The first line of `usnap status COW`.
    ///
    /// # Errors
    /// The call fails.
    pub fn status_line(self, cow: &Path) -> Result<String> {
        let said = self.usnap(&["status", text(cow)?]).ok()?;
        Ok(said
            .lines()
            .next()
            .context("usnap status said nothing")?
            .to_owned())
    }

    /// Expects `usnap check COW` to find nothing.
    ///
    /// # Errors
    /// It finds damage or could not check.
    pub fn check_is_clean(self, cow: &Path) -> Result<()> {
        self.usnap(&["check", text(cow)?]).ok().map(drop)
    }
}

/// The path as text: other programs' options and URIs need it so.
///
/// # Errors
/// It is no UTF-8.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is no UTF-8", path.display()))
}

/// The SHA-256 of a file.
///
/// # Errors
/// The file can't be read.
pub fn sha256(path: &Path) -> Result<String> {
    let said = Tool::new("sha256sum").arg("--").arg(path).ok()?;
    let digest = said
        .split_whitespace()
        .next()
        .context("sha256sum said nothing")?;
    ensure!(digest.len() == 64, "sha256sum said {said}");
    Ok(digest.to_owned())
}

/// The SHA-256 of some bytes.
///
/// # Errors
/// `sha256sum` fails.
pub fn sha256_of_bytes(bytes: &[u8]) -> Result<String> {
    let said = Tool::new("sha256sum").input(bytes).ok()?;
    Ok(said
        .split_whitespace()
        .next()
        .context("sha256sum said nothing")?
        .to_owned())
}

/// A file that must not change: its content's digest, to be compared later.
pub struct Untouched {
    path: PathBuf,
    digest: String,
}

impl Untouched {
    /// Notes what `path` holds now.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn note(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            digest: sha256(path)?,
        })
    }

    /// The content's SHA-256.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Expects the file to hold what it held.
    ///
    /// # Errors
    /// It holds something else.
    pub fn verify(&self) -> Result<()> {
        let now = sha256(&self.path)?;
        ensure!(now == self.digest, "{} has changed", self.path.display());
        Ok(())
    }
}

/// Writes `bytes` to a new file.
///
/// # Errors
/// The file can't be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
