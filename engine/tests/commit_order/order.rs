//! The order of writes and syncs: for each kind of commit the log is exactly what DESIGN.md,
//! "Commit", demands, and what costs nothing writes nothing.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::store::initialise;
use usnap_engine::{Durability, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

use crate::bench::Bench;
use crate::recorder::Recorder;
use crate::stores::{entry_offset, image, put_exception};
use crate::story::story;

#[test]
fn creation_syncs_the_empty_area_before_there_is_a_header() {
    let device = Recorder::new(&[0xee; 8 * 4096]);
    initialise(&*device.device, ChunkSize::from_bytes(4096).unwrap(), None).unwrap();
    let wanted = ["write area 0: 0 entries", "sync", "write header", "sync"];
    assert_eq!(story(&device.take_log(), 4096), wanted);
}

#[test]
fn the_first_exception_is_data_then_sync_then_its_sector_then_sync() {
    let bench = Bench::with_exceptions(4096, 0);
    bench.write(3, 1);
    assert_eq!(bench.story(), ["write data 2..3"]);
    let wanted = ["sync", "write area 0 sector 0: 1 entries", "sync"];
    assert_eq!(bench.story_of_flush(), wanted);
}

#[test]
fn chunks_written_in_a_row_are_one_write() {
    let bench = Bench::with_exceptions(4096, 0);
    bench.write(10, 20);
    assert_eq!(bench.story(), ["write data 2..22"]);
}

#[test]
fn a_chunk_written_in_part_is_put_together_and_written_once() {
    let bench = Bench::with_exceptions(4096, 0);
    bench.snapshot.write_at(&[1; 100], 4096 * 7 + 50).unwrap();
    assert_eq!(bench.story(), ["write data 2..3"]);
}

#[test]
fn sectors_of_the_current_area_go_one_at_a_time_ascending() {
    let bench = Bench::with_exceptions(4096, 40);
    bench.write(100, 60);
    let wanted = [
        "sync",
        "write area 0 sector 1: 32 entries",
        "sync",
        "write area 0 sector 2: 32 entries",
        "sync",
        "write area 0 sector 3: 4 entries",
        "sync",
    ];
    assert_eq!(bench.story_of_flush(), wanted);
}

#[test]
fn an_area_is_filled_only_after_the_empty_one_behind_it_is_durable() {
    let bench = Bench::with_exceptions(512, 31);
    bench.write(50, 1);
    // Its space is there before the number is taken, so the commit can't find none.
    assert_eq!(bench.story(), ["reserve area 1", "write data 33..34"]);
    let wanted = [
        "write area 1: 0 entries",
        "sync",
        "write area 0: 32 entries",
        "sync",
    ];
    assert_eq!(bench.story_of_flush(), wanted);
}

#[test]
fn a_batch_over_several_areas_writes_the_far_ones_first() {
    let bench = Bench::with_exceptions(512, 30);
    bench.write(50, 2 + 32 + 5);
    let wanted = [
        "write data 32..33",
        "reserve area 1",
        "write data 33..34",
        "write data 35..66",
        "reserve area 2",
        "write data 66..67",
        "write data 68..73",
    ];
    assert_eq!(bench.story(), wanted);
    let wanted = [
        "write area 1: 32 entries",
        "write area 2: 5 entries",
        "sync",
        "write area 0: 32 entries",
        "sync",
    ];
    assert_eq!(bench.story_of_flush(), wanted);
    bench.write(200, 1);
    let wanted = ["sync", "write area 2: 6 entries", "sync"];
    assert_eq!(bench.story_of_flush(), wanted);
}

#[test]
fn a_batch_that_fills_its_last_area_opens_the_next() {
    let bench = Bench::with_exceptions(512, 0);
    bench.write(50, 64);
    let wanted = [
        "write area 1: 32 entries",
        "write area 2: 0 entries",
        "sync",
        "write area 0: 32 entries",
        "sync",
    ];
    assert_eq!(bench.story_of_flush(), wanted);
}

#[test]
fn exceptions_that_wait_for_a_commit_are_bounded() {
    // Each would cost a power cut's victim a chunk, and the process its memory.
    const BOUND: u64 = 1 << 18;
    let (chunk_size, chunks) = (ChunkSize::from_bytes(512).unwrap(), BOUND + 5000);
    let cow = Arc::new(MemDevice::new(512 * (chunks + chunks / 32 + 10)));
    initialise(&*cow, chunk_size, None).unwrap();
    let origin = Arc::new(MemDevice::new(512 * chunks));
    let options = SnapshotOptions::default();
    let snapshot = Snapshot::on_devices(origin, cow, &options).unwrap();
    let data = vec![1; 512 * 1000];
    for at in (0..512 * (chunks - 1000)).step_by(data.len()) {
        snapshot.write_at(&data, at).unwrap();
        assert!(snapshot.report().exceptions.uncommitted < BOUND);
    }
    assert!(snapshot.report().exceptions.committed >= BOUND);
}

#[test]
fn every_write_commits_each_write_in_the_same_order() {
    let options = SnapshotOptions {
        durability: Durability::EveryWrite,
        ..SnapshotOptions::default()
    };
    let bench = Bench::open_with(4096, &image(4096, 20, &[]), &options);
    bench.story();
    bench.write(3, 1);
    let wanted = [
        "write data 2..3",
        "sync",
        "write area 0 sector 0: 1 entries",
        "sync",
    ];
    assert_eq!(bench.story(), wanted);
    bench.write(3, 1);
    assert_eq!(bench.story(), ["write data 2..3", "sync"]);
}

#[test]
fn a_clean_store_is_opened_without_a_write() {
    let bench = Bench::open(4096, &image(4096, 20, &[(5, 2)]));
    assert_eq!(bench.story(), ["reserve area 0"]);
    let options = SnapshotOptions {
        read_only: true,
        ..SnapshotOptions::default()
    };
    let bench = Bench::open_with(4096, &image(4096, 20, &[(5, 2)]), &options);
    assert!(bench.story().is_empty());
}

#[test]
fn junk_is_gone_and_synced_before_anything_else_is_written() {
    let mut store = image(4096, 20, &[(5, 2)]);
    put_exception(&mut store, 4096, 40, 6, 3);
    let bench = Bench::open(4096, &store);
    let wanted = ["write area 0 bytes 640..4096: 0 entries", "sync"];
    assert_eq!(bench.story()[..2], wanted);
    assert_eq!(bench.device.image()[entry_offset(4096, 40)], 0);

    let options = SnapshotOptions {
        read_only: true,
        ..SnapshotOptions::default()
    };
    let bench = Bench::open_with(4096, &store, &options);
    assert!(bench.story().is_empty(), "a read-only open changes nothing");
}

#[test]
fn the_first_flush_syncs_what_an_earlier_process_left_in_the_cache() {
    let bench = Bench::open(4096, &image(4096, 20, &[(5, 2)]));
    assert_eq!(bench.story_of_flush(), ["sync"]);
    assert!(bench.story_of_flush().is_empty());
}

#[test]
fn a_flush_with_nothing_written_costs_nothing() {
    let bench = Bench::with_exceptions(4096, 3);
    bench.snapshot.read_at(&mut [0; 9000], 100).unwrap();
    bench.snapshot.extent_at(0, 4096).unwrap();
    assert!(bench.story_of_flush().is_empty());
    assert!(!bench.snapshot.commit_pending().unwrap());
    // Nothing is taken from the origin for zeros that it has already.
    let zero = ZeroFlags::default();
    bench.snapshot.zero_at(4096 * 9, 4096, zero).unwrap();
    // Discarding what the origin has does nothing.
    bench.snapshot.discard_at(4096 * 9, 4096).unwrap();
    assert!(bench.story_of_flush().is_empty());
}

#[test]
fn what_changed_only_mapped_chunks_is_one_sync() {
    let bench = Bench::with_exceptions(4096, 3);
    bench.write(1, 1);
    assert_eq!(bench.story_of_flush(), ["sync"]);
    bench.snapshot.discard_at(4096, 4096).unwrap();
    assert_eq!(bench.story_of_flush(), ["sync"]);
    let zero = ZeroFlags::default();
    bench.snapshot.zero_at(4096, 300, zero).unwrap();
    assert_eq!(bench.story_of_flush(), ["sync"]);
}

#[test]
fn the_timer_commits_exceptions_and_leaves_overwrites_alone() {
    let bench = Bench::with_exceptions(4096, 3);
    bench.write(1, 1);
    bench.story();
    assert!(!bench.snapshot.commit_pending().unwrap());
    assert!(bench.story().is_empty());
    bench.write(8, 1);
    bench.story();
    assert!(bench.snapshot.commit_pending().unwrap());
    let wanted = ["sync", "write area 0 sector 0: 4 entries", "sync"];
    assert_eq!(bench.story(), wanted);
}
