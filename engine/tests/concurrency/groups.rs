//! Flushes of many threads: each keeps its promise, and together they cost few syncs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::store::initialise;
use usnap_engine::{Durability, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

use crate::plain_loader::compose;
use crate::random::Random;

const CHUNK: usize = 512;

/// A device whose sync is slow, and covers only what was written before it began.
struct SlowToSync {
    below: MemDevice,
    durable: Mutex<Vec<u8>>,
    delay: Duration,
    syncs: AtomicU64,
}

impl SlowToSync {
    fn new(chunks: usize, delay: Duration) -> Arc<Self> {
        let below = MemDevice::new((chunks * CHUNK) as u64);
        initialise(&below, ChunkSize::from_bytes(CHUNK as u64).unwrap(), None).unwrap();
        Arc::new(Self {
            durable: Mutex::new(below.to_bytes()),
            below,
            delay,
            syncs: AtomicU64::new(0),
        })
    }

    /// What a power cut would leave now, at the least.
    fn durable(&self) -> Vec<u8> {
        let durable = self.durable.lock();
        durable.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl BlockDevice for SlowToSync {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "slow to sync"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let covered = self.below.to_bytes();
        std::thread::sleep(self.delay);
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = covered;
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

fn open(device: &Arc<SlowToSync>, chunks: usize, durability: Durability) -> Snapshot {
    let options = SnapshotOptions {
        durability,
        ..SnapshotOptions::default()
    };
    let origin = Arc::new(MemDevice::new((chunks * CHUNK) as u64));
    Snapshot::on_devices(origin, device.clone(), &options).unwrap()
}

/// Each of some threads writes to chunks of its own, new ones and known ones, and makes them
/// durable; right after, they must be in what a power cut would leave.
fn promises_are_kept(durability: Durability) {
    const THREADS: u64 = 6;
    const CHUNKS: u64 = 80;
    const ROUNDS: u64 = 60;
    let chunks = usize::try_from(THREADS * CHUNKS).unwrap();
    let device = SlowToSync::new(chunks + 60, Duration::from_micros(300));
    let snapshot = open(&device, chunks, durability);
    let origin = vec![0; chunks * CHUNK];
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (device, snapshot, origin) = (&device, &snapshot, &origin);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                let mut own = vec![0; usize::try_from(CHUNKS).unwrap()];
                for round in 1..=ROUNDS {
                    let byte = u8::try_from(round).unwrap();
                    let chunk = random.below(CHUNKS);
                    own[usize::try_from(chunk).unwrap()] = byte;
                    let offset = (thread * CHUNKS + chunk) * CHUNK as u64;
                    snapshot.write_at(&[byte; CHUNK], offset).unwrap();
                    if durability == Durability::Flush {
                        snapshot.flush().unwrap();
                    }
                    let content = compose(origin, &device.durable()).unwrap();
                    let first = usize::try_from(thread * CHUNKS).unwrap() * CHUNK;
                    for (chunk, byte) in own.iter().enumerate() {
                        let at = first + chunk * CHUNK;
                        assert_eq!(content[at..at + CHUNK], [*byte; CHUNK], "round {round}");
                    }
                }
            });
        }
    });
}

#[test]
fn what_a_flush_covers_is_durable_when_it_returns() {
    promises_are_kept(Durability::Flush);
}

#[test]
fn with_every_write_durable_each_is_when_it_returns() {
    promises_are_kept(Durability::EveryWrite);
}

#[test]
fn flushes_at_the_same_time_share_their_syncs() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 20;
    let chunks = usize::try_from(THREADS * ROUNDS).unwrap();
    let device = SlowToSync::new(chunks + 60, Duration::from_millis(2));
    let snapshot = open(&device, chunks, Durability::Flush);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let snapshot = &snapshot;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let offset = (round * THREADS + thread) * CHUNK as u64;
                    snapshot.write_at(&[1; CHUNK], offset).unwrap();
                    snapshot.flush().unwrap();
                }
            });
        }
    });
    // Alone, each flush would cost two syncs.
    let (syncs, alone) = (device.syncs.load(Ordering::Relaxed), 2 * THREADS * ROUNDS);
    assert!(syncs * 3 < alone, "{syncs} syncs, {alone} without groups");
    assert_eq!(snapshot.report().exceptions.committed, THREADS * ROUNDS);
}
