//! Full at every size: a COW device of D chunks takes exactly as many exceptions as fit, which is the
//! largest n with 2 + n + n / E <= D (SPEC.md section 6), and goes on when it is full; however it
//! was filled, and when it was opened anew on the way.
//!
//! And what a request costs, in calls to its devices.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::sim::{Counting, Counts};
use usnap_engine::store::initialise;
use usnap_engine::{ErrorKind, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

#[cfg(test)]
#[path = "support/plain_loader.rs"]
mod plain_loader;

use plain_loader::{compose, load};

/// How a store is filled.
#[derive(Clone, Copy, Debug)]
enum Filled {
    /// Chunk by chunk; a flush now and then.
    OneByOne,
    /// In one request.
    AtOnce,
    /// Parts of chunks, and zeros with space of their own, in turn; opened anew half-way.
    Reopened,
}

const WAYS: [Filled; 3] = [Filled::OneByOne, Filled::AtOnce, Filled::Reopened];

struct Disk {
    chunk_len: usize,
    origin: Arc<MemDevice>,
    cow: Arc<MemDevice>,
}

impl Disk {
    fn new(chunk_len: usize, device_chunks: u64, tail: u64, origin_chunks: u64) -> Self {
        let chunk_bytes = chunk_len as u64;
        Self {
            chunk_len,
            origin: Arc::new(MemDevice::new(origin_chunks * chunk_bytes)),
            cow: Arc::new(MemDevice::new(device_chunks * chunk_bytes + tail)),
        }
    }

    fn open(&self) -> Snapshot {
        let options = SnapshotOptions::default();
        Snapshot::on_devices(self.origin.clone(), self.cow.clone(), &options).unwrap()
    }
}

fn capacity_by_counting(entries: u64, device_chunks: u64) -> u64 {
    let fits = |n: &u64| 2 + n + n / entries <= device_chunks;
    (0..).take_while(fits).last().unwrap_or(0)
}

/// Writes to chunk number `n`; whether there was room.
fn write(snapshot: &Snapshot, chunk_len: usize, n: u64, filled: Filled) -> bool {
    let at = n * chunk_len as u64;
    let result: Result<()> = match (filled, n % 3) {
        (Filled::Reopened, 0) => snapshot.write_at(&[7; 100], at + 50),
        (Filled::Reopened, 1) => {
            let flags = ZeroFlags {
                no_hole: true,
                fast: false,
            };
            snapshot.zero_at(at, chunk_len as u64, flags)
        }
        _ => snapshot.write_at(&vec![7; chunk_len], at),
    };
    match result {
        Ok(()) => true,
        Err(e) if e.kind() == ErrorKind::NoSpace => false,
        Err(e) => panic!("{e:?}"),
    }
}

/// Fills a fresh store; how many exceptions it took.
fn fill(disk: &Disk, most: u64, filled: Filled) -> u64 {
    let mut snapshot = disk.open();
    let mut taken = 0;
    if matches!(filled, Filled::AtOnce) {
        let data = vec![7; disk.chunk_len * usize::try_from(most).unwrap()];
        let refused = snapshot.write_at(&data, 0).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        snapshot.flush().unwrap();
        return snapshot.report().exceptions.committed;
    }
    for n in 0..most {
        if matches!(filled, Filled::Reopened) && n == most / 2 {
            snapshot.flush().unwrap();
            drop(snapshot);
            snapshot = disk.open();
        }
        taken += u64::from(write(&snapshot, disk.chunk_len, n, filled));
        if n % 7 == 0 {
            snapshot.flush().unwrap();
        }
    }
    // Full, and going on.
    if taken > 0 {
        snapshot.write_at(&[8; 10], 3).unwrap();
    }
    snapshot.flush().unwrap();
    let report = snapshot.report();
    assert!(report.is_full && report.exceptions.free == 0);
    assert_eq!(report.exceptions.committed, taken);
    taken
}

/// A full store as others see it, and opened once more.
fn look_at(disk: &Disk, taken: u64) {
    let image = disk.cow.to_bytes();
    assert_eq!(load(&image).unwrap().exceptions.len() as u64, taken);
    let content = compose(&disk.origin.to_bytes(), &image).unwrap();
    let snapshot = disk.open();
    let mut found = vec![0; content.len()];
    snapshot.read_at(&mut found, 0).unwrap();
    assert!(found == content);
    let beyond = (content.len() - disk.chunk_len) as u64;
    let refused = snapshot.write_at(&[1; 10], beyond).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert_eq!(snapshot.report().exceptions.free, 0);
}

/// Every size from nothing to three areas and what lies between them.
fn full_at_every_size(chunk_len: usize, ways: &[Filled]) {
    let chunk_size = ChunkSize::from_bytes(chunk_len as u64).unwrap();
    let entries = chunk_len as u64 / 16;
    let mut sizes = 0;
    for device_chunks in 0..=3 * (entries + 1) + 3 {
        let wanted = capacity_by_counting(entries, device_chunks);
        // A device may end inside a chunk, which is never used.
        let tail = [0, 1, chunk_len as u64 - 1][usize::try_from(device_chunks % 3).unwrap()];
        // Near a border in each way, elsewhere in one of them.
        let is_near = (device_chunks + 2) % (entries + 1) < 6;
        let way = usize::try_from(device_chunks).unwrap() % ways.len();
        let ways = if is_near { ways } else { &ways[way..=way] };
        for filled in ways {
            let disk = Disk::new(chunk_len, device_chunks, tail, wanted + 5);
            let made = initialise(&*disk.cow, chunk_size, None);
            if device_chunks < 2 {
                assert_eq!(
                    made.unwrap_err().kind(),
                    ErrorKind::Usage,
                    "{device_chunks}"
                );
                continue;
            }
            made.unwrap();
            let taken = fill(&disk, wanted + 4, *filled);
            assert_eq!(taken, wanted, "{device_chunks} chunks, {filled:?}");
            look_at(&disk, taken);
        }
        sizes += u64::from(device_chunks >= 2);
    }
    assert_eq!(sizes, 3 * (entries + 1) + 2);
}

#[test]
fn stores_of_small_chunks_take_what_fits_at_every_size_up_to_three_areas() {
    full_at_every_size(512, &WAYS);
}

#[test]
fn stores_of_larger_chunks_take_what_fits_at_every_size_up_to_three_areas() {
    full_at_every_size(4096, &WAYS);
}

#[test]
fn a_request_costs_the_calls_that_the_design_says() {
    let disk = Disk::new(4096, 300, 0, 300);
    initialise(&*disk.cow, ChunkSize::from_bytes(4096).unwrap(), None).unwrap();
    let origin = Arc::new(Counting::new(disk.origin.clone()));
    let cow = Arc::new(Counting::new(disk.cow.clone()));
    let options = SnapshotOptions::default();
    let snapshot = Snapshot::on_devices(origin.clone(), cow.clone(), &options).unwrap();
    let write = |data: &'static [u8], at: u64| snapshot.write_at(data, at).unwrap();
    let none = Counts::default();
    let one_write = Counts {
        writes: 1,
        written_bytes: 4096,
        ..none
    };
    let one_read = Counts {
        reads: 1,
        read_bytes: 4096,
        ..none
    };
    let both = |on_origin: Counts, on_cow: Counts, path: &mut dyn FnMut()| {
        origin
            .expect(on_origin, || cow.expect(on_cow, path))
            .unwrap()
            .unwrap();
    };
    both(none, one_write, &mut || write(&[1; 4096], 4096));
    both(none, one_write, &mut || write(&[2; 4096], 4096));
    // Part of a chunk: one read of the origin, and the chunk is written whole.
    both(one_read, one_write, &mut || write(&[3; 100], 5 * 4096 + 50));
    let in_place = Counts {
        written_bytes: 100,
        ..one_write
    };
    both(none, in_place, &mut || write(&[4; 100], 5 * 4096 + 50));
    both(none, one_read, &mut || {
        snapshot.read_at(&mut [0; 4096], 4096).unwrap()
    });
    both(one_read, none, &mut || {
        snapshot.read_at(&mut [0; 4096], 0).unwrap()
    });
    let commit = Counts {
        writes: 1,
        written_bytes: 512,
        flushes: 2,
        ..none
    };
    both(none, commit, &mut || snapshot.flush().unwrap());
    both(none, none, &mut || snapshot.flush().unwrap());
    write(&[5; 4096], 4096);
    let sync = Counts { flushes: 1, ..none };
    both(none, sync, &mut || snapshot.flush().unwrap());
    // Forty chunks in a row are one write, and their entries two sectors.
    let run = Counts {
        writes: 1,
        written_bytes: 40 * 4096,
        ..none
    };
    both(none, run, &mut || write(&[6; 40 * 4096], 100 * 4096));
    let commit = Counts {
        writes: 2,
        written_bytes: 1024,
        flushes: 3,
        ..none
    };
    both(none, commit, &mut || snapshot.flush().unwrap());
}
