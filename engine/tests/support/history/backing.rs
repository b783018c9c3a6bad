//! The two kinds of devices that histories are played on: memory and real files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create, default_size_bytes};
use usnap_engine::store::initialise;
use usnap_engine::{Durability, JournalMode, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

use super::Shape;

const PAGE: usize = 4096;

/// An origin's content: pages of a pattern, and holes.
pub(crate) fn origin_content(shape: &Shape) -> Vec<u8> {
    let len = usize::try_from(shape.origin_bytes()).expect("small");
    let mut content = vec![0; len];
    for (page, bytes) in content.chunks_mut(PAGE).enumerate() {
        if shape.origin_pages >> (page % 64) & 1 == 1 {
            for (i, byte) in bytes.iter_mut().enumerate() {
                // Never zero, and no two pages alike.
                *byte = 1 + u8::try_from((i / 7 + i * page) % 255).expect("below 255");
            }
        }
    }
    content
}

fn options(shape: &Shape) -> SnapshotOptions {
    SnapshotOptions {
        durability: if shape.every_write {
            Durability::EveryWrite
        } else {
            Durability::Flush
        },
        discard: shape.discard,
        ..SnapshotOptions::default()
    }
}

fn chunk_size(shape: &Shape) -> ChunkSize {
    ChunkSize::from_bytes(shape.chunk_bytes()).expect("a power of two")
}

/// Where origin and COW device are kept.
pub(crate) trait Backing {
    /// Opens the snapshot anew.
    fn open(&self) -> Result<Snapshot, String>;
    /// Makes the COW device this long; false if it can't be made longer.
    fn grow(&self, _size_bytes: u64) -> bool {
        false
    }
    /// Whether what was written and not committed is there again after a kill.
    fn has_journal(&self) -> bool {
        false
    }
    /// Whether discarded chunks always read as zeros.
    fn discard_zeroes(&self) -> bool {
        true
    }
    /// All of the COW device.
    fn cow(&self) -> Vec<u8>;
    /// All of the origin, as it is now.
    fn origin(&self) -> Vec<u8>;
    /// Of each sector of the origin: whether the device below says that it is zeros.
    fn origin_is_zero(&self) -> Vec<bool>;
}

fn zero_map(origin: &dyn BlockDevice) -> Vec<bool> {
    let size_bytes = origin.size_bytes();
    (0..size_bytes.div_ceil(512))
        .map(|sector| {
            let len = (size_bytes - sector * 512).min(512);
            let extent = origin.extent_at(sector * 512, len).expect("in range");
            extent.zero && extent.len == len
        })
        .collect()
}

pub(crate) struct InMemory {
    origin: Arc<MemDevice>,
    cow: Arc<MemDevice>,
    options: SnapshotOptions,
}

impl InMemory {
    pub(crate) fn new(shape: &Shape) -> Self {
        let size = usize::try_from(shape.cow_bytes()).expect("small");
        let cow = if shape.cow_garbage {
            MemDevice::from_bytes(&vec![0xee; size])
        } else {
            MemDevice::new(shape.cow_bytes())
        };
        initialise(&cow, chunk_size(shape), None).expect("two chunks and more");
        Self {
            origin: Arc::new(MemDevice::from_bytes(&origin_content(shape))),
            cow: Arc::new(cow),
            options: options(shape),
        }
    }
}

impl Backing for InMemory {
    fn open(&self) -> Result<Snapshot, String> {
        Snapshot::on_devices(self.origin.clone(), self.cow.clone(), &self.options)
            .map_err(|e| format!("{e:?}"))
    }

    fn grow(&self, size_bytes: u64) -> bool {
        self.cow.resize(size_bytes);
        true
    }

    fn cow(&self) -> Vec<u8> {
        self.cow.to_bytes()
    }

    fn origin(&self) -> Vec<u8> {
        self.origin.to_bytes()
    }

    fn origin_is_zero(&self) -> Vec<bool> {
        zero_map(&*self.origin)
    }
}

/// A snapshot whose origin and COW device are snapshots themselves, with chunks of another size.
pub(crate) struct Stacked {
    origin: Arc<Snapshot>,
    cow: Arc<Snapshot>,
    options: SnapshotOptions,
}

/// A snapshot over these bytes that never runs full.
fn layer(shape: &Shape, below: &[u8]) -> Arc<Snapshot> {
    let other = ChunkSize::from_bytes((1 << 25) / shape.chunk_bytes()).expect("a power of two");
    let size_bytes = default_size_bytes(below.len() as u64, other).expect("small");
    let cow = Arc::new(MemDevice::new(size_bytes));
    initialise(&*cow, other, None).expect("two chunks and more");
    let origin = Arc::new(MemDevice::from_bytes(below));
    let options = SnapshotOptions::default();
    Arc::new(Snapshot::on_devices(origin, cow, &options).expect("an empty store"))
}

impl Stacked {
    pub(crate) fn new(shape: &Shape) -> Self {
        let content = origin_content(shape);
        // Half of the origin's content comes from each of its own layers.
        let half = content.len() / 2;
        let mut below = content.clone();
        below[half..].fill(0x3c);
        let origin = layer(shape, &below);
        let result = origin.write_at(&content[half..], half as u64);
        result.expect("room for all");
        let size = usize::try_from(shape.cow_bytes()).expect("small");
        let garbage = if shape.cow_garbage { 0xee } else { 0 };
        let cow = layer(shape, &vec![garbage; size]);
        initialise(&*cow, chunk_size(shape), None).expect("two chunks and more");
        Self {
            origin,
            cow,
            options: options(shape),
        }
    }
}

impl Backing for Stacked {
    /// A discard does nothing to a part of a chunk below.
    fn discard_zeroes(&self) -> bool {
        false
    }

    fn open(&self) -> Result<Snapshot, String> {
        Snapshot::on_devices(self.origin.clone(), self.cow.clone(), &self.options)
            .map_err(|e| format!("{e:?}"))
    }

    fn cow(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.cow.size_bytes()).expect("small")];
        self.cow.read_at(&mut bytes, 0).expect("memory");
        // And not only in its cache: a flush above is a flush below.
        assert_eq!(self.cow.report().exceptions.uncommitted, 0);
        bytes
    }

    fn origin(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.origin.size_bytes()).expect("small")];
        self.origin.read_at(&mut bytes, 0).expect("memory");
        bytes
    }

    fn origin_is_zero(&self) -> Vec<bool> {
        zero_map(&*self.origin)
    }
}

