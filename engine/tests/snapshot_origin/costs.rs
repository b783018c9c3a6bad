//! What a write to the origin costs: nothing where it is saved, a run and a commit where it is not,
//! and writers that come together share commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use usnap_engine::SnapshotOptions;
use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::sim::{Counting, Counts};
use usnap_engine::snapshot_origin::{SnapshotOrigin, WhenFull};
use usnap_engine::store::initialise;
use usnap_format::ChunkSize;

const MIB: usize = 1 << 20;

/// Memory whose flushes take a moment, once they are told to.
struct Slow {
    below: MemDevice,
    is_slow: AtomicBool,
}

impl BlockDevice for Slow {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "slow"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> usnap_engine::Result<()> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> usnap_engine::Result<()> {
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> usnap_engine::Result<()> {
        if self.is_slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn discard_at(&self, offset: u64, len: u64) -> usnap_engine::Result<()> {
        self.below.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> usnap_engine::Result<()> {
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> usnap_engine::Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> usnap_engine::Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

struct Counted {
    origin: SnapshotOrigin,
    below: Arc<Counting>,
    slow: Vec<Arc<Slow>>,
    cows: Vec<Arc<Counting>>,
}

/// An origin of 4 MiB and snapshots with chunks of 4, 16 and 64 KiB.
fn counted() -> Counted {
    let below = Arc::new(Counting::new(Arc::new(MemDevice::new(4 * MIB as u64))));
    let origin = SnapshotOrigin::on_device(below.clone(), WhenFull::Drop);
    let (mut slow, mut cows) = (Vec::new(), Vec::new());
    for shift in [12, 14, 16] {
        let cow = MemDevice::new(6 * MIB as u64);
        initialise(&cow, ChunkSize::from_bytes(1 << shift).unwrap(), None).unwrap();
        let device = Arc::new(Slow {
            below: cow,
            is_slow: AtomicBool::new(false),
        });
        slow.push(device.clone());
        let counting = Arc::new(Counting::new(device));
        cows.push(counting.clone());
        let name = format!("s{shift}");
        let options = SnapshotOptions::default();
        origin.add_device(&name, None, counting, &options).unwrap();
    }
    Counted {
        origin,
        below,
        slow,
        cows,
    }
}

#[test]
fn a_write_to_what_is_saved_costs_itself() {
    let counted = counted();
    counted.origin.write_at(&[1; 100_000], 0).unwrap();
    for cow in &counted.cows {
        cow.take();
    }
    let wanted = Counts {
        writes: 100,
        written_bytes: 100 * 512,
        ..Counts::default()
    };
    let again = || {
        for n in 0..100 {
            counted.origin.write_at(&[2; 512], n * 900).unwrap();
        }
    };
    counted.below.expect(wanted, again).unwrap();
    for cow in &counted.cows {
        assert_eq!(cow.take(), Counts::default());
    }
}

#[test]
fn a_large_write_is_saved_in_runs_with_one_commit() {
    let counted = counted();
    for cow in &counted.cows {
        cow.take();
    }
    let (_, cost) = counted
        .below
        .cost_of(|| counted.origin.write_at(&vec![1; 2 * MIB], 0).unwrap());
    // Each snapshot reads a mebibyte at once, and once more where an area lies between.
    assert!(
        cost.reads <= 3 * 3 && cost.read_bytes == 3 * 2 * MIB as u64,
        "{cost}"
    );
    assert_eq!((cost.writes, cost.flushes), (1, 0));
    for (cow, chunks) in counted.cows.iter().zip([512_u64, 128, 32]) {
        let cost = cow.take();
        let entry_sectors = chunks.div_ceil(32);
        assert!(cost.writes <= 4 + entry_sectors, "{cost}");
        assert!(cost.flushes <= 1 + entry_sectors, "{cost}");
    }
}

#[test]
fn writers_that_come_together_share_their_commits() {
    const THREADS: u64 = 8;
    const EACH: u64 = 12;
    let counted = counted();
    for (slow, cow) in counted.slow.iter().zip(&counted.cows) {
        slow.is_slow.store(true, Ordering::Relaxed);
        cow.take();
    }
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let origin = &counted.origin;
            scope.spawn(move || {
                for n in 0..EACH {
                    let chunk = thread * EACH + n;
                    origin.write_at(&[1; 512], chunk * 4096).unwrap();
                }
            });
        }
    });
    let cost = counted.cows[0].take();
    let alone = THREADS * EACH * 2;
    assert!(cost.flushes <= alone / 2, "{} of {alone}", cost.flushes);
}
