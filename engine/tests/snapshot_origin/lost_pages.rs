//! Flushes of the origin that fail. The system tells of a lost page once, and goes on showing it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::snapshot_origin::{SnapshotOrigin, WhenFull};
use usnap_engine::{Error, ErrorKind, Result};

/// What is read and written is memory; a flush that fails leaves the disk as it was, is told of
/// once, and comes back last of all.
struct LosesPages {
    memory: MemDevice,
    disk: MemDevice,
    fails: AtomicBool,
    flushes: AtomicU64,
}

fn copy(from: &MemDevice, to: &MemDevice) -> Result<()> {
    let mut content = vec![0; usize::try_from(from.size_bytes()).expect("small")];
    from.read_at(&mut content, 0)?;
    to.write_at(&content, 0)
}

impl LosesPages {
    fn of_ones() -> Arc<Self> {
        Arc::new(Self {
            memory: MemDevice::from_bytes(&[1; 8192]),
            disk: MemDevice::from_bytes(&[1; 8192]),
            fails: AtomicBool::new(true),
            flushes: AtomicU64::new(0),
        })
    }
}

impl BlockDevice for LosesPages {
    fn size_bytes(&self) -> u64 {
        self.memory.size_bytes()
    }

    fn name(&self) -> &'static str {
        "loses pages"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.memory.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.memory.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if self.fails.swap(false, Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
            return Err(Error::new(ErrorKind::Io, "a page is lost"));
        }
        // The page that is lost is not dirty any more, and so is not written.
        Ok(())
    }

    fn drop_page_cache(&self) {
        copy(&self.disk, &self.memory).expect("memory");
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.memory.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.memory.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.memory.reserve_at(offset, len)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.memory.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

#[test]
fn a_page_that_is_lost_is_told_to_every_client_that_flushes() {
    let below = LosesPages::of_ones();
    let origin = SnapshotOrigin::on_device(Arc::clone(&below) as _, WhenFull::Drop);
    origin.write_at(&[2; 4096], 0).unwrap();
    let together = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                together.wait();
                origin.flush().unwrap_err();
            });
        }
    });
    assert_eq!(below.flushes.load(Ordering::SeqCst), 1);
    let error = origin.write_at(&[3], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Latched);
}

#[test]
fn who_serves_it_next_sees_what_is_on_the_disk() {
    let below = LosesPages::of_ones();
    let serve = || SnapshotOrigin::on_device(Arc::clone(&below) as _, WhenFull::Drop);
    let before = serve();
    before.write_at(&[2; 4096], 0).unwrap();
    before.flush().unwrap_err();
    drop(before);
    let next = serve();
    next.flush().unwrap();
    let mut found = [0; 4096];
    next.read_at(&mut found, 0).unwrap();
    assert_eq!(
        found, [1; 4096],
        "what is durable, since the flush was good"
    );
}
