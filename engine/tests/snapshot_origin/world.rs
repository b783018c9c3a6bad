//! An origin and its snapshots in memory, beside what they should show.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::snapshot_origin::{MemberState, SnapshotOrigin, WhenFull};
use usnap_engine::store::initialise;
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};
use usnap_format::{ChunkSize, Layout};

use crate::random::Random;
use crate::values::payload;

/// Not a whole number of any chunks.
pub(crate) const SIZE: usize = 90 * 1024 + 512;

/// The first part of a device.
struct Beginning {
    below: Arc<dyn BlockDevice>,
    size_bytes: u64,
}

impl BlockDevice for Beginning {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn name(&self) -> &str {
        "beginning"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> usnap_engine::Result<()> {
        assert!(offset + buf.len() as u64 <= self.size_bytes);
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> usnap_engine::Result<()> {
        unreachable!("a snapshot does not write to its origin")
    }

    fn flush(&self) -> usnap_engine::Result<()> {
        self.below.flush()
    }

    fn discard_at(&self, _offset: u64, _len: u64) -> usnap_engine::Result<()> {
        unreachable!("a snapshot does not write to its origin")
    }

    fn zero_at(&self, _offset: u64, _len: u64, _flags: ZeroFlags) -> usnap_engine::Result<()> {
        unreachable!("a snapshot does not write to its origin")
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> usnap_engine::Result<()> {
        unreachable!("a snapshot does not write to its origin")
    }

    fn extent_at(
        &self,
        offset: u64,
        len: u64,
    ) -> usnap_engine::Result<usnap_engine::device::Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        true
    }
}

/// A snapshot and what it should show.
pub(crate) struct Expected {
    pub(crate) name: String,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) cow: Arc<MemDevice>,
    pub(crate) content: Vec<u8>,
    /// It may run full.
    is_small: bool,
    pub(crate) is_dropped: bool,
}

/// An origin, its snapshots, and what all of them should show.
pub(crate) struct World {
    pub(crate) origin: Arc<SnapshotOrigin>,
    below: Arc<MemDevice>,
    pub(crate) content: Vec<u8>,
    pub(crate) snapshots: Vec<Expected>,
    when_full: WhenFull,
    names: u64,
    pub(crate) drops: u64,
    pub(crate) refusals: u64,
}

fn random_len(random: &mut Random, end: usize) -> usize {
    let wanted = match random.below(4) {
        0 => 1 + random.below(700),
        1 => 512 * (1 + random.below(4)),
        2 => 4096,
        _ => 1 + random.below(40_000),
    };
    usize::try_from(wanted).expect("small").min(end)
}

/// A range inside `size`, often on a border of sectors or chunks.
fn random_range(random: &mut Random, size: usize) -> (usize, usize) {
    let step = [1, 512, 4096][usize::try_from(random.below(3)).expect("small")];
    let at = usize::try_from(random.below(size as u64)).expect("small") / step * step;
    (at, random_len(random, size - at))
}

fn read_all(device: &dyn BlockDevice) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(device.size_bytes()).expect("small")];
    device.read_at(&mut content, 0).expect("it reads");
    content
}

impl World {
    pub(crate) fn new(when_full: WhenFull) -> Self {
        let content = payload(7, 0, SIZE);
        let below = Arc::new(MemDevice::from_bytes(&content));
        Self {
            origin: Arc::new(SnapshotOrigin::on_device(below.clone(), when_full)),
            below,
            content,
            snapshots: Vec::new(),
            when_full,
            names: 0,
            drops: 0,
            refusals: 0,
        }
    }

