//! An origin and a store over it, in memory, with a hook in each call.

use std::sync::{Arc, OnceLock};

use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::merge::{OnlineMerge, OnlineOptions, serve_device};
use usnap_engine::store::initialise;
use usnap_engine::{Result, Snapshot, SnapshotOptions};
use usnap_format::{ChunkSize, IdentityRecord};

use crate::plain_loader::load;
use crate::random::Random;

pub(crate) const SECTOR: u64 = 512;

pub(crate) fn index(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// What a device is asked, and of which one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    Flush,
}

/// Called before each call: the device's name, the call, and where it begins.
type Hook = Box<dyn Fn(&'static str, Call, u64) -> Result<()> + Send + Sync>;

/// A device with a hook, which may be put in later.
pub(crate) struct Hooked {
    below: Arc<dyn BlockDevice>,
    name: &'static str,
    hook: Arc<OnceLock<Hook>>,
}

impl Hooked {
    pub(crate) fn new(
        name: &'static str,
        below: Arc<dyn BlockDevice>,
        hook: &Arc<OnceLock<Hook>>,
    ) -> Arc<Self> {
        let hook = Arc::clone(hook);
        Arc::new(Self { below, name, hook })
    }

    fn before(&self, call: Call, offset: u64) -> Result<()> {
        self.hook
            .get()
            .map_or(Ok(()), |hook| hook(self.name, call, offset))
    }
}

impl BlockDevice for Hooked {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        self.name
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.before(Call::Read, offset)?;
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.before(Call::Write, offset)?;
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.before(Call::Flush, 0)?;
        self.below.flush()
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.below.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.before(Call::Write, offset)?;
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.below.reserve_at(offset, len)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn can_zero_fast(&self) -> bool {
        self.below.can_zero_fast()
    }
}

/// What a world is made of.
pub(crate) struct Shape {
    pub(crate) chunk_bytes: u64,
    /// Chunks of the origin; the last one is a partial one.
    pub(crate) chunks: u64,
    pub(crate) seed: u64,
}

impl Shape {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.chunks * self.chunk_bytes - self.chunk_bytes.min(SECTOR) % self.chunk_bytes
    }
}

/// The bytes of both devices, and what they show together.
pub(crate) struct Images {
    pub(crate) cow: Vec<u8>,
    pub(crate) origin: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) exceptions: u64,
}

/// A sector that tells its value: no two values have one alike.
pub(crate) fn sector_of(value: u64) -> [u8; 512] {
    let mut sector = [0; 512];
    for (i, eight) in sector.chunks_mut(8).enumerate() {
        eight.copy_from_slice(&(value * 1009 + i as u64).to_le_bytes());
    }
    sector
}

/// A store with a record in which three in four chunks have an exception, in runs and scattered.
pub(crate) fn make(shape: &Shape) -> Images {
    let size_bytes = shape.size_bytes();
    let mut content = Vec::new();
    for sector in 0..size_bytes / SECTOR {
        content.extend(sector_of(1 + sector));
    }
    let origin = content.clone();
    let below = Arc::new(MemDevice::from_bytes(&origin));
    let cow = Arc::new(MemDevice::new((2 * shape.chunks + 8) * shape.chunk_bytes));
    let chunk_size = ChunkSize::from_bytes(shape.chunk_bytes).unwrap();
    initialise(&*cow, chunk_size, Some(&IdentityRecord::default())).unwrap();
    let options = SnapshotOptions::default();
    let snapshot = Snapshot::on_devices(below, cow.clone(), &options).unwrap();
    let mut random = Random::new(shape.seed);
    let wanted = shape.chunks * 3 / 4;
    let mut exceptions = 0;
    let mut value = 1_000_000;
    while exceptions < wanted {
        let first = random.below(shape.chunks);
        let count = (1 + random.below(6)).min(shape.chunks - first);
        for chunk in first..first + count {
            let at = chunk * shape.chunk_bytes;
            let len = shape.chunk_bytes.min(size_bytes - at);
            let mut data = Vec::new();
            while (data.len() as u64) < len {
                value += 1;
                data.extend(sector_of(value));
            }
            snapshot.write_at(&data, at).unwrap();
            content[index(at)..index(at + len)].copy_from_slice(&data);
        }
        exceptions = snapshot.report().exceptions.uncommitted;
    }
    snapshot.flush().unwrap();
    let cow = cow.to_bytes();
    assert_eq!(load(&cow).unwrap().exceptions.len() as u64, exceptions);
    Images {
        cow,
        origin,
        content,
        exceptions,
    }
}

/// Both devices in memory, hooked, and the merge over them.
pub(crate) struct World {
    pub(crate) cow: Arc<MemDevice>,
    pub(crate) origin: Arc<MemDevice>,
    pub(crate) hook: Arc<OnceLock<Hook>>,
    pub(crate) merge: Arc<OnlineMerge>,
}

impl World {
    pub(crate) fn new(images: &Images, batch_bytes: u64) -> Self {
        let cow = Arc::new(MemDevice::from_bytes(&images.cow));
        let origin = Arc::new(MemDevice::from_bytes(&images.origin));
        Self::over(cow.clone(), origin.clone(), cow, origin, batch_bytes)
    }

    /// The same, with devices between the memory and the merge.
    pub(crate) fn over(
        cow: Arc<MemDevice>,
        origin: Arc<MemDevice>,
        above_cow: Arc<dyn BlockDevice>,
        above_origin: Arc<dyn BlockDevice>,
        batch_bytes: u64,
    ) -> Self {
        let hook = Arc::default();
        let options = OnlineOptions {
            batch_bytes,
            ..OnlineOptions::default()
        };
        let merge = serve_device(
            Hooked::new("cow", above_cow, &hook),
            Hooked::new("origin", above_origin, &hook),
            &options,
        );
        Self {
            cow,
            origin,
            hook,
            merge: Arc::new(merge.unwrap()),
        }
    }

    /// All that clients see.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut content = vec![0; index(self.merge.size_bytes())];
        self.merge.read_at(&mut content, 0).unwrap();
        content
    }

    /// The merge is done: the origin is `content`, and the store is empty.
    pub(crate) fn assert_merged(&self, content: &[u8]) {
        assert!(self.origin.to_bytes() == content, "the origin");
        assert_eq!(load(&self.cow.to_bytes()).unwrap().exceptions, []);
    }
}
