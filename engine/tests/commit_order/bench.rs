//! A snapshot over a recorder.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::{Snapshot, SnapshotOptions};

use crate::recorder::Recorder;
use crate::stores::{first_exceptions, image};
use crate::story::story;

const ORIGIN_CHUNKS: usize = 400;

pub(crate) struct Bench {
    pub(crate) chunk_len: usize,
    pub(crate) device: Recorder,
    pub(crate) snapshot: Snapshot,
}

impl Bench {
    /// A snapshot over this store; what opening does is in the log.
    pub(crate) fn open(chunk_len: usize, image: &[u8]) -> Self {
        Self::open_with(chunk_len, image, &SnapshotOptions::default())
    }

    pub(crate) fn open_with(chunk_len: usize, image: &[u8], options: &SnapshotOptions) -> Self {
        let device = Recorder::new(image);
        let origin = Arc::new(MemDevice::new((ORIGIN_CHUNKS * chunk_len) as u64));
        let snapshot = Snapshot::on_devices(origin, device.device.clone(), options).unwrap();
        Self {
            chunk_len,
            device,
            snapshot,
        }
    }

    /// A store with so many committed exceptions, for old chunks 0, 1, ..., opened and flushed.
    pub(crate) fn with_exceptions(chunk_len: usize, count: u64) -> Self {
        let exceptions = first_exceptions(chunk_len, count);
        let bench = Self::open(chunk_len, &image(chunk_len, 420, &exceptions));
        bench.snapshot.flush().unwrap();
        bench.story();
        bench
    }

    /// Writes whole chunks.
    pub(crate) fn write(&self, first: usize, count: usize) {
        let data = vec![7; count * self.chunk_len];
        let offset = (first * self.chunk_len) as u64;
        self.snapshot.write_at(&data, offset).unwrap();
    }

    /// What was done since the last time this was asked.
    pub(crate) fn story(&self) -> Vec<String> {
        story(&self.device.take_log(), self.chunk_len)
    }

    pub(crate) fn story_of_flush(&self) -> Vec<String> {
        self.story();
        self.snapshot.flush().unwrap();
        self.story()
    }
}
