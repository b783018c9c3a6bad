//! A commit that panics, which no code here should: it must end as a failed flush, for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::{ErrorKind, Result, Snapshot, SnapshotOptions};

use crate::stores::image;

/// A device whose syncs panic once it is armed.
struct Buggy {
    below: MemDevice,
    is_armed: AtomicBool,
}

impl BlockDevice for Buggy {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "buggy"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        assert!(!self.is_armed.load(Ordering::SeqCst), "as the test wants");
        self.below.flush()
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

#[test]
fn a_commit_that_panics_latches_and_leaves_nobody_waiting() {
    let device = Arc::new(Buggy {
        below: MemDevice::from_bytes(&image(4096, 40, &[])),
        is_armed: AtomicBool::new(false),
    });
    let origin = Arc::new(MemDevice::new(20 * 4096));
    let options = SnapshotOptions::default();
    let snapshot = Arc::new(Snapshot::on_devices(origin, device.clone(), &options).unwrap());
    snapshot.write_at(&[1; 4096], 0).unwrap();
    snapshot.flush().unwrap();
    snapshot.write_at(&[2; 4096], 4096).unwrap();
    device.is_armed.store(true, Ordering::SeqCst);
    let (say, hear) = std::sync::mpsc::channel();
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
    device.is_armed.store(false, Ordering::SeqCst);
    let latched = Some(ErrorKind::Latched);
    assert_eq!(snapshot.flush().err().map(|e| e.kind()), latched);
    let written = snapshot.write_at(&[3; 4096], 0);
    assert_eq!(written.err().map(|e| e.kind()), latched);
    let mut found = vec![0; 4096];
    snapshot.read_at(&mut found, 0).unwrap();
    assert_eq!(found, [1; 4096], "what was committed goes on");
}
