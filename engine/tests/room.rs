//! Room for new chunks: reserved before a number is handed out where a write does not take it, made
//! by a file that grows by itself, and gone where a file was cut off. On devices in memory that
//! count, and on real files.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::store::initialise;
use usnap_engine::{Error, ErrorKind, JournalMode, Result, Snapshot, SnapshotOptions, SpaceLimit};
use usnap_format::{ChunkSize, Layout, NewChunk};

const CHUNK: u64 = 4096;

/// Memory on a filesystem that may notice too late that it is full.
struct Late {
    below: MemDevice,
    needs_reservation: bool,
    /// Data is not kept, and metadata finds no space.
    has_no_room_for_areas: AtomicBool,
    /// The lengths that it was given, one after the other.
    lengths: Mutex<Vec<u64>>,
    /// So many blocks are left.
    budget: AtomicU64,
    reserved: Mutex<BTreeSet<u64>>,
    /// First chunk and count of each call that succeeded, and how many did not.
    calls: Mutex<Vec<(u64, u64)>>,
    refused: AtomicU64,
}

impl Late {
    fn new(chunks: u64, needs_reservation: bool, budget: u64) -> Arc<Self> {
        let below = MemDevice::new(chunks * CHUNK);
        initialise(&below, ChunkSize::default(), None).unwrap();
        Arc::new(Self {
            below,
            needs_reservation,
            has_no_room_for_areas: AtomicBool::new(false),
            lengths: Mutex::default(),
            budget: AtomicU64::new(budget),
            reserved: Mutex::default(),
            calls: Mutex::default(),
            refused: AtomicU64::new(0),
        })
    }

    fn snapshot(self: &Arc<Self>) -> Snapshot {
        let origin = Arc::new(MemDevice::new(self.size_bytes()));
        Snapshot::on_devices(origin, self.clone(), &SnapshotOptions::default()).unwrap()
    }

    /// The calls that were for data.
    fn data_calls(&self) -> Vec<(u64, u64)> {
        let layout = Layout::new(ChunkSize::default());
        let calls = self.calls.lock().unwrap().clone();
        let is_data =
            |(first, count): &(u64, u64)| *count > 1 || !layout.is_metadata(NewChunk(*first));
        calls.into_iter().filter(is_data).collect()
    }
}

impl BlockDevice for Late {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "late"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        if self.needs_reservation && offset >= 2 * CHUNK {
            let reserved = self.reserved.lock().unwrap();
            let end = (offset + data.len() as u64).div_ceil(CHUNK);
            for chunk in offset / CHUNK..end {
                assert!(reserved.contains(&chunk), "chunk {chunk} has no space");
            }
        }
        if self.has_no_room_for_areas.load(Ordering::SeqCst) {
            let layout = Layout::new(ChunkSize::default());
            if layout.is_metadata(NewChunk(offset / CHUNK)) {
                return Err(Error::new(ErrorKind::NoSpace, "no space: the test says so"));
            }
            return Ok(());
        }
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        let chunks = offset / CHUNK..(offset + len) / CHUNK;
        let mut reserved = self.reserved.lock().unwrap();
        let new: Vec<u64> = chunks.filter(|chunk| !reserved.contains(chunk)).collect();
        if new.len() as u64 > self.budget.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Error::new(ErrorKind::NoSpace, "no space: the test says so"));
        }
        self.budget.fetch_sub(new.len() as u64, Ordering::SeqCst);
        reserved.extend(new);
        let mut calls = self.calls.lock().unwrap();
        calls.push((offset / CHUNK, len / CHUNK));
        Ok(())
    }

    fn needs_reservation(&self) -> bool {
        self.needs_reservation
    }

    /// As a file that can be given a length and nothing else, by a thread that is held up on its way.
    fn extend_to(&self, size_bytes: u64) -> Result<()> {
        if size_bytes > self.size_bytes() {
            std::thread::sleep(Duration::from_millis(100));
            self.lengths.lock().unwrap().push(size_bytes);
            self.below.resize(size_bytes);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

/// Writes chunk after chunk until one finds no space; how many there were.
fn fill(snapshot: &Snapshot, from: u64) -> u64 {
    for chunk in from.. {
        match snapshot.write_at(&[7; 4096], chunk * CHUNK) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
                return chunk - from;
            }
        }
    }
    0
}

