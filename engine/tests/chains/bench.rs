//! A folder with an origin and COW files over it, each made by writing through a snapshot, and what
//! each of them must show.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use usnap_engine::device::BlockDevice;
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create, default_size_bytes};
use usnap_engine::{Error, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

/// Numbers that depend on the seed alone (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 8) % end as u64).unwrap()
    }

    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| u8::try_from(self.below(256)).unwrap())
            .collect()
    }
}

pub(crate) struct Chain {
    pub(crate) folder: TempDir,
    pub(crate) layers: Vec<PathBuf>,
    /// What the origin, and each layer over it, shows.
    pub(crate) shown: Vec<Vec<u8>>,
}

impl Chain {
    pub(crate) fn new(origin: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("origin"), origin).unwrap();
        Self {
            folder,
            layers: Vec::new(),
            shown: vec![origin.to_vec()],
        }
    }

    /// An origin of odd size with holes, and `depth` COW files of random chunk sizes over it.
    pub(crate) fn random(random: &mut Random, depth: usize) -> Self {
        let mut origin = vec![0; 1 + random.below(300_000)];
        for _ in 0..random.below(12) {
            let (at, len) = range(random, origin.len(), 30_000);
            let bytes = random.bytes(len);
            origin[at..at + len].copy_from_slice(&bytes);
        }
        let mut chain = Self::new(&origin);
        for _ in 0..depth {
            let chunk_bytes = random.one(&[512, 1024, 4096, 16_384, 65_536]);
            let writes: Vec<(usize, Vec<u8>)> = (0..random.below(12))
                .map(|_| {
                    let (at, len) = range(random, origin.len(), 20_000);
                    let bytes = match random.below(4) {
                        0 => vec![0; len],
                        _ => random.bytes(len),
                    };
                    (at, bytes)
                })
                .collect();
            chain.push(chunk_bytes, &writes);
        }
        chain
    }

    pub(crate) fn origin_path(&self) -> PathBuf {
        self.folder.path().join("origin")
    }

    pub(crate) fn cow_path(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{index}.cow"))
    }

    /// A new COW file over all that there is.
    pub(crate) fn create(&self, chunk_bytes: u64) -> PathBuf {
        let chunk_size = ChunkSize::from_bytes(chunk_bytes).unwrap();
        let origin = self.origin(&self.layers).unwrap();
        let path = self.cow_path(self.layers.len());
        let options = CreateOptions {
            size_bytes: default_size_bytes(self.shown[0].len() as u64, chunk_size).unwrap(),
            chunk_size,
            label: String::new(),
            origin: Some(origin.identity().unwrap()),
            identity: true,
        };
        create(&path, &options).unwrap();
        path
    }

    /// A new COW file on top, with these writes in it; closed, and a layer from then on.
    pub(crate) fn push(&mut self, chunk_bytes: u64, writes: &[(usize, Vec<u8>)]) {
        let path = self.create(chunk_bytes);
        let (snapshot, notes) = self
            .open(&self.layers, &path, &SnapshotOptions::default())
            .unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let mut shown = self.shown.last().unwrap().clone();
        for (at, bytes) in writes {
            snapshot.write_at(bytes, *at as u64).unwrap();
            shown[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        snapshot.close().unwrap();
        self.layers.push(path);
        self.shown.push(shown);
    }

    pub(crate) fn origin(&self, layers: &[PathBuf]) -> Result<Arc<Origin>> {
        let (origin, notes) = Origin::open_with_layers(&self.origin_path(), layers, false)?;
        assert!(notes.is_empty(), "{notes:?}");
        Ok(Arc::new(origin))
    }

    pub(crate) fn open(
        &self,
        layers: &[PathBuf],
        cow: &std::path::Path,
        options: &SnapshotOptions,
    ) -> Result<(Snapshot, Vec<String>)> {
        Snapshot::open(&self.origin(layers)?, cow, options)
    }
}

/// A range inside `size` bytes, not empty, of `max_len` bytes at the most.
pub(crate) fn range(random: &mut Random, size: usize, max_len: usize) -> (usize, usize) {
    let at = random.below(size);
    (at, 1 + random.below(max_len.min(size - at)))
}

pub(crate) fn read_all(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(device.size_bytes()).unwrap()];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The error and everything below it, as a person gets to see it.
pub(crate) fn whole_message(error: &Error) -> String {
    format!("{error:?} (hint: {})", error.hint().unwrap_or("none"))
}
