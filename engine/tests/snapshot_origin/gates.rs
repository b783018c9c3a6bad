//! Meetings that chance rarely brings about: something happens just before the origin is read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use usnap_engine::device::{Attempt, BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::snapshot_origin::{SnapshotOrigin, WhenFull};
use usnap_engine::store::initialise;
use usnap_engine::{ErrorKind, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

const CHUNK: u64 = 4096;
const CHUNKS: u64 = 16;
/// Long enough for a thread that does not wait to be done.
const A_WHILE: Duration = Duration::from_millis(100);

type Hook = Box<dyn FnOnce() + Send>;

/// Memory; what is hung in happens before the next read, or the next look at an extent.
struct Hooked {
    below: MemDevice,
    hook: Mutex<Option<Hook>>,
}

impl Hooked {
    fn before_next_look(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn meet(&self) {
        let hook = self.hook.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl BlockDevice for Hooked {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "hooked"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.meet();
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
        self.meet();
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

struct Stage {
    below: Arc<Hooked>,
    origin: Arc<SnapshotOrigin>,
    snapshot: Arc<Snapshot>,
}

fn store(chunks: u64) -> Arc<MemDevice> {
    let cow = MemDevice::new(chunks * CHUNK);
    initialise(&cow, ChunkSize::from_bytes(CHUNK).unwrap(), None).unwrap();
    Arc::new(cow)
}

/// An origin of ones, and a snapshot of it whose store has so many chunks.
fn stage(cow_chunks: u64) -> Stage {
    let below = Arc::new(Hooked {
        below: MemDevice::from_bytes(&[1; 16 * 4096]),
        hook: Mutex::default(),
    });
    let origin = Arc::new(SnapshotOrigin::on_device(below.clone(), WhenFull::Drop));
    let options = SnapshotOptions::default();
    let snapshot = origin.add_device("s", None, store(cow_chunks), &options);
    Stage {
        below,
        snapshot: snapshot.unwrap(),
        origin,
    }
}

impl Stage {
    /// Before the next look at the origin somebody writes twos to these chunks of it.
    fn write_before_next_look(&self, chunks: &'static [u64]) {
        let origin = Arc::clone(&self.origin);
        self.below.before_next_look(move || {
            for chunk in chunks {
                origin.write_at(&[2; 4096], chunk * CHUNK).unwrap();
            }
        });
    }
}

#[test]
fn a_read_does_not_show_what_the_origin_got_meanwhile() {
    let stage = stage(100);
    let mut found = [0; 4096];
    stage.write_before_next_look(&[3]);
    stage.snapshot.read_at(&mut found, 3 * CHUNK).unwrap();
    assert_eq!(found, [1; 4096]);
    stage.write_before_next_look(&[4]);
    let attempt = stage.snapshot.try_read_at(&mut found, 4 * CHUNK).unwrap();
    assert_eq!((attempt, found), (Attempt::Done, [1; 4096]));
    // In the middle of a long one, and in pieces.
    let mut found = vec![0; 16 * 4096 - 10];
    stage.write_before_next_look(&[7, 8, 11]);
    stage.snapshot.read_at(&mut found, 5).unwrap();
    assert!(found.iter().all(|byte| *byte == 1));
    stage.origin.read_at(&mut found, 0).unwrap();
    assert_eq!(found[7 * 4096], 2);
}

/// The canary: with one look only, the same meeting shows the origin's new bytes.
#[test]
fn a_snapshot_that_looks_once_shows_them() {
    let stage = stage(100);
    let cow = store(100);
    let plain = Snapshot::on_devices(stage.below.clone(), cow, &SnapshotOptions::default());
    let plain = Arc::new(plain.unwrap());
    let (saver, below) = (Arc::clone(&plain), Arc::downgrade(&stage.below));
    stage.below.before_next_look(move || {
        saver.write_at(&[1; 4096], 3 * CHUNK).unwrap();
        saver.flush().unwrap();
        let below = below.upgrade().unwrap();
        below.write_at(&[2; 4096], 3 * CHUNK).unwrap();
    });
    let mut found = [0; 4096];
    plain.read_at(&mut found, 3 * CHUNK).unwrap();
    assert_eq!(found, [2; 4096]);
}

#[test]
fn an_extent_does_not_show_what_became_of_the_origin_meanwhile() {
    let stage = stage(100);
    let origin = Arc::clone(&stage.origin);
    stage.below.before_next_look(move || {
        let flags = ZeroFlags::default();
        origin.zero_at(0, 4 * CHUNK, flags).unwrap();
    });
    let mut at = 0;
    while at < CHUNKS * CHUNK {
        let extent = stage.snapshot.extent_at(at, CHUNKS * CHUNK - at).unwrap();
        assert!(!extent.zero && !extent.hole, "at {at}: {extent:?}");
        at += extent.len;
    }
    assert!(stage.origin.extent_at(0, CHUNK).unwrap().zero);
}

#[test]
fn zeroing_does_not_take_a_hole_that_the_origin_got_meanwhile() {
    let stage = stage(100);
    stage.write_before_next_look(&[2]);
    let flags = ZeroFlags::default();
    stage.snapshot.zero_at(2 * CHUNK, CHUNK, flags).unwrap();
    let origin = Arc::clone(&stage.origin);
    stage.below.before_next_look(move || {
        origin.zero_at(5 * CHUNK, CHUNK, flags).unwrap();
    });
    stage.snapshot.zero_at(5 * CHUNK, CHUNK, flags).unwrap();
    let mut found = [9; 4096];
    for chunk in [2, 5] {
        stage.snapshot.read_at(&mut found, chunk * CHUNK).unwrap();
        assert_eq!(found, [0; 4096], "chunk {chunk}");
    }
}

#[test]
fn the_origin_waits_for_a_snapshots_writer_that_copies_from_it() {
    let stage = stage(100);
    let is_written = Arc::new(AtomicBool::new(false));
    let (origin, says) = (Arc::clone(&stage.origin), Arc::clone(&is_written));
    let (too_early, thread) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let (early, holds) = (Arc::clone(&too_early), Arc::clone(&thread));
    stage.below.before_next_look(move || {
        let says_too = Arc::clone(&says);
        let writer = std::thread::spawn(move || {
            origin.write_at(&[2; 4096], 6 * CHUNK).unwrap();
            says_too.store(true, Ordering::SeqCst);
        });
        *holds.lock().unwrap() = Some(writer);
        std::thread::sleep(A_WHILE);
        early.store(says.load(Ordering::SeqCst), Ordering::SeqCst);
    });
    stage.snapshot.write_at(&[9; 10], 6 * CHUNK).unwrap();
    thread.lock().unwrap().take().unwrap().join().unwrap();
    assert!(!too_early.load(Ordering::SeqCst));
    assert!(is_written.load(Ordering::SeqCst));
    let mut found = [0; 4096];
    stage.snapshot.read_at(&mut found, 6 * CHUNK).unwrap();
    assert!(found[..10] == [9; 10] && found[10..] == [1; 4086]);
}

#[test]
fn a_read_under_way_when_its_snapshot_is_dropped_fails() {
    // Room for one chunk: the second drops it.
    let stage = stage(3);
    let mut found = [0; 4096];
    stage.write_before_next_look(&[3, 4]);
    let error = stage.snapshot.read_at(&mut found, 4 * CHUNK).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let error = stage.snapshot.read_at(&mut found, 3 * CHUNK).unwrap_err();
    assert!(error.to_string().contains("dropped"), "{error:?}");
    assert!(stage.snapshot.extent_at(0, CHUNK).is_err());
}

#[test]
fn what_is_saved_costs_no_flush_and_no_read() {
    let stage = stage(100);
    stage.origin.write_at(&[2; 10], 5).unwrap();
    // Its own write, committed by nobody.
    stage.snapshot.write_at(&[3; 4096], CHUNK).unwrap();
    assert_eq!(stage.snapshot.report().exceptions.uncommitted, 1);
    stage.origin.write_at(&[2; 10], CHUNK).unwrap();
    assert_eq!(stage.snapshot.report().exceptions.uncommitted, 0);
    stage.below.before_next_look(|| panic!("nothing is read"));
    stage.snapshot.write_at(&[3; 4096], 9 * CHUNK).unwrap();
    for chunk in 0..2 {
        stage.origin.write_at(&[4; 4096], chunk * CHUNK).unwrap();
    }
    let uncommitted = stage.snapshot.report().exceptions.uncommitted;
    assert_eq!(uncommitted, 1, "no commit was needed");
}
