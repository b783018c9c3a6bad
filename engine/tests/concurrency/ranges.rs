//! Threads that share chunks but no byte, on files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use tempfile::TempDir;
use usnap_engine::device::{BlockDevice, ZeroFlags};
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

use crate::plain_loader::{compose, load};
use crate::random::Random;

const THREADS: u64 = 4;
const ORIGIN_BYTE: u8 = 0x11;

/// A snapshot on files.
struct Files {
    folder: TempDir,
    chunk_bytes: u64,
    origin_chunks: u64,
}

impl Files {
    fn new(chunk_bytes: u64, origin_chunks: u64, cow_chunks: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self {
            folder,
            chunk_bytes,
            origin_chunks,
        };
        let origin = File::create(files.folder.path().join("origin")).unwrap();
        let content = vec![ORIGIN_BYTE; usize::try_from(files.size_bytes()).unwrap()];
        origin.write_all_at(&content, 0).unwrap();
        let options = CreateOptions {
            size_bytes: cow_chunks * chunk_bytes,
            chunk_size: ChunkSize::from_bytes(chunk_bytes).unwrap(),
            label: String::new(),
            origin: None,
            identity: true,
        };
        create(&files.folder.path().join("cow"), &options).unwrap();
        files
    }

    fn size_bytes(&self) -> u64 {
        self.origin_chunks * self.chunk_bytes
    }

    fn open(&self) -> Snapshot {
        let origin = Arc::new(Origin::open(&self.folder.path().join("origin")).unwrap());
        let options = SnapshotOptions::default();
        let cow = self.folder.path().join("cow");
        Snapshot::open(&origin, &cow, &options).unwrap().0
    }

    fn cow(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("cow")).unwrap()
    }

    /// What an independent loader sees, of a snapshot that was flushed and closed.
    fn composed(&self) -> Vec<u8> {
        let origin = std::fs::read(self.folder.path().join("origin")).unwrap();
        assert!(origin.iter().all(|byte| *byte == ORIGIN_BYTE), "origin");
        compose(&origin, &self.cow()).unwrap()
    }

    fn assert_no_chunk_twice(&self) {
        let exceptions = load(&self.cow()).unwrap().exceptions;
        for pick in [|e: &(u64, u64)| e.0, |e: &(u64, u64)| e.1] {
            let mut chunks: Vec<u64> = exceptions.iter().map(pick).collect();
            chunks.sort_unstable();
            chunks.dedup();
            assert_eq!(chunks.len(), exceptions.len());
        }
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// Runs one closure a thread and hands back what they made, in order.
fn on_threads<T: Send>(work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let work = &work;
                    move || work(thread)
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .collect()
    })
}

/// One thread's life on pieces that are its own: writes, zeroes, reads, flushes, in random order.
/// `pieces` gives offset and length; hands back what each must hold in the end.
fn live(snapshot: &Snapshot, thread: u64, pieces: &[(u64, u64)], rounds: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(thread);
    let mut contents: Vec<Vec<u8>> = pieces
        .iter()
        .map(|(_, len)| vec![ORIGIN_BYTE; index(*len)])
        .collect();
    for round in 0..rounds {
        let number = index(random.below(pieces.len() as u64));
        let (offset, len) = pieces[number];
        let from = random.below(len);
        let count = 1 + random.below((len - from).min(20_000));
        let (range, at) = (index(from)..index(from + count), offset + from);
        match random.below(12) {
            0 => snapshot.flush().unwrap(),
            1 => {
                snapshot.zero_at(at, count, ZeroFlags::default()).unwrap();
                contents[number][range].fill(0);
            }
            2..=4 => {
                let mut found = vec![0; index(count)];
                snapshot.read_at(&mut found, at).unwrap();
                assert!(found == contents[number][range], "thread {thread}");
            }
            _ => {
                let byte = u8::try_from((round * THREADS + thread) % 250).unwrap();
                snapshot.write_at(&vec![byte; index(count)], at).unwrap();
                contents[number][range].fill(byte);
            }
        }
    }
    contents
}

fn assert_pieces(content: &[u8], pieces: &[(u64, u64)], wanted: &[Vec<u8>]) {
    for ((offset, len), wanted) in pieces.iter().zip(wanted) {
        let found = &content[index(*offset)..index(offset + len)];
        assert!(found == wanted, "at {offset}");
    }
}

/// All threads live on their pieces, while another reports and commits; then everything is read
/// through the snapshot, and by the independent loader.
fn live_together(files: &Files, pieces: impl Fn(u64) -> Vec<(u64, u64)> + Sync, rounds: u64) {
    let snapshot = files.open();
    let over = AtomicBool::new(false);
    let contents = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                snapshot.commit_pending().unwrap();
                let report = snapshot.report();
                assert!(report.latched.is_none() && !report.is_full);
            }
        });
        let contents = on_threads(|thread| live(&snapshot, thread, &pieces(thread), rounds));
        over.store(true, Ordering::Relaxed);
        contents
    });
    snapshot.flush().unwrap();
    let mut found = vec![0; index(files.size_bytes())];
    snapshot.read_at(&mut found, 0).unwrap();
    drop(snapshot);
    let composed = files.composed();
    for (thread, contents) in (0..).zip(&contents) {
        assert_pieces(&found, &pieces(thread), contents);
        assert_pieces(&composed, &pieces(thread), contents);
    }
    files.assert_no_chunk_twice();
}