    pub(crate) fn add(&mut self, random: &mut Random) {
        let chunk_bytes = 512 << random.below(6);
        let chunk_size = ChunkSize::from_bytes(chunk_bytes).expect("a power of two");
        let is_small = random.below(3) == 0;
        let chunks = if is_small {
            4 + random.below(30)
        } else {
            let bytes = Layout::new(chunk_size).never_full_bytes(SIZE as u64);
            bytes.expect("small").div_ceil(chunk_bytes)
        };
        let cow = Arc::new(MemDevice::new(chunks * chunk_bytes));
        initialise(&*cow, chunk_size, None).expect("there is room");
        self.names += 1;
        let name = format!("s{}", self.names);
        let mut content = self.content.clone();
        let shorter = (random.below(4) == 0).then(|| {
            content.truncate(SIZE / 3);
            let size_bytes = content.len() as u64;
            let below: Arc<dyn BlockDevice> = self.below.clone();
            Arc::new(Beginning { below, size_bytes }) as Arc<dyn BlockDevice>
        });
        let options = SnapshotOptions::default();
        let added = self
            .origin
            .add_device(&name, shorter, cow.clone(), &options);
        self.snapshots.push(Expected {
            name,
            snapshot: added.expect("it opens"),
            cow,
            content,
            is_small,
            is_dropped: false,
        });
    }

    /// Takes one out; its store, opened by itself over the origin of this moment, is the snapshot.
    pub(crate) fn remove(&mut self, random: &mut Random) {
        if self.snapshots.is_empty() {
            return;
        }
        let index = random.below(self.snapshots.len() as u64);
        let gone = self
            .snapshots
            .remove(usize::try_from(index).expect("small"));
        self.origin.remove(&gone.name).expect("it is there");
        let mut byte = [0];
        let read = gone.snapshot.read_at(&mut byte, 0);
        assert_eq!(read.expect_err("it has ended").kind(), ErrorKind::Io);
        if gone.is_dropped {
            return;
        }
        let size_bytes = gone.content.len() as u64;
        let below: Arc<dyn BlockDevice> = self.below.clone();
        let origin = Arc::new(Beginning { below, size_bytes });
        let options = SnapshotOptions::default();
        let alone = Snapshot::on_devices(origin, gone.cow, &options).expect("it opens");
        assert!(read_all(&alone) == gone.content, "{} by itself", gone.name);
    }

