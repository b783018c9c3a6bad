//! Our side: the engine on files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use usnap_engine::device::{BlockDevice as _, FileDevice};
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::store::initialise;
use usnap_engine::{Discard, Durability, Error, ErrorKind, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;
use usnap_test_support::Scratch;

use crate::SECTOR;
use crate::history::{Shape, Store};
use crate::play::{Device, Side};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Origin and COW file, in a directory of their own.
pub(crate) struct Files {
    directory: Scratch,
}

impl Files {
    /// The origin, and no COW file yet.
    pub(crate) fn new(root: &Path, shape: &Shape) -> Result<Self> {
        let directory = Scratch::new(root, "ours")?;
        fs::write(directory.join("origin"), shape.origin_content())?;
        Ok(Self { directory })
    }

    /// With a store that is there already.
    pub(crate) fn with_store(root: &Path, shape: &Shape, cow: &[u8]) -> Result<Self> {
        let files = Self::new(root, shape)?;
        fs::write(files.cow(), cow)?;
        Ok(files)
    }

    /// With an empty store of the shape's kind.
    pub(crate) fn create(root: &Path, shape: &Shape) -> Result<Self> {
        let files = Self::new(root, shape)?;
        let chunk_size = ChunkSize::from_bytes(shape.chunk * SECTOR).map_err(|e| anyhow!("{e}"))?;
        if shape.store == Store::OverGarbage {
            fs::write(files.cow(), shape.unused_cow())?;
            initialise(
                &FileDevice::open_read_write(&files.cow())?,
                chunk_size,
                None,
            )?;
        } else {
            let options = CreateOptions {
                size_bytes: shape.cow * SECTOR,
                chunk_size,
                label: String::new(),
                origin: None,
                identity: shape.store == Store::Identity,
            };
            create(&files.cow(), &options)?;
        }
        Ok(files)
    }

    pub(crate) fn origin(&self) -> PathBuf {
        self.directory.join("origin")
    }

    pub(crate) fn cow(&self) -> PathBuf {
        self.directory.join("cow")
    }

    /// A directory for a socket.
    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }
}

/// The engine, called directly.
pub(crate) struct Ours {
    files: Files,
    options: SnapshotOptions,
    snapshot: Option<Snapshot>,
}

impl Ours {
    pub(crate) fn new(files: Files, shape: &Shape, durability: Durability) -> Self {
        let options = SnapshotOptions {
            durability,
            discard: if shape.discards {
                Discard::Zeroes
            } else {
                Discard::default()
            },
            ..SnapshotOptions::default()
        };
        Self {
            files,
            options,
            snapshot: None,
        }
    }

    fn active(&self) -> Result<&Snapshot> {
        self.snapshot.as_ref().context("it is not active")
    }
}

fn errno(result: usnap_engine::Result<()>) -> Result<i32> {
    match result.as_ref().map_err(Error::kind) {
        Ok(()) => Ok(0),
        Err(ErrorKind::NoSpace) => Ok(ENOSPC),
        Err(ErrorKind::Io) => Ok(EIO),
        Err(_) => Err(result.err().context("an error without one")?.into()),
    }
}

impl Device for Ours {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<i32> {
        errno(self.active()?.write_at(data, offset))
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Result<Vec<u8>, i32>> {
        let mut found = vec![0; len];
        let errno = errno(self.active()?.read_at(&mut found, offset))?;
        Ok(if errno == 0 { Ok(found) } else { Err(errno) })
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<i32> {
        errno(self.active()?.discard_at(offset, len))
    }

    fn flush(&mut self) -> Result<i32> {
        errno(self.active()?.flush())
    }
}

impl Side for Ours {
    fn activate(&mut self) -> Result<()> {
        let origin = Arc::new(Origin::open(&self.files.origin())?);
        let (snapshot, _notes) = Snapshot::open(&origin, &self.files.cow(), &self.options)?;
        self.snapshot = Some(snapshot);
        Ok(())
    }

    fn deactivate(&mut self) -> Result<()> {
        let snapshot = self.snapshot.take().context("it is not active")?;
        Ok(snapshot.close()?)
    }

    fn status(&mut self) -> Result<String> {
        Ok(self.active()?.status().to_string())
    }

    fn cow(&self) -> Result<Vec<u8>> {
        fs::read(self.files.cow()).context("no COW file")
    }
}
