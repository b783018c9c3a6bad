//! Discards never reach beyond the chunks that they cover whole: not to a neighbour's data, not to
//! the map. The whole COW image is compared, byte for byte, around discards of every alignment; among
//! them those at which the kernel wipes what is not its business.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::collections::HashMap;
use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::store::initialise;
use usnap_engine::{Discard, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

#[cfg(test)]
#[path = "support/plain_loader.rs"]
mod plain_loader;
#[cfg(test)]
#[path = "support/random.rs"]
mod random;

use random::Random;

const MODES: [Discard; 3] = [Discard::Punch, Discard::Zeroes, Discard::Ignore];
const SECTOR: u64 = 512;

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// A store in which most chunks are mapped, in a shuffled order, and none is zeros.
struct Bench {
    chunk_bytes: u64,
    /// Of old chunks that have one: the new chunk.
    map: HashMap<u64, u64>,
    cow: Arc<MemDevice>,
    snapshot: Snapshot,
    origin: Vec<u8>,
    content: Vec<u8>,
}

fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let byte = |_| 1 + u8::try_from(random.below(255)).unwrap();
    (0..len).map(byte).collect()
}

impl Bench {
    fn new(chunk_bytes: u64, chunks: u64, discard: Discard) -> Self {
        // The last chunk is a partial one.
        let size_bytes = chunks * chunk_bytes - chunk_bytes / 2;
        let mut content = pattern(chunk_bytes, size_bytes);
        let below = Arc::new(MemDevice::from_bytes(&content));
        let origin = content.clone();
        let cow = Arc::new(MemDevice::new((2 * chunks + 4) * chunk_bytes));
        initialise(&*cow, ChunkSize::from_bytes(chunk_bytes).unwrap(), None).unwrap();
        let options = SnapshotOptions {
            discard,
            ..SnapshotOptions::default()
        };
        let snapshot = Snapshot::on_devices(below, cow.clone(), &options).unwrap();
        let mut random = Random::new(chunks);
        let mut order: Vec<u64> = (0..chunks).collect();
        for i in (1..chunks).rev() {
            order.swap(index(i), index(random.below(i + 1)));
        }
        // Some stay the origin's.
        order.retain(|&chunk| chunk + 1 == chunks || random.below(8) > 0);
        for chunk in order {
            let at = chunk * chunk_bytes;
            let data = pattern(7 + 3 * chunk, chunk_bytes.min(size_bytes - at));
            snapshot.write_at(&data, at).unwrap();
            content[index(at)..index(at) + data.len()].copy_from_slice(&data);
        }
        snapshot.flush().unwrap();
        let exceptions = plain_loader::load(&cow.to_bytes()).unwrap().exceptions;
        Self {
            chunk_bytes,
            map: exceptions.into_iter().collect(),
            cow,
            snapshot,
            origin,
            content,
        }
    }

    /// Discards, and compares the whole COW device and the whole content with what must be.
    fn discard(&mut self, offset: u64, len: u64, discard: Discard) {
        let size_bytes = self.content.len() as u64;
        let (offset, end) = (offset.min(size_bytes), (offset + len).min(size_bytes));
        let mut wanted = self.cow.to_bytes();
        self.snapshot.discard_at(offset, end - offset).unwrap();
        for chunk in offset / self.chunk_bytes..end.div_ceil(self.chunk_bytes) {
            let start = chunk * self.chunk_bytes;
            let chunk_end = (start + self.chunk_bytes).min(size_bytes);
            let Some(new_chunk) = self.map.get(&chunk) else {
                continue;
            };
            if discard == Discard::Ignore || start < offset || end < chunk_end {
                continue;
            }
            self.content[index(start)..index(chunk_end)].fill(0);
            let at = index(new_chunk * self.chunk_bytes);
            wanted[at..at + index(chunk_end - start)].fill(0);
        }
        let what = format!(
            "{discard:?} of {offset}..{end}, chunks of {}",
            self.chunk_bytes
        );
        let differs = self
            .cow
            .to_bytes()
            .iter()
            .zip(&wanted)
            .position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what}: a byte of the COW device");
        let mut found = vec![0xa5; self.content.len()];
        self.snapshot.read_at(&mut found, 0).unwrap();
        assert!(found == self.content, "{what}: the content");
    }

    /// The store as it is opened next.
    fn reopen(self) {
        self.snapshot.flush().unwrap();
        let cow = self.cow.to_bytes();
        let exceptions = plain_loader::load(&cow).unwrap().exceptions;
        assert_eq!(exceptions.into_iter().collect::<HashMap<_, _>>(), self.map);
        assert!(plain_loader::compose(&self.origin, &cow).unwrap() == self.content);
    }
}

