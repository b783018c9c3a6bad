//! The files that the operations are done on.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use usnap_engine::device::BlockDevice as _;
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create, default_size_bytes};
use usnap_engine::{Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Rng, Scratch};

use crate::job::{CHUNK, CHUNK_LEN, Job};

/// Seeds of the image's bytes and of the order of operations.
const IMAGE_SEED: u64 = 1;
const ORDER_SEED: u64 = 2;

/// An image and a COW file.
pub(crate) struct Files {
    pub(crate) origin: PathBuf,
    pub(crate) cow: PathBuf,
}

impl Files {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Self {
            origin: scratch.join("origin.img"),
            cow: scratch.join("c.cow"),
        }
    }

    /// Makes them as `job` wants to find them.
    pub(crate) fn make(&self, job: Job) -> Result<()> {
        random_file(&self.origin, job.image_bytes(), IMAGE_SEED)?;
        if self.cow.exists() {
            std::fs::remove_file(&self.cow).context("cannot remove the COW file")?;
        }
        let chunk_size = ChunkSize::from_bytes(CHUNK)?;
        let options = CreateOptions {
            size_bytes: default_size_bytes(job.image_bytes(), chunk_size).context("too large")?,
            chunk_size,
            label: String::new(),
            origin: None,
            identity: true,
        };
        create(&self.cow, &options)?;
        if job.needs_mapped_chunks() {
            let snapshot = self.open()?;
            for offset in offsets(job, 2 * job.operations()) {
                snapshot.write_at(&[0x55; CHUNK_LEN], offset)?;
            }
            snapshot.close()?;
        }
        Ok(())
    }

    pub(crate) fn open(&self) -> Result<Snapshot> {
        let origin = Arc::new(Origin::open(&self.origin)?);
        let (snapshot, _notes) = Snapshot::open(&origin, &self.cow, &SnapshotOptions::default())?;
        Ok(snapshot)
    }
}

/// Where `operations` of them go: each somewhere else, as long as there is somewhere else.
pub(crate) fn offsets(job: Job, operations: u64) -> Vec<u64> {
    let block = CHUNK.max(u64::from(job.len()));
    let blocks = job.image_bytes() / block;
    let order = if job.is_sequential() {
        (0..blocks).collect()
    } else {
        Rng::new(ORDER_SEED).permutation(blocks)
    };
    (0..operations)
        .zip(order.iter().cycle())
        .map(|(_, number)| number * block)
        .collect()
}