#[test]
fn a_write_that_takes_its_space_is_not_reserved_before() {
    let device = Late::new(600, false, u64::MAX);
    let snapshot = device.snapshot();
    for chunk in 0..500 {
        snapshot.write_at(&[1; 4096], chunk * CHUNK).unwrap();
    }
    snapshot.flush().unwrap();
    assert_eq!(device.data_calls(), []);
}

#[test]
fn elsewhere_space_is_reserved_in_large_steps_before_it_is_written() {
    let device = Late::new(9000, true, u64::MAX);
    let snapshot = device.snapshot();
    for chunk in 0..8200 {
        snapshot.write_at(&[1; 4096], chunk * CHUNK).unwrap();
    }
    snapshot.flush().unwrap();
    // 16 MiB at once, and what is left of the device.
    let wanted = [(2, 4096), (4098, 4096), (8194, 806)];
    assert_eq!(device.data_calls(), wanted);
}

#[test]
fn where_space_runs_out_steps_halve_to_the_last_chunk_and_go_on_when_there_is_more() {
    for budget in [0, 1, 2, 3, 10, 97, 300, 301] {
        let device = Late::new(2000, true, budget);
        // The first area, reserved at open, takes none of it.
        device.reserved.lock().unwrap().insert(1);
        let snapshot = device.snapshot();
        // The 256th exception needs the second area too.
        let fits = |budget: u64| if budget > 255 { budget - 1 } else { budget };
        assert_eq!(fill(&snapshot, 0), fits(budget), "with {budget}");
        assert_eq!(snapshot.report().latched, None);
        snapshot.flush().unwrap();

        let refused = device.refused.load(Ordering::SeqCst);
        assert_eq!(fill(&snapshot, fits(budget)), 0, "still full");
        assert_eq!(
            device.refused.load(Ordering::SeqCst),
            refused + 1,
            "one try"
        );

        device.budget.fetch_add(40, Ordering::SeqCst);
        assert_eq!(
            fill(&snapshot, fits(budget)),
            fits(budget + 40) - fits(budget)
        );
        snapshot.flush().unwrap();
        assert_eq!(snapshot.report().exceptions.committed, fits(budget + 40));
    }
}

/// Without a commit there is no end to what waits in memory, so there is one to what is taken.
#[test]
fn where_commits_find_no_space_what_waits_for_one_has_a_bound() {
    const BOUND: u64 = 2 << 18;
    let device = Late::new(BOUND + BOUND / 256 + 1000, false, u64::MAX);
    let snapshot = device.snapshot();
    device.has_no_room_for_areas.store(true, Ordering::SeqCst);
    let data = vec![1; 1 << 20];
    let refused = (0..2049).find_map(|n| {
        let written = snapshot.write_at(&data, n << 20);
        written.err().map(|error| (n, error.kind()))
    });
    assert_eq!(refused, Some((2048, ErrorKind::NoSpace)));
    let report = snapshot.report();
    assert_eq!(report.latched, None);
    assert_eq!(report.exceptions.uncommitted, BOUND);
    // What is mapped is written to as ever, and with room everything goes on.
    snapshot.write_at(&data, 7 << 20).unwrap();
    device.has_no_room_for_areas.store(false, Ordering::SeqCst);
    snapshot.write_at(&[2; 4096], 2048 << 20).unwrap();
    snapshot.flush().unwrap();
    assert_eq!(snapshot.report().exceptions.committed, BOUND + 1);
}

/// Two look at a length, and one of them comes late: it must not give the device an old length.
#[test]
fn threads_that_find_a_device_full_together_never_make_it_shorter() {
    let device = Late::new(30, false, u64::MAX);
    let options = SnapshotOptions {
        max_cow_bytes: Some(1 << 30),
        ..SnapshotOptions::default()
    };
    let origin = Arc::new(MemDevice::new(4000 * CHUNK));
    let snapshot = Snapshot::on_devices(origin, device.clone(), &options).unwrap();
    for chunk in 0..capacity(30) {
        snapshot.write_at(&[1; 4096], chunk * CHUNK).unwrap();
    }
    let together = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (snapshot, together) = (&snapshot, &together);
            scope.spawn(move || {
                together.wait();
                let chunk = 1000 + thread;
                snapshot.write_at(&[2; 4096], chunk * CHUNK).unwrap();
            });
        }
    });
    let lengths = device.lengths.lock().unwrap().clone();
    assert_eq!(lengths, [30 * CHUNK + (64 << 20)]);
    snapshot.flush().unwrap();
}