    /// A change of the origin.
    pub(crate) fn change_origin(&mut self, random: &mut Random, stamp: u64) {
        let (offset, len) = random_range(random, SIZE);
        let (at, long) = (offset as u64, len as u64);
        let (result, new) = match random.below(8) {
            0 => {
                let no_hole = random.below(2) == 0;
                let flags = ZeroFlags {
                    no_hole,
                    fast: false,
                };
                (self.origin.zero_at(at, long, flags), vec![0; len])
            }
            1 => {
                let result = self.origin.discard_at(at, long);
                let found = read_all(&*self.below)[offset..offset + len].to_vec();
                (result, found)
            }
            _ => {
                let data = payload(stamp, offset, len);
                (self.origin.write_at(&data, at), data)
            }
        };
        match result {
            Ok(()) => self.content[offset..offset + len].copy_from_slice(&new),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
                assert_eq!(self.when_full, WhenFull::Refuse);
                assert!(self.snapshots.iter().any(|snapshot| snapshot.is_small));
                self.refusals += 1;
            }
        }
        self.see_drops();
    }

    fn see_drops(&mut self) {
        let states = self.origin.snapshots();
        assert_eq!(states.len(), self.snapshots.len());
        for (state, expected) in states.iter().zip(&mut self.snapshots) {
            assert_eq!(state.name, expected.name);
            let is_dropped = matches!(state.state, MemberState::Dropped { .. });
            if is_dropped && !expected.is_dropped {
                assert!(expected.is_small && self.when_full == WhenFull::Drop);
                expected.is_dropped = true;
                self.drops += 1;
                let mut header = [0; 8];
                expected.cow.read_at(&mut header, 0).expect("it reads");
                assert_eq!(header, *b"SnAp\0\0\0\0");
                let cow = expected.cow.clone();
                let again =
                    Snapshot::on_devices(self.below.clone(), cow, &SnapshotOptions::default());
                let error = again.err().expect("it is invalid");
                assert_eq!(error.kind(), ErrorKind::InvalidStore);
                assert_eq!(state.report.status.to_string(), "Invalid");
            }
            assert_eq!(is_dropped, expected.is_dropped, "for good");
        }
    }

    /// A change of a snapshot.
    pub(crate) fn change_snapshot(&mut self, random: &mut Random, stamp: u64) {
        if self.snapshots.is_empty() {
            return;
        }
        let index = random.below(self.snapshots.len() as u64);
        let expected = &mut self.snapshots[usize::try_from(index).expect("small")];
        let (offset, len) = random_range(random, expected.content.len());
        let (at, long) = (offset as u64, len as u64);
        let snapshot = &expected.snapshot;
        let (result, new) = match random.below(8) {
            0 => {
                let flags = ZeroFlags::default();
                (snapshot.zero_at(at, long, flags), vec![0; len])
            }
            1 => (snapshot.discard_at(at, long), vec![0; len]),
            2 => (snapshot.flush(), Vec::new()),
            _ => {
                let data = payload(stamp, offset, len);
                (snapshot.write_at(&data, at), data)
            }
        };
        if expected.is_dropped {
            assert_eq!(result.expect_err("it was dropped").kind(), ErrorKind::Io);
            return;
        }
        if let Err(error) = result {
            assert!(expected.is_small, "{error:?}");
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
        }
        // What a discard leaves, or a write that found no room, is one of two; the next look is at all.
        let found = read_all(&**snapshot);
        for (i, new) in new.iter().enumerate() {
            let here = &mut expected.content[offset + i];
            assert!(found[offset + i] == *here || found[offset + i] == *new);
            *here = found[offset + i];
        }
    }

    /// Whether everything shows what it should, by reads and by extents.
    pub(crate) fn check(&self) {
        assert!(read_all(&*self.origin) == self.content, "the origin");
        for expected in &self.snapshots {
            let mut byte = [0];
            if expected.is_dropped {
                let read = expected.snapshot.read_at(&mut byte, 0);
                assert_eq!(read.expect_err("it was dropped").kind(), ErrorKind::Io);
                continue;
            }
            let found = read_all(&*expected.snapshot);
            let differs = found
                .iter()
                .zip(&expected.content)
                .position(|(a, b)| a != b);
            assert_eq!(differs, None, "{} differs there", expected.name);
            let mut at = 0;
            while at < found.len() {
                let rest = (found.len() - at) as u64;
                let extent = expected.snapshot.extent_at(at as u64, rest);
                let extent = extent.expect("it answers");
                let len = usize::try_from(extent.len).expect("small");
                let is_zero = found[at..at + len].iter().all(|byte| *byte == 0);
                assert!(!extent.zero || is_zero, "{} at {at}", expected.name);
                at += len;
            }
        }
    }

    /// Ends in order: every store, opened by itself, is its snapshot still.
    pub(crate) fn close(mut self, random: &mut Random) {
        self.origin.close().expect("nothing fails");
        let refused = self.origin.write_at(&[1], 0);
        assert_eq!(
            refused.expect_err("it is closed").kind(),
            ErrorKind::Latched
        );
        self.check();
        while !self.snapshots.is_empty() {
            let is_last_active = self.snapshots.iter().all(|snapshot| snapshot.is_dropped);
            if is_last_active {
                break;
            }
            self.snapshots.retain(|snapshot| !snapshot.is_dropped);
            let index = random.below(self.snapshots.len() as u64);
            let gone = self
                .snapshots
                .remove(usize::try_from(index).expect("small"));
            let size_bytes = gone.content.len() as u64;
            let below: Arc<dyn BlockDevice> = self.below.clone();
            let origin = Arc::new(Beginning { below, size_bytes });
            let alone = Snapshot::on_devices(origin, gone.cow, &SnapshotOptions::default());
            let alone = alone.expect("it opens");
            assert!(read_all(&alone) == gone.content, "{} by itself", gone.name);
        }
    }
}
