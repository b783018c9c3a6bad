//! A read and a write from end to end, as `Snapshot` carries them out on devices in memory: no
//! system call, no journal; the bytes are copied once, by the device.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::{Snapshot, SnapshotOptions};
use usnap_test_support::Rng;

use crate::stores::{CHUNK, cow_bytes, filled, write_store};

const IMAGE: u64 = 64 << 20;
const SMALL: u64 = CHUNK;
const LARGE: u64 = 256 << 10;

pub(crate) fn all(c: &mut Criterion) {
    let image = Image::new();
    let mut group = c.benchmark_group("paths");
    // The chunks of each second 256 KiB are mapped.
    let chunks = 0..IMAGE / CHUNK;
    let half: Vec<u64> = chunks.filter(|chunk| chunk / 64 % 2 == 0).collect();
    let snapshot = image.snapshot(&half);
    for (name, len) in [("4K", SMALL), ("256K", LARGE)] {
        for (part, first) in [("mapped", 0), ("origin", LARGE)] {
            let offsets = offsets(len, first);
            let mut buf = buffer(len);
            group.throughput(Throughput::Bytes(len));
            each(
                &mut group,
                &format!("read {name}, {part}"),
                &offsets,
                |offset| snapshot.read_at(&mut buf, offset),
            );
            if part == "mapped" {
                each(
                    &mut group,
                    &format!("overwrite {name}"),
                    &offsets,
                    |offset| snapshot.write_at(&buf, offset),
                );
            }
        }
    }
    for (name, len) in [("4K", SMALL), ("2K", SMALL / 2), ("256K", LARGE)] {
        first_writes(&mut group, &format!("first write {name}"), len, &image);
    }
    group.finish();
}

struct Image {
    origin: Arc<MemDevice>,
    cow: Arc<MemDevice>,
}

impl Image {
    fn new() -> Self {
        Self {
            origin: Arc::new(filled(IMAGE)),
            // Filled, so that a first write is not measured by the pages that it takes.
            cow: Arc::new(filled(cow_bytes(IMAGE))),
        }
    }

    fn snapshot(&self, mapped: &[u64]) -> Snapshot {
        write_store(&*self.cow, mapped);
        let (origin, cow) = (Arc::clone(&self.origin), Arc::clone(&self.cow));
        let opened = Snapshot::on_devices(origin, cow, &SnapshotOptions::default());
        opened.expect("a store that was just made")
    }
}

fn buffer(len: u64) -> Vec<u8> {
    vec![0xAA; usize::try_from(len).expect("small")]
}

/// Where requests of `len` bytes go, in random order, within each second 256 KiB from `first` on.
fn offsets(len: u64, first: u64) -> Vec<u64> {
    let pieces = (first..IMAGE).step_by(usize::try_from(2 * LARGE).expect("small"));
    let per_piece = LARGE / len;
    let all: Vec<u64> = pieces
        .flat_map(|piece| (0..per_piece).map(move |n| piece + n * len))
        .collect();
    shuffled(&all)
}

fn shuffled(offsets: &[u64]) -> Vec<u64> {
    let order = Rng::new(3).permutation(offsets.len() as u64);
    let at = |number| usize::try_from(number).expect("an index of a vector");
    order.into_iter().map(|n| offsets[at(n)]).collect()
}

fn each(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    offsets: &[u64],
    mut work: impl FnMut(u64) -> usnap_engine::Result<()>,
) {
    let mut at = 0;
    group.bench_function(name, |b| {
        b.iter(|| {
            at = (at + 1) % offsets.len();
            work(black_box(offsets[at])).expect("it is in range");
        });
    });
}

/// First writes, each to another chunk, until all are mapped; then to a new store, whose making does
/// not count.
fn first_writes(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, len: u64, image: &Image) {
    let step = usize::try_from(len.max(CHUNK)).expect("small");
    let all: Vec<u64> = (0..IMAGE).step_by(step).collect();
    let offsets = if len > CHUNK { all } else { shuffled(&all) };
    let buf = buffer(len);
    let mut snapshot = image.snapshot(&[]);
    let mut used = 0;
    group.throughput(Throughput::Bytes(len));
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let mut time = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                if used == offsets.len() {
                    snapshot = image.snapshot(&[]);
                    used = 0;
                }
                let room = offsets.len() - used;
                let count = usize::try_from(left).map_or(room, |left| left.min(room));
                let begun = Instant::now();
                for &offset in &offsets[used..used + count] {
                    snapshot.write_at(&buf, offset).expect("there is room");
                }
                time += begun.elapsed();
                used += count;
                left -= count as u64;
            }
            time
        });
    });
}
