//! A folder with an origin and a COW file.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{Error, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

pub(crate) const CHUNK: usize = 4096;
pub(crate) const ORIGIN_CHUNKS: usize = 64;

pub(crate) struct Bench {
    pub(crate) folder: TempDir,
}

/// A file's content and the times that a change of it would move.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    checksum: Vec<u8>,
    len: u64,
    mtime: (i64, i64),
}

impl Bench {
    /// An origin of 64 chunks of 4 KiB, each filled with its number, and no COW file.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Self { folder };
        std::fs::write(bench.origin_path(), origin_content()).unwrap();
        bench
    }

    /// And this COW file.
    pub(crate) fn with_cow(bytes: &[u8]) -> Self {
        let bench = Self::new();
        std::fs::write(bench.cow_path(), bytes).unwrap();
        bench
    }

    /// And a COW file as `create` makes it.
    pub(crate) fn with_created(options: &CreateOptions) -> Self {
        let bench = Self::new();
        create(&bench.cow_path(), options).unwrap();
        bench
    }

    pub(crate) fn origin_path(&self) -> PathBuf {
        self.folder.path().join("origin")
    }

    pub(crate) fn cow_path(&self) -> PathBuf {
        self.folder.path().join("cow")
    }

    pub(crate) fn cow(&self) -> Vec<u8> {
        std::fs::read(self.cow_path()).unwrap()
    }

    pub(crate) fn origin(&self) -> Arc<Origin> {
        Arc::new(Origin::open(&self.origin_path()).unwrap())
    }

    pub(crate) fn open(&self) -> Result<(Snapshot, Vec<String>)> {
        self.open_with(&SnapshotOptions::default())
    }

    pub(crate) fn open_with(&self, options: &SnapshotOptions) -> Result<(Snapshot, Vec<String>)> {
        Snapshot::open(&self.origin(), &self.cow_path(), options)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let metadata = std::fs::metadata(self.cow_path()).unwrap();
        Fingerprint {
            checksum: Sha256::digest(self.cow()).to_vec(),
            len: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

pub(crate) fn origin_content() -> Vec<u8> {
    (0..ORIGIN_CHUNKS)
        .flat_map(|chunk| [u8::try_from(chunk + 100).unwrap(); CHUNK])
        .collect()
}

pub(crate) fn create_options(chunks: usize) -> CreateOptions {
    CreateOptions {
        size_bytes: (chunks * CHUNK) as u64,
        chunk_size: ChunkSize::from_bytes(CHUNK as u64).unwrap(),
        label: String::new(),
        origin: None,
        identity: true,
    }
}

pub(crate) fn read_only() -> SnapshotOptions {
    SnapshotOptions {
        read_only: true,
        ..SnapshotOptions::default()
    }
}

/// The error and everything below it, as a person gets to see it.
pub(crate) fn whole_message(error: &Error) -> String {
    format!("{error:?} (hint: {})", error.hint().unwrap_or("none"))
}