pub(crate) struct OnFiles {
    folder: TempDir,
    /// Else the file is as a kernel makes it.
    has_record: bool,
    options: SnapshotOptions,
}

impl OnFiles {
    pub(crate) fn new(shape: &Shape) -> Self {
        let folder = tempfile::tempdir().expect("a folder for files");
        let origin = File::create(folder.path().join("origin")).expect("an origin");
        let content = origin_content(shape);
        origin.set_len(content.len() as u64).expect("room");
        for (page, bytes) in content.chunks(PAGE).enumerate() {
            if bytes[0] != 0 {
                let offset = (page * PAGE) as u64;
                origin.write_all_at(bytes, offset).expect("room");
            }
        }
        let has_record = !shape.cow_garbage;
        let create_options = CreateOptions {
            size_bytes: shape.cow_bytes(),
            chunk_size: chunk_size(shape),
            label: "model".to_owned(),
            origin: None,
            identity: has_record,
        };
        create(&folder.path().join("cow"), &create_options).expect("two chunks and more");
        Self {
            folder,
            has_record,
            options: SnapshotOptions {
                // The file is made longer by others now and then.
                journal: JournalMode::Replay,
                ..options(shape)
            },
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Backing for OnFiles {
    fn has_journal(&self) -> bool {
        self.has_record
    }

    fn open(&self) -> Result<Snapshot, String> {
        let origin = Origin::open(&self.path("origin")).map_err(|e| format!("{e:?}"))?;
        Snapshot::open(&Arc::new(origin), &self.path("cow"), &self.options)
            .map(|(snapshot, _notes)| snapshot)
            .map_err(|e| format!("{e:?}"))
    }

    fn grow(&self, size_bytes: u64) -> bool {
        let cow = OpenOptions::new().write(true).open(self.path("cow"));
        cow.and_then(|cow| cow.set_len(size_bytes)).expect("room");
        true
    }

    fn cow(&self) -> Vec<u8> {
        std::fs::read(self.path("cow")).expect("the COW file")
    }

    fn origin(&self) -> Vec<u8> {
        std::fs::read(self.path("origin")).expect("the origin")
    }

    fn origin_is_zero(&self) -> Vec<bool> {
        zero_map(&Origin::open(&self.path("origin")).expect("the origin"))
    }
}
