//! Meetings that chance rarely brings about, arranged with devices that wait: at a sync, until the
//! test lets it go on; at a read of the origin, for a moment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex, OnceLock, Weak};
use std::time::Duration;

use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::store::initialise;
use usnap_engine::{Error, ErrorKind, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

const CHUNK: u64 = 4096;
/// Long enough for a thread that does not wait to be done.
const A_WHILE: Duration = Duration::from_millis(100);

/// Memory, with something that happens at each sync and at each read.
struct Gated<S, R> {
    below: MemDevice,
    at_sync: S,
    at_read: R,
    syncs: AtomicU64,
}

impl<S: Fn() + Send + Sync, R: Fn() -> Result<()> + Send + Sync> BlockDevice for Gated<S, R> {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "gated"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (self.at_read)()?;
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        (self.at_sync)();
        Ok(())
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.below.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
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
}

fn gated<S, R>(below: MemDevice, at_sync: S, at_read: R) -> Arc<Gated<S, R>> {
    Arc::new(Gated {
        below,
        at_sync,
        at_read,
        syncs: AtomicU64::new(0),
    })
}

fn empty_store() -> MemDevice {
    let device = MemDevice::new(100 * CHUNK);
    initialise(&device, ChunkSize::from_bytes(CHUNK).unwrap(), None).unwrap();
    device
}

/// A snapshot whose syncs wait: each says that it has begun, and goes on when it is told to.
struct SyncGate {
    snapshot: Snapshot,
    syncs: Box<dyn Fn() -> u64>,
    begun: Receiver<()>,
    go_on: Sender<()>,
}

impl SyncGate {
    fn new() -> Self {
        let (says_begun, begun) = channel();
        let (go_on, told) = channel();
        let told = Mutex::new(told);
        let at_sync = move || {
            says_begun.send(()).unwrap();
            told.lock().unwrap().recv().unwrap();
        };
        let device = gated(empty_store(), at_sync, || Ok(()));
        let origin = Arc::new(MemDevice::new(64 * CHUNK));
        let options = SnapshotOptions::default();
        let snapshot = Snapshot::on_devices(origin, device.clone(), &options).unwrap();
        let syncs = move || device.syncs.load(Ordering::SeqCst);
        let gate = Self {
            snapshot,
            syncs: Box::new(syncs),
            begun,
            go_on,
        };
        // Chunk 0 is mapped, and nothing is dirty.
        gate.let_through(2);
        gate.snapshot.write_at(&[1; 4096], 0).unwrap();
        gate.snapshot.flush().unwrap();
        assert_eq!(gate.begun.try_iter().count(), 2);
        gate
    }

    /// Lets so many more syncs pass without a stop.
    fn let_through(&self, count: u64) {
        for _ in 0..count {
            self.go_on.send(()).unwrap();
        }
    }
}

#[test]
fn a_flush_waits_for_the_commit_that_has_its_writes() {
    let gate = SyncGate::new();
    gate.snapshot.write_at(&[2; 4096], 5 * CHUNK).unwrap();
    let returned = AtomicBool::new(false);
    // Looked at in the end, since a panic here would leave the others waiting.
    let mut too_early = false;
    std::thread::scope(|scope| {
        scope.spawn(|| gate.snapshot.flush().unwrap());
        gate.begun.recv().unwrap();
        // The commit has sealed the write and has not synced it; nothing was written since.
        scope.spawn(|| {
            gate.snapshot.flush().unwrap();
            returned.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(A_WHILE);
        too_early = returned.load(Ordering::SeqCst);
        gate.let_through(2);
    });
    assert!(!too_early);
    assert_eq!((gate.syncs)(), 4, "the two flushes were one commit");
}

#[test]
fn what_is_written_during_a_commit_is_the_next_flushs() {
    let gate = SyncGate::new();
    gate.snapshot.write_at(&[2; 4096], 5 * CHUNK).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| gate.snapshot.flush().unwrap());
        gate.begun.recv().unwrap();
        // The commit's first sync has begun: it need not cover these.
        gate.snapshot.write_at(&[3; 10], 0).unwrap();
        gate.snapshot.write_at(&[3; 4096], 6 * CHUNK).unwrap();
        gate.let_through(2);
    });
    assert_eq!((gate.syncs)(), 4);
    assert_eq!(gate.snapshot.report().exceptions.uncommitted, 1);
    gate.let_through(2);
    gate.snapshot.flush().unwrap();
    assert_eq!((gate.syncs)(), 6, "data, then the exception");
    gate.snapshot.flush().unwrap();
    assert_eq!((gate.syncs)(), 6);
}