/// A store on a real file of so many chunks, and an origin of 4,000.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new(cow_chunks: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let origin = std::fs::File::create(dir.path().join("origin")).unwrap();
        origin.set_len(4000 * CHUNK).unwrap();
        let files = Self { dir };
        let options = CreateOptions {
            size_bytes: cow_chunks * CHUNK,
            chunk_size: ChunkSize::default(),
            label: String::new(),
            origin: None,
            identity: true,
        };
        create(&files.cow(), &options).unwrap();
        files
    }

    fn cow(&self) -> PathBuf {
        self.dir.path().join("cow")
    }

    fn set_len(&self, chunks: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(self.cow());
        file.unwrap().set_len(chunks * CHUNK).unwrap();
    }

    fn chunks(&self) -> u64 {
        self.cow().metadata().unwrap().len() / CHUNK
    }

    fn open(&self, max_chunks: Option<u64>) -> Snapshot {
        self.open_with(max_chunks, JournalMode::default())
    }

    fn open_with(&self, max_chunks: Option<u64>, journal: JournalMode) -> Snapshot {
        let origin = Arc::new(Origin::open(&self.dir.path().join("origin")).unwrap());
        let options = SnapshotOptions {
            max_cow_bytes: max_chunks.map(|chunks| chunks * CHUNK),
            journal,
            ..SnapshotOptions::default()
        };
        Snapshot::open(&origin, &self.cow(), &options).unwrap().0
    }
}

fn capacity(chunks: u64) -> u64 {
    Layout::new(ChunkSize::default()).capacity(chunks)
}

#[test]
fn a_file_grows_to_its_limit_and_takes_exactly_what_fits_there() {
    // 515 chunks are a size that a kernel destroys: 2 + 512 exceptions, and no third area.
    for (limit, becomes) in [(1000, 1000), (515, 514), (31, 31), (20, 30)] {
        let files = Files::new(30);
        let snapshot = files.open(Some(limit));
        assert_eq!(
            snapshot.report().exceptions.free,
            capacity(becomes),
            "{limit}"
        );
        assert_eq!(snapshot.space().left_bytes, capacity(becomes) * CHUNK);
        assert_eq!(files.chunks(), 30, "not before it is full");
        assert_eq!(fill(&snapshot, 0), capacity(becomes), "{limit}");
        assert_eq!(files.chunks(), becomes);
        snapshot.flush().unwrap();
        let space = snapshot.space();
        assert_eq!((space.percent_used(), space.limit), (100, SpaceLimit::Cow));
        drop(snapshot);
        let snapshot = files.open(None);
        assert_eq!(snapshot.report().exceptions.committed, capacity(becomes));
    }
}

