//! Many threads on files: writers of the origin that share chunks but no sector, readers and a
//! writer of each snapshot, snapshots that come, go and run full. Each snapshot shows its moment all
//! the time, or an error once it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use usnap_engine::device::{BlockDevice, ZeroFlags};
use usnap_engine::snapshot_origin::{MemberState, SnapshotOrigin, WhenFull};
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};

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

/// Until it is dropped it shows its moment, and nothing ever after; whether it was.
fn read_until_dropped(snapshot: &Snapshot, seed: u64, stop: &AtomicBool) -> bool {
    let mut random = Random::new(seed);
    let mut buf = vec![0; 20 << 10];
    let mut is_dropped = false;
    while !stop.load(Ordering::Relaxed) {
        let offset = random.below(SIZE - (20 << 10));
        match snapshot.read_at(&mut buf, offset) {
            Ok(()) => {
                assert!(!is_dropped, "it answers again");
                assert!(buf.iter().all(|byte| *byte == 1), "at {offset}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
                is_dropped = true;
            }
        }
    }
    is_dropped
}

#[test]
fn a_snapshot_that_runs_full_under_many_writers_shows_its_moment_or_nothing() {
    for round in 0..5 {
        let files = Files::new();
        let origin = files.serve(WhenFull::Drop);
        files.create("large", 16 << 10, 80);
        files.create("small", 4096, 20 + round);
        let large = add(&origin, &files, "large");
        let small = add(&origin, &files, "small");
        let stop = AtomicBool::new(false);
        let readers = std::thread::scope(|scope| {
            let (origin, small, stop) = (&*origin, &*small, &stop);
            let readers: Vec<_> = (0..3)
                .map(|seed| scope.spawn(move || read_until_dropped(small, seed, stop)))
                .collect();
            let writers: Vec<_> = (0..4)
                .map(|thread| {
                    scope.spawn(move || {
                        let mut random = Random::new(thread + 10);
                        for _ in 0..60 {
                            let offset = random.below(SIZE - 3000);
                            origin.write_at(&[2; 3000], offset).unwrap();
                        }
                    })
                })
                .collect();
            let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(ended.iter().all(Result::is_ok), "a writer panicked");
            readers
                .into_iter()
                .map(|reader| reader.join())
                .collect::<Vec<_>>()
        });
        assert!(readers.iter().all(Result::is_ok), "a reader panicked");
        let states = origin.snapshots();
        assert_eq!(states[0].state, MemberState::Active);
        assert!(matches!(states[1].state, MemberState::Dropped { .. }));
        let mut content = vec![0; 1 << 20];
        large.read_at(&mut content, 0).unwrap();
        assert!(content.iter().all(|byte| *byte == 1));
        let header = std::fs::read(files.path("small")).unwrap();
        assert_eq!(header[..8], *b"SnAp\0\0\0\0");
        origin.close().unwrap();
    }
}