#[test]
fn what_the_kernel_wipes_with_unaligned_discards_stays() {
    // First sector and length in sectors, as they were seen to do harm: a chunk long, not aligned.
    let seen = [(8 * 512, 84, 8), (2 * 512, 127, 2), (128 * 512, 8, 128)];
    for discard in MODES {
        for (chunk_bytes, sector, sectors) in seen {
            let chunks = if chunk_bytes > 4096 { 20 } else { 300 };
            let mut bench = Bench::new(chunk_bytes, chunks, discard);
            let before = bench.content.clone();
            bench.discard(sector * SECTOR, sectors * SECTOR, discard);
            assert!(bench.content == before, "no chunk is covered whole");
            // The same length at every other place, the last chunk before each area included.
            // (The last chunk is shorter than that, so it would be covered whole.)
            let last = (chunks - 2) * chunk_bytes / SECTOR;
            for sector in 0..last.min(320) {
                if !(sector * SECTOR).is_multiple_of(chunk_bytes) {
                    bench.discard(sector * SECTOR, sectors * SECTOR, discard);
                }
            }
            assert!(bench.content == before);
            bench.reopen();
        }
    }
}

#[test]
fn discards_of_any_alignment_change_the_chunks_they_cover_and_nothing_else() {
    for shift in 9..=16 {
        let chunk_bytes = 1 << shift;
        // Several areas, where they are small enough.
        let chunks = (400_u64 >> (shift - 9)).max(12);
        for discard in MODES {
            let mut bench = Bench::new(chunk_bytes, chunks, discard);
            let mut random = Random::new(chunk_bytes);
            let size_bytes = bench.content.len() as u64;
            for round in 0..60 {
                let unit = [1, SECTOR, chunk_bytes][index(round % 3)];
                let at = random.below(size_bytes) / unit * unit;
                let len = random.below(5 * chunk_bytes).next_multiple_of(unit);
                bench.discard(at, len, discard);
            }
            bench.discard(0, size_bytes, discard);
            bench.reopen();
        }
    }
}

#[test]
fn zeroed_chunks_keep_their_space_and_punched_ones_give_it_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    for discard in MODES {
        let (origin, cow) = (
            dir.path().join("origin"),
            dir.path().join(format!("{discard:?}")),
        );
        std::fs::write(&origin, pattern(1, 1 << 20)).unwrap();
        let options = usnap_engine::store::cow_file::CreateOptions {
            size_bytes: 4 << 20,
            chunk_size: ChunkSize::from_bytes(65536).unwrap(),
            label: String::new(),
            origin: None,
            identity: true,
        };
        usnap_engine::store::cow_file::create(&cow, &options).unwrap();
        let origin = Arc::new(usnap_engine::origin::Origin::open(&origin).unwrap());
        let options = SnapshotOptions {
            discard,
            ..SnapshotOptions::default()
        };
        let (snapshot, _) = Snapshot::open(&origin, &cow, &options).unwrap();
        snapshot.write_at(&pattern(2, 1 << 20), 0).unwrap();
        snapshot.flush().unwrap();
        let status = snapshot.report().status.to_string();
        let before = cow.metadata().unwrap().blocks();
        snapshot.discard_at(0, 1 << 20).unwrap();
        snapshot.flush().unwrap();
        let after = cow.metadata().unwrap().blocks();
        let freed = before.saturating_sub(after) * 512;
        assert_eq!(freed >= 1 << 20, discard == Discard::Punch, "{freed}");
        assert_eq!(snapshot.report().status.to_string(), status);
        let mut found = vec![1; 1 << 20];
        snapshot.read_at(&mut found, 0).unwrap();
        let is_zero = found.iter().all(|&byte| byte == 0);
        assert_eq!(is_zero, discard != Discard::Ignore);
    }
}

#[test]
fn a_transient_snapshot_discards_as_it_is_told() {
    for discard in MODES {
        let origin = Arc::new(MemDevice::from_bytes(&pattern(1, 1 << 16)));
        let snapshot = Snapshot::transient(origin, ChunkSize::default(), 1 << 20)
            .unwrap()
            .with_discard(discard);
        snapshot.write_at(&[7; 12288], 4096).unwrap();
        snapshot.discard_at(5000, 9000).unwrap();
        let mut found = [1; 12288];
        snapshot.read_at(&mut found, 4096).unwrap();
        let middle = if discard == Discard::Ignore { 7 } else { 0 };
        assert!(found[..4096].iter().all(|&byte| byte == 7));
        assert!(found[4096..8192].iter().all(|&byte| byte == middle));
        assert!(found[8192..].iter().all(|&byte| byte == 7));
    }
}

/// Where data lies is remembered; what is punched meanwhile is told all the same.
#[test]
fn a_file_tells_a_hole_that_was_punched_in_data_that_it_told_before() {
    use usnap_engine::device::FileDevice;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let device = FileDevice::open_read_write(&path).unwrap();
    for offset in [0, 300_000, 4096] {
        let extent = device.extent_at(offset, 8192).unwrap();
        assert_eq!((extent.hole, extent.len), (false, 8192), "{offset}");
    }
    device.discard_at(8192, 65_536).unwrap();
    assert!(device.can_zero_fast(), "this filesystem punches holes");
    let before = device.extent_at(0, 1 << 20).unwrap();
    assert_eq!((before.hole, before.len), (false, 8192));
    let hole = device.extent_at(8192, 1 << 19).unwrap();
    assert_eq!((hole.hole, hole.zero, hole.len), (true, true, 65_536));
    let behind = device.extent_at(80_000, 5000).unwrap();
    assert_eq!((behind.hole, behind.len), (false, 5000));
}
