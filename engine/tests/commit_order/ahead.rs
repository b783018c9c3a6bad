//! Chunks written ahead: where commits are small and rewriting is cheaper, zeros go to free chunks
//! before their numbers are handed out; never to a chunk in use, an area, or what is data already.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::sim::{CallKind, Calls, Failure, Fault};
use usnap_engine::store::initialise;
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

use crate::bench::Bench;
use crate::plain_loader::compose;

const CHUNK: usize = 4096;

fn preferring_rewrites(chunk_len: usize, exceptions: u64) -> Bench {
    let bench = Bench::with_exceptions(chunk_len, exceptions);
    bench.device.memory.prefer_rewrites();
    bench
}

#[test]
fn after_a_small_commit_zeros_are_written_once_for_many_chunks() {
    let bench = preferring_rewrites(CHUNK, 0);
    bench.write(9, 1);
    assert_eq!(bench.story(), ["write data 2..3"], "not before one was");
    let commit = ["sync", "write area 0 sector 0: 1 entries", "sync"];
    assert_eq!(bench.story_of_flush(), commit);
    bench.write(20, 1);
    // 256 KiB at once, in pieces of 64; the first of them is the writer's own.
    let ahead = [
        "write data 4..20",
        "write data 20..36",
        "write data 36..52",
        "write data 52..67",
        "write data 3..4",
    ];
    assert_eq!(bench.story(), ahead);
    for n in 0..63 {
        bench.snapshot.flush().unwrap();
        bench.story();
        bench.write(30 + n, 1);
        assert_eq!(bench.story(), [format!("write data {}..{}", 4 + n, 5 + n)]);
    }
    bench.snapshot.flush().unwrap();
    bench.write(200, 1);
    assert!(bench.story().len() > 3, "the next step");
}

#[test]
fn whoever_commits_much_at_once_is_not_written_ahead_for() {
    let bench = preferring_rewrites(CHUNK, 0);
    bench.write(0, 9);
    bench.snapshot.flush().unwrap();
    bench.story();
    bench.write(20, 1);
    assert_eq!(bench.story(), ["write data 11..12"], "a large commit");
    bench.snapshot.flush().unwrap();
    bench.write(21, 1);
    bench.story();
    // What was written ahead is used up, and then no more is.
    for n in 0..120 {
        bench.write(30 + n, 1);
    }
    let wanted: Vec<_> = (13..133)
        .map(|n| format!("write data {n}..{}", n + 1))
        .collect();
    assert_eq!(bench.story(), wanted);
}

#[test]
fn zeros_end_before_the_next_area_and_spare_what_is_data() {
    // The next number is 30, area 1 is chunk 34, and memory has pages: 32..40 is data.
    let bench = preferring_rewrites(512, 28);
    bench.device.memory.write_at(&[3; 512], 39 * 512).unwrap();
    bench.write(100, 1);
    bench.snapshot.flush().unwrap();
    bench.story();
    bench.write(101, 1);
    assert_eq!(bench.story(), ["write data 31..32"]);
    bench.write(102, 1);
    bench.snapshot.flush().unwrap();
    bench.write(103, 1);
    bench.snapshot.flush().unwrap();
    bench.story();
    bench.write(104, 1);
    assert_eq!(bench.story(), ["write data 40..67", "write data 35..36"]);
}

/// Nothing depends on it: where it fails the write does not.
#[test]
fn zeros_that_find_no_space_are_left_out() {
    let bench = preferring_rewrites(CHUNK, 0);
    bench.write(9, 1);
    bench.snapshot.flush().unwrap();
    let failure = Failure::short(ErrorKind::NoSpace);
    let first_write = Fault::nth(Calls::Only(CallKind::Write), 0, failure);
    bench.device.fail(first_write);
    bench.story();
    bench.write(20, 1);
    assert_eq!(bench.device.faults_met(), 1);
    assert_eq!(bench.story(), ["write data 4..12", "write data 3..4"]);
    bench.snapshot.flush().unwrap();
    assert_eq!(bench.snapshot.report().latched, None);
}

/// The worst that could be: zeros over the chunk of somebody who took its number meanwhile.
#[test]
fn writers_at_the_same_time_lose_nothing_to_zeros() {
    const THREADS: usize = 4;
    const CHUNKS: usize = 900;
    for (chunk_len, flush_every) in [(512, 1), (512, 7), (4096, 3)] {
        let origin_len = THREADS * CHUNKS * chunk_len;
        let memory = Arc::new(MemDevice::new((origin_len + 200 * chunk_len) as u64));
        let chunk_size = ChunkSize::from_bytes(chunk_len as u64).unwrap();
        initialise(&*memory, chunk_size, None).unwrap();
        memory.prefer_rewrites();
        let origin = Arc::new(MemDevice::new(origin_len as u64));
        let options = SnapshotOptions::default();
        let snapshot = Snapshot::on_devices(origin, memory.clone(), &options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let snapshot = &snapshot;
                scope.spawn(move || {
                    for chunk in 0..CHUNKS {
                        let data = vec![1 + u8::try_from(chunk % 250).unwrap(); chunk_len];
                        let offset = (thread * CHUNKS + chunk) * chunk_len;
                        snapshot.write_at(&data, offset as u64).unwrap();
                        if chunk % flush_every == 0 {
                            snapshot.flush().unwrap();
                        }
                    }
                });
            }
        });
        snapshot.flush().unwrap();
        let content = compose(&vec![0; origin_len], &memory.to_bytes()).unwrap();
        for (chunk, bytes) in content.chunks(chunk_len).enumerate() {
            let wanted = 1 + u8::try_from(chunk % CHUNKS % 250).unwrap();
            assert!(bytes.iter().all(|byte| *byte == wanted), "chunk {chunk}");
        }
    }
}