#[test]
fn an_overwrite_during_a_commit_is_synced_by_the_next_flush() {
    let gate = SyncGate::new();
    gate.snapshot.write_at(&[2; 4096], 5 * CHUNK).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| gate.snapshot.flush().unwrap());
        gate.begun.recv().unwrap();
        gate.snapshot.write_at(&[3; 10], 0).unwrap();
        gate.let_through(2);
    });
    gate.let_through(1);
    gate.snapshot.flush().unwrap();
    assert_eq!((gate.syncs)(), 5);
}

#[test]
fn readers_and_writers_go_on_during_a_sync() {
    let gate = SyncGate::new();
    let mut data = [0; 10];
    let mut report = gate.snapshot.report();
    gate.snapshot.write_at(&[2; 4096], 5 * CHUNK).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| gate.snapshot.flush().unwrap());
        gate.begun.recv().unwrap();
        // All on this thread: whatever waited for the sync would wait for ever.
        gate.snapshot.read_at(&mut data, 5 * CHUNK).unwrap();
        gate.snapshot.write_at(&[4; 4096], 7 * CHUNK).unwrap();
        gate.snapshot.write_at(&[4; 10], 8 * CHUNK).unwrap();
        gate.snapshot.discard_at(0, CHUNK).unwrap();
        let flags = ZeroFlags::default();
        gate.snapshot.zero_at(5 * CHUNK, 100, flags).unwrap();
        report = gate.snapshot.report();
        gate.let_through(2);
    });
    assert_eq!(data, [2; 10]);
    assert_eq!(report.exceptions.committed, 1);
}

/// A snapshot over an origin whose reads take a moment, and of which the first may fail.
fn slow_origin(fail_first: bool) -> Snapshot {
    let origin = MemDevice::from_bytes(&[9; 64 * 4096]);
    let failing = AtomicBool::new(fail_first);
    let at_read = move || {
        std::thread::sleep(Duration::from_millis(5));
        if failing.swap(false, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Io, "the test says so"));
        }
        Ok(())
    };
    let options = SnapshotOptions::default();
    let origin = gated(origin, || (), at_read);
    Snapshot::on_devices(origin, Arc::new(empty_store()), &options).unwrap()
}

/// Four threads write a sector each to the same new chunk at once; how many of them failed.
fn write_one_chunk_together(snapshot: &Snapshot, chunk: u64) -> usize {
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        let writers = [1, 2, 3, 4_u8].map(|writer| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                let offset = chunk * CHUNK + 512 * u64::from(writer);
                snapshot.write_at(&[writer; 512], offset)
            })
        });
        let results = writers.map(|writer| writer.join().unwrap());
        results.iter().filter(|result| result.is_err()).count()
    })
}

#[test]
fn of_writers_that_meet_at_a_new_chunk_one_copies_and_the_others_wait() {
    let snapshot = slow_origin(false);
    for chunk in 0..10 {
        assert_eq!(write_one_chunk_together(&snapshot, chunk), 0);
        let mut data = [0; 4096];
        snapshot.read_at(&mut data, chunk * CHUNK).unwrap();
        for (sector, bytes) in (0_u8..).zip(data.chunks(512)) {
            let wanted = if (1..=4).contains(&sector) { sector } else { 9 };
            assert_eq!(bytes, [wanted; 512], "sector {sector}");
        }
    }
    assert_eq!(snapshot.report().exceptions.uncommitted, 10);
    assert_eq!(snapshot.report().counters.chunks_copied, 10);
}

#[test]
fn a_writer_that_fails_hands_its_chunk_to_those_who_wait() {
    let snapshot = slow_origin(true);
    assert_eq!(write_one_chunk_together(&snapshot, 3), 1);
    assert_eq!(snapshot.report().exceptions.uncommitted, 1);
    let mut data = [0; 4096];
    snapshot.read_at(&mut data, 3 * CHUNK).unwrap();
    let landed = (1_u8..=4).filter(|writer| data[512 * usize::from(*writer)] == *writer);
    assert_eq!(landed.count(), 3);
}