#[test]
fn threads_with_ranges_of_their_own_keep_them() {
    let files = Files::new(4096, 256, 300);
    // Borders in the middle of chunks, and of sectors.
    let share = files.size_bytes() / THREADS;
    let border = |n: u64| {
        if n == 0 || n == THREADS {
            n * share
        } else {
            n * share + 1234
        }
    };
    let pieces = |thread| vec![(border(thread), border(thread + 1) - border(thread))];
    live_together(&files, pieces, 1500);
}

#[test]
fn threads_that_share_every_chunk_keep_their_sectors() {
    let files = Files::new(16384, 40, 60);
    let sectors = files.size_bytes() / 512;
    let pieces = |thread| -> Vec<(u64, u64)> {
        let own = (0..sectors).filter(|sector| sector % THREADS == thread);
        own.map(|sector| (sector * 512, 512)).collect()
    };
    live_together(&files, pieces, 2500);
}

#[test]
fn writers_of_one_new_chunk_get_one_exception_and_all_land() {
    let files = Files::new(4096, 300, 320);
    let snapshot = files.open();
    let barrier = Barrier::new(usize::try_from(THREADS).unwrap());
    on_threads(|thread| {
        for chunk in 0..300 {
            barrier.wait();
            let data = [u8::try_from(thread + 1).unwrap(); 512];
            snapshot
                .write_at(&data, chunk * 4096 + thread * 512)
                .unwrap();
        }
    });
    assert_eq!(snapshot.report().exceptions.uncommitted, 300);
    assert_eq!(snapshot.report().counters.chunks_copied, 300);
    snapshot.flush().unwrap();
    drop(snapshot);
    for chunk in files.composed().chunks(4096) {
        for thread in 0..THREADS {
            let at = index(thread * 512);
            assert_eq!(
                chunk[at..at + 512],
                [u8::try_from(thread + 1).unwrap(); 512]
            );
        }
        assert!(chunk[2048..].iter().all(|byte| *byte == ORIGIN_BYTE));
    }
}

#[test]
fn a_reader_beside_a_writer_sees_old_or_new_and_never_anything_else() {
    const CHUNKS: u64 = 1500;
    let files = Files::new(4096, CHUNKS, CHUNKS + 40);
    let snapshot = files.open();
    let written = AtomicU64::new(0);
    on_threads(|thread| {
        if thread == 0 {
            for chunk in 0..CHUNKS {
                // Whole chunks and parts in turn.
                let len = if chunk % 2 == 0 { 4096 } else { 1024 };
                snapshot.write_at(&vec![0x77; len], chunk * 4096).unwrap();
                written.store(chunk + 1, Ordering::Release);
            }
            return;
        }
        let mut data = [0; 1024];
        loop {
            let known = written.load(Ordering::Acquire);
            for chunk in known.saturating_sub(2)..(known + 2).min(CHUNKS) {
                snapshot.read_at(&mut data, chunk * 4096).unwrap();
                let byte = data[0];
                assert!(data == [byte; 1024] && (byte == 0x77 || byte == ORIGIN_BYTE));
                assert!(
                    byte == 0x77 || chunk >= known,
                    "a write that was acknowledged"
                );
            }
            if known == CHUNKS {
                return;
            }
        }
    });
}

#[test]
fn threads_that_run_the_device_full_get_exactly_its_capacity() {
    // 300 chunks hold 297 exceptions: header, two areas, and the rest.
    let files = Files::new(4096, 1000, 300);
    let snapshot = files.open();
    let contents = on_threads(|thread| {
        let byte = u8::try_from(thread + 1).unwrap();
        let mut landed = Vec::new();
        for n in 0..1000 / THREADS {
            let chunk = n * THREADS + thread;
            // Whole chunks, parts, and zeros with space of their own.
            let result = match n % 3 {
                0 => snapshot.write_at(&[byte; 4096], chunk * 4096),
                1 => snapshot.write_at(&[byte; 100], chunk * 4096),
                _ => {
                    let flags = ZeroFlags {
                        no_hole: true,
                        fast: false,
                    };
                    snapshot.zero_at(chunk * 4096, 4096, flags)
                }
            };
            match result {
                Ok(()) => landed.push((chunk, if n % 3 == 2 { 0 } else { byte })),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace),
            }
            if n % 16 == 0 {
                snapshot.flush().unwrap();
            }
        }
        landed
    });
    let landed: Vec<(u64, u8)> = contents.into_iter().flatten().collect();
    assert_eq!(landed.len(), 297);
    let report = snapshot.report();
    assert!(report.is_full && report.exceptions.free == 0);
    assert_eq!(report.counters.refused_for_space, 1000 - 297);
    // Full, and going on: what is mapped is written to.
    snapshot
        .write_at(&[0x55; 7], landed[0].0 * 4096 + 300)
        .unwrap();
    snapshot.flush().unwrap();
    drop(snapshot);
    let content = files.composed();
    for (chunk, byte) in &landed {
        assert_eq!(content[index(chunk * 4096)], *byte, "chunk {chunk}");
    }
    let mapped: std::collections::HashSet<u64> = landed.iter().map(|(chunk, _)| *chunk).collect();
    for chunk in (0..1000).filter(|chunk| !mapped.contains(chunk)) {
        assert_eq!(content[index(chunk * 4096)], ORIGIN_BYTE, "chunk {chunk}");
    }
    files.assert_no_chunk_twice();
}