#[test]
fn threads_that_fill_a_growing_file_together_get_each_chunk_once() {
    let files = Files::new(30);
    let snapshot = files.open(Some(3000));
    let written: u64 = std::thread::scope(|scope| {
        let fill = |first: u64| {
            let chunks = (first..4000).step_by(4);
            let written = chunks.filter(|chunk| {
                let data = chunk.to_le_bytes().repeat(512);
                snapshot.write_at(&data, chunk * CHUNK).is_ok()
            });
            written.count() as u64
        };
        let threads: Vec<_> = (0..4)
            .map(|first| scope.spawn(move || fill(first)))
            .collect();
        // Somebody else makes it longer, too.
        files.set_len(1500.max(files.chunks()));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(written, capacity(3000));
    assert_eq!(files.chunks(), 3000);
    snapshot.flush().unwrap();
    let mut buf = vec![0; 4096];
    let mut found = 0;
    for chunk in 0..4000 {
        snapshot.read_at(&mut buf, chunk * CHUNK).unwrap();
        let is_written = buf == chunk.to_le_bytes().repeat(512) && chunk > 0;
        assert!(
            is_written || buf.iter().all(|&byte| byte == 0),
            "chunk {chunk}"
        );
        found += u64::from(is_written);
    }
    // Chunk 0's content is zeros either way.
    assert!(found == written || found + 1 == written);
}

fn kind(result: Result<()>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn what_was_cut_off_is_not_shown_as_zeros_when_the_file_is_long_again() {
    let files = Files::new(200);
    let snapshot = files.open(Some(300));
    for chunk in 0..100 {
        snapshot.write_at(&[1; 4096], chunk * CHUNK).unwrap();
    }
    snapshot.flush().unwrap();
    files.set_len(50);
    snapshot.commit_pending().unwrap();
    files.set_len(200);
    let mut buf = [0; 4096];
    for chunk in 0..100 {
        // Chunk n lies at n + 2.
        let is_gone = chunk + 2 >= 50;
        let wanted = is_gone.then_some(ErrorKind::Io);
        assert_eq!(
            kind(snapshot.read_at(&mut buf, chunk * CHUNK)),
            wanted,
            "{chunk}"
        );
        assert_eq!(
            kind(snapshot.write_at(&[2; 10], chunk * CHUNK)),
            wanted,
            "{chunk}"
        );
        let flags = ZeroFlags::default();
        assert_eq!(
            kind(snapshot.zero_at(chunk * CHUNK, 10, flags)),
            wanted,
            "{chunk}"
        );
        // Who is told of zeros does not even read.
        let extent = snapshot.extent_at(chunk * CHUNK, CHUNK).unwrap();
        assert!(!extent.zero && !extent.hole, "{chunk}: {extent:?}");
    }
    // New chunks are taken behind all that, and are durable.
    assert_eq!(fill(&snapshot, 100), capacity(300) - 100);
    snapshot.flush().unwrap();
    snapshot.read_at(&mut buf, 150 * CHUNK).unwrap();
    assert_eq!(buf, [7; 4096]);
}

#[test]
fn a_file_that_is_cut_off_is_not_made_longer_to_look_whole() {
    let files = Files::new(200);
    let snapshot = files.open(Some(1000));
    for chunk in 0..100 {
        snapshot.write_at(&[1; 4096], chunk * CHUNK).unwrap();
    }
    snapshot.flush().unwrap();
    files.set_len(50);
    snapshot.commit_pending().unwrap();
    assert_eq!(fill(&snapshot, 100), 0);
    assert_eq!(files.chunks(), 50);
    // One whose unused end was cut off is as good as before.
    let files = Files::new(200);
    let snapshot = files.open(Some(1000));
    snapshot.write_at(&[1; 4096], 0).unwrap();
    files.set_len(50);
    snapshot.commit_pending().unwrap();
    assert_eq!(fill(&snapshot, 1), capacity(1000) - 1);
    snapshot.flush().unwrap();
}

#[test]
fn a_commit_of_what_was_cut_off_latches_although_the_file_is_long_again() {
    let files = Files::new(200);
    let snapshot = files.open(None);
    snapshot.write_at(&[1; 4096], 0).unwrap();
    snapshot.flush().unwrap();
    for chunk in 1..100 {
        snapshot.write_at(&[1; 4096], chunk * CHUNK).unwrap();
    }
    files.set_len(50);
    // A status request looks at the size, too.
    assert!(snapshot.report().is_full);
    files.set_len(200);
    assert_eq!(kind(snapshot.flush()), Some(ErrorKind::Io));
    assert!(snapshot.report().latched.is_some());
    assert_eq!(kind(snapshot.flush()), Some(ErrorKind::Latched));
    drop(snapshot);
    // Its journal is poisoned, and not to be replayed.
    let report = files.open_with(None, JournalMode::Discard).report();
    assert_eq!(report.exceptions.committed, 1, "what was durable");
}

#[test]
fn a_quota_and_a_limit_of_file_sizes_are_no_space() {
    for errno in [28, 122, 27] {
        // ENOSPC, EDQUOT, EFBIG.
        let error = std::io::Error::from_raw_os_error(errno);
        assert_eq!(ErrorKind::of_io(&error), ErrorKind::NoSpace, "{error}");
    }
}
