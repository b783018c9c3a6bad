//! Many threads on files: writers of the origin that share chunks but no sector, readers and a
//! writer of each snapshot, snapshots that come and go. Each snapshot shows its moment all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use usnap_engine::device::{BlockDevice, ZeroFlags};
use usnap_engine::snapshot_origin::{SnapshotOrigin, WhenFull};
use usnap_engine::{Snapshot, SnapshotOptions};

use crate::files::{Files, SIZE, add};
use crate::random::Random;

const SECTOR: u64 = 512;
const WRITERS: u64 = 3;
const WRITES: u64 = 1500;
/// The sectors of the snapshots that their own writers use, of so many: one.
const OWN_EVERY: u64 = 8;

/// Writes its share of the origin's sectors, and knows what it wrote.
fn write_origin(origin: &SnapshotOrigin, writer: u64) {
    let mut random = Random::new(writer);
    let sectors = SIZE / SECTOR;
    let mut last = vec![1_u8; usize::try_from(sectors).unwrap()];
    for n in 0..WRITES {
        let sector = random.below(sectors / WRITERS) * WRITERS + writer;
        let byte = u8::try_from(2 + n % 200).unwrap();
        let offset = sector * SECTOR;
        let written = if n % 16 == 0 {
            origin
                .zero_at(offset, SECTOR, ZeroFlags::default())
                .unwrap();
            0
        } else {
            origin.write_at(&[byte; 512], offset).unwrap();
            byte
        };
        last[usize::try_from(sector).unwrap()] = written;
        if n % 50 == 0 {
            origin.flush().unwrap();
        }
    }
    for sector in (writer..sectors).step_by(usize::try_from(WRITERS).unwrap()) {
        let mut found = [0; 512];
        origin.read_at(&mut found, sector * SECTOR).unwrap();
        assert_eq!(
            found,
            [last[usize::try_from(sector).unwrap()]; 512],
            "{sector}"
        );
    }
}

/// Reads anywhere; everything but what the snapshot's own writer uses is ones.
fn read_snapshot(snapshot: &Snapshot, seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut reads = 0;
    let mut buf = vec![0; 48 << 10];
    while !stop.load(Ordering::Relaxed) {
        let first = random.below(SIZE / SECTOR - 96);
        snapshot.read_at(&mut buf, first * SECTOR).unwrap();
        for (sector, bytes) in (first..).zip(buf.chunks(512)) {
            if !sector.is_multiple_of(OWN_EVERY) {
                assert!(bytes.iter().all(|byte| *byte == 1), "sector {sector}");
            }
        }
        let extent = snapshot.extent_at(first * SECTOR + SECTOR, 40 << 10);
        assert!(!extent.unwrap().zero);
        reads += 1;
    }
    reads
}

/// Writes parts of chunks, and reads them back.
fn write_snapshot(snapshot: &Snapshot, seed: u64) {
    let mut random = Random::new(seed);
    for n in 0..WRITES {
        let sector = random.below(SIZE / SECTOR / OWN_EVERY) * OWN_EVERY;
        let byte = u8::try_from(1 + n % 250).unwrap();
        snapshot.write_at(&[byte; 512], sector * SECTOR).unwrap();
        let mut found = [0; 512];
        snapshot.read_at(&mut found, sector * SECTOR).unwrap();
        assert_eq!(found, [byte; 512], "sector {sector}");
        if n % 100 == 0 {
            snapshot.flush().unwrap();
        }
    }
}

/// Adds a snapshot, looks at it twice, takes it out again.
fn come_and_go(origin: &SnapshotOrigin, files: &Files, stop: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("guest{rounds}");
        files.create(&name, 4096, 300);
        let options = SnapshotOptions::default();
        let added = origin.add(&name, &files.path(&name), &options);
        let (snapshot, _) = added.unwrap();
        let look = || {
            let mut content = vec![0; 1 << 20];
            snapshot.read_at(&mut content, 0).unwrap();
            content
        };
        let before = look();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(look() == before, "the moment of {name}");
        origin.remove(&name).unwrap();
        assert!(snapshot.read_at(&mut [0], 0).is_err());
        rounds += 1;
    }
    rounds
}

#[test]
fn every_snapshot_keeps_its_moment_under_many_threads() {
    let files = Files::new();
    let origin = files.serve(WhenFull::Drop);
    let snapshots: Vec<Arc<Snapshot>> = [(4096, 300), (16 << 10, 80), (64 << 10, 30)]
        .into_iter()
        .map(|(chunk_bytes, chunks)| {
            let name = format!("chunks of {chunk_bytes}");
            files.create(&name, chunk_bytes, chunks);
            add(&origin, &files, &name)
        })
        .collect();
    let stop = AtomicBool::new(false);
    let (reads, rounds) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (origin, files, stop) = (&*origin, &files, &stop);
        let (reads, rounds) = (&reads, &rounds);
        let mut writers = Vec::new();
        for (seed, snapshot) in (100..).zip(&snapshots) {
            scope.spawn(move || {
                let count = read_snapshot(snapshot, seed, stop);
                reads.fetch_add(count, Ordering::Relaxed);
            });
            writers.push(scope.spawn(move || write_snapshot(snapshot, seed)));
        }
        scope.spawn(move || {
            let count = come_and_go(origin, files, stop);
            rounds.fetch_add(count, Ordering::Relaxed);
        });
        writers.extend((0..WRITERS).map(|n| scope.spawn(move || write_origin(origin, n))));
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a writer panicked");
    });
    assert!(reads.into_inner() > 10 && rounds.into_inner() > 0);
    origin.close().unwrap();
}