/// Memory that grows at the moment when its size is asked for, while somebody else asks, too.
struct Growing {
    below: MemDevice,
    is_armed: AtomicBool,
    snapshot: OnceLock<Weak<Snapshot>>,
}

impl BlockDevice for Growing {
    fn size_bytes(&self) -> u64 {
        if self.is_armed.swap(false, Ordering::SeqCst) {
            self.below.resize(8 * CHUNK);
            let snapshot = self.snapshot.get().and_then(Weak::upgrade);
            assert!(!snapshot.unwrap().report().is_full);
        }
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "growing"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.below.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

#[test]
fn a_write_uses_room_that_another_thread_saw_first() {
    // Refused by the old size, the write looked whether the allocator's size was still the old
    // one; a status request in between had told it the new size, and the write ended with ENOSPC.
    let below = MemDevice::new(3 * CHUNK);
    initialise(&below, ChunkSize::from_bytes(CHUNK).unwrap(), None).unwrap();
    let device = Arc::new(Growing {
        below,
        is_armed: AtomicBool::new(false),
        snapshot: OnceLock::new(),
    });
    let origin = Arc::new(MemDevice::new(64 * CHUNK));
    let options = SnapshotOptions::default();
    let snapshot = Snapshot::on_devices(origin, device.clone(), &options).unwrap();
    let snapshot = Arc::new(snapshot);
    device.snapshot.set(Arc::downgrade(&snapshot)).unwrap();
    snapshot.write_at(&[1; 4096], 0).unwrap();
    let error = snapshot.write_at(&[1; 4096], CHUNK).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    device.is_armed.store(true, Ordering::SeqCst);
    snapshot.write_at(&[1; 4096], CHUNK).unwrap();
    assert!(!device.is_armed.load(Ordering::SeqCst));
}

#[test]
fn zeroing_and_discarding_wait_for_a_writer_where_they_must() {
    let snapshot = slow_origin(false);
    std::thread::scope(|scope| {
        scope.spawn(|| snapshot.write_at(&[1; 512], 512).unwrap());
        scope.spawn(|| snapshot.zero_at(1024, 512, ZeroFlags::default()).unwrap());
        scope.spawn(|| snapshot.discard_at(0, 100).unwrap());
    });
    let mut data = [0; 4096];
    snapshot.read_at(&mut data, 0).unwrap();
    assert_eq!((data[0], data[512], data[1024], data[1536]), (9, 1, 0, 9));
    assert_eq!(snapshot.report().exceptions.uncommitted, 1);
}

#[test]
fn a_commit_that_panics_latches_and_leaves_nobody_waiting() {
    let is_armed = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&is_armed);
    let at_sync = move || assert!(!armed.load(Ordering::SeqCst), "as the test wants");
    let device = gated(empty_store(), at_sync, || Ok(()));
    let origin = Arc::new(MemDevice::new(64 * CHUNK));
    let options = SnapshotOptions::default();
    let snapshot = Arc::new(Snapshot::on_devices(origin, device, &options).unwrap());
    snapshot.write_at(&[1; 4096], 0).unwrap();
    snapshot.flush().unwrap();
    snapshot.write_at(&[2; 4096], CHUNK).unwrap();
    is_armed.store(true, Ordering::SeqCst);
    let (say, hear) = channel();
    for _ in 0..2 {
        let (snapshot, say) = (Arc::clone(&snapshot), say.clone());
        std::thread::spawn(move || say.send(snapshot.flush()));
    }
    for _ in 0..2 {
        let told = hear.recv_timeout(Duration::from_secs(20)).unwrap();
        let kind = told.unwrap_err().kind();
        assert!(
            matches!(kind, ErrorKind::Io | ErrorKind::Latched),
            "{kind:?}"
        );
    }
    is_armed.store(false, Ordering::SeqCst);
    let latched = Some(ErrorKind::Latched);
    assert_eq!(snapshot.flush().err().map(|e| e.kind()), latched);
    let written = snapshot.write_at(&[3; 4096], 0);
    assert_eq!(written.err().map(|e| e.kind()), latched);
    let mut found = vec![0; 4096];
    snapshot.read_at(&mut found, 0).unwrap();
    assert_eq!(found, [1; 4096], "what was committed goes on");
}
