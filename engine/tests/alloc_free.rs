//! No heap allocation where a request is served from what is there already: reads, writes to
//! mapped chunks, block status and a flush of nothing, by a counting allocator.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tempfile::TempDir;
use usnap_engine::device::{BlockDevice, ZeroFlags};
use usnap_engine::origin::{Origin, WritableOrigin};
use usnap_engine::snapshot_origin::{SnapshotOrigin, WhenFull};
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

const CHUNK: u64 = 4096;
const CHUNKS: u64 = 2000;

/// How many allocations `work` makes, after it was done once to warm up.
fn allocations(mut work: impl FnMut()) -> u64 {
    work();
    allocation_counter::measure(work).count_total
}

fn origin(folder: &TempDir) -> Arc<Origin> {
    let path = folder.path().join("origin");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(CHUNKS * CHUNK).unwrap();
    // Data and holes in turn.
    for chunk in (0..CHUNKS).step_by(7) {
        file.write_all_at(&[3; 4096], chunk * CHUNK).unwrap();
    }
    Arc::new(Origin::open(&path).unwrap())
}

fn persistent(folder: &TempDir) -> Snapshot {
    let cow = folder.path().join("cow");
    let options = CreateOptions {
        size_bytes: (CHUNKS + 20) * CHUNK,
        chunk_size: ChunkSize::from_bytes(CHUNK).unwrap(),
        label: String::new(),
        origin: None,
        identity: true,
    };
    create(&cow, &options).unwrap();
    let options = SnapshotOptions::default();
    Snapshot::open(&origin(folder), &cow, &options).unwrap().0
}

fn transient(folder: &TempDir) -> Snapshot {
    let chunk_size = ChunkSize::from_bytes(CHUNK).unwrap();
    Snapshot::transient(origin(folder), chunk_size, CHUNKS * CHUNK).unwrap()
}

/// Every third chunk is mapped, some of them committed.
fn map_some(snapshot: &Snapshot) {
    for chunk in (0..CHUNKS).step_by(3) {
        snapshot.write_at(&[5; 4096], chunk * CHUNK).unwrap();
        if chunk == 999 {
            snapshot.flush().unwrap();
        }
    }
}

fn serves_without_allocating(snapshot: &Snapshot) {
    map_some(snapshot);
    let mut small = [0; 4096];
    let mut large = vec![0; 100_000];
    let offsets = || (0..1000_u64).map(|n| n * 7919 % ((CHUNKS - 30) * CHUNK));

    let reads = allocations(|| {
        for offset in offsets() {
            snapshot.read_at(&mut small, offset).unwrap();
            snapshot.try_read_at(&mut small, offset).unwrap();
        }
        snapshot.read_at(&mut large, 12_345).unwrap();
    });
    assert_eq!(reads, 0, "mapped, unmapped, and across both");

    let writes = allocations(|| {
        for chunk in (0..CHUNKS).step_by(3) {
            snapshot.write_at(&small, chunk * CHUNK).unwrap();
            snapshot
                .write_at(&small[..100], chunk * CHUNK + 77)
                .unwrap();
        }
    });
    assert_eq!(writes, 0, "to mapped chunks");

    let clears = allocations(|| {
        for chunk in (0..CHUNKS).step_by(3) {
            let flags = ZeroFlags::default();
            snapshot.zero_at(chunk * CHUNK + 5, 300, flags).unwrap();
        }
        snapshot.discard_at(0, 300 * CHUNK).unwrap();
    });
    assert_eq!(clears, 0, "zeroes and discards of mapped chunks");

    let lookups = allocations(|| {
        for offset in offsets() {
            snapshot.extent_at(offset, 3 * CHUNK).unwrap();
        }
    });
    assert_eq!(lookups, 0, "block status");

    snapshot.flush().unwrap();
    let flushes = allocations(|| (0..100).for_each(|_| snapshot.flush().unwrap()));
    assert_eq!(flushes, 0, "of nothing");
}

#[test]
fn a_persistent_snapshot_serves_what_is_there_without_allocating() {
    let folder = tempfile::tempdir().unwrap();
    serves_without_allocating(&persistent(&folder));
}

#[test]
fn a_transient_snapshot_serves_what_is_there_without_allocating() {
    let folder = tempfile::tempdir().unwrap();
    serves_without_allocating(&transient(&folder));
}

#[test]
fn an_origin_that_is_written_to_serves_what_is_saved_without_allocating() {
    let folder = tempfile::tempdir().unwrap();
    drop(persistent(&folder));
    let below = WritableOrigin::open(&folder.path().join("origin")).unwrap();
    let origin = SnapshotOrigin::open(below, WhenFull::Drop);
    let options = SnapshotOptions::default();
    let added = origin.add("one", &folder.path().join("cow"), &options);
    let (snapshot, _) = added.unwrap();
    origin.write_at(&[1; 400_000], 0).unwrap();
    let mut data = vec![0; 60_000];
    let count = allocations(|| {
        for offset in (0..340_000).step_by(777) {
            origin.write_at(&data[..512], offset).unwrap();
            snapshot.read_at(&mut data, offset).unwrap();
            snapshot.extent_at(offset, 100_000).unwrap();
        }
        // Not saved, so from the origin, with a second look.
        snapshot.read_at(&mut data, 1_000_000).unwrap();
    });
    assert_eq!(count, 0);
}

#[test]
fn first_writes_allocate_only_now_and_then() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = persistent(&folder);
    snapshot.write_at(&[1; 100], 0).unwrap();
    let mut chunk = 0;
    let allocations = allocation_counter::measure(|| {
        while chunk + 1 < CHUNKS {
            chunk += 1;
            snapshot.write_at(&[1; 100], chunk * CHUNK).unwrap();
        }
    });
    // A leaf of the index for every 64 chunks, and the batch, which doubles.
    let count = allocations.count_total;
    assert!(count < CHUNKS / 64 + 20, "{count} for {CHUNKS} chunks");
}

#[test]
fn the_counter_counts() {
    let mut made = Vec::new();
    let count = allocation_counter::measure(|| made = vec![1_u8; 100]).count_total;
    assert_eq!((count, made.len()), (1, 100));
}
