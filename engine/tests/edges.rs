//! Where a store meets a world that changed under it: a COW file cut off, an origin that grew or
//! was never noted down, a file that only begins like an unused one. On real files.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use usnap_engine::device::BlockDevice;
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{ErrorKind, JournalMode, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn origin(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn create(&self, chunks: u64) -> PathBuf {
        let path = self.path("cow");
        let chunk_size = ChunkSize::default();
        let options = CreateOptions {
            size_bytes: chunks * chunk_size.bytes(),
            chunk_size,
            label: String::new(),
            origin: None,
            identity: true,
        };
        create(&path, &options).unwrap();
        path
    }

    fn open(&self, origin: &str, options: &SnapshotOptions) -> Result<(Snapshot, Vec<String>)> {
        let origin = Arc::new(Origin::open(&self.path(origin))?);
        Snapshot::open(&origin, &self.path("cow"), options)
    }
}

fn cut(path: &std::path::Path, len: u64) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(len)
        .unwrap();
}

fn forced(adopt: bool) -> SnapshotOptions {
    SnapshotOptions {
        force_origin: true,
        adopt,
        ..SnapshotOptions::default()
    }
}

#[test]
fn a_flush_promises_nothing_about_chunks_that_were_cut_off_and_the_store_stays_readable() {
    let bench = Bench::new();
    bench.origin("origin", &[7; 40 * 4096]);
    let cow = bench.create(50);
    let (snapshot, _) = bench.open("origin", &SnapshotOptions::default()).unwrap();
    snapshot.write_at(&[1; 4096], 0).unwrap();
    snapshot.flush().unwrap();
    for chunk in 1..20 {
        snapshot.write_at(&[1; 4096], chunk * 4096).unwrap();
    }
    cut(&cow, 10 * 4096);
    snapshot.flush().unwrap_err();
    drop(snapshot);
    let without_journal = SnapshotOptions {
        journal: JournalMode::Discard,
        ..SnapshotOptions::default()
    };
    let (snapshot, _) = bench.open("origin", &without_journal).unwrap();
    let mut buf = [0; 4096];
    snapshot.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [1; 4096], "what was flushed before is there");
}

#[test]
fn writes_behind_a_cut_off_end_are_the_servers_failure_and_do_not_make_the_file_longer() {
    let bench = Bench::new();
    bench.origin("origin", &[7; 40 * 4096]);
    let cow = bench.create(50);
    let (snapshot, _) = bench.open("origin", &SnapshotOptions::default()).unwrap();
    for chunk in 0..20 {
        snapshot.write_at(&[1; 4096], chunk * 4096).unwrap();
    }
    snapshot.flush().unwrap();
    cut(&cow, 10 * 4096);
    // The commit timer's look at the size.
    snapshot.commit_pending().unwrap();
    let mapped = snapshot.write_at(&[2; 4096], 19 * 4096).unwrap_err();
    assert_eq!(mapped.kind(), ErrorKind::Io, "{mapped:?}");
    let new = snapshot.write_at(&[2; 4096], 30 * 4096).unwrap_err();
    assert_eq!(new.kind(), ErrorKind::NoSpace, "{new:?}");
    assert_eq!(cow.metadata().unwrap().len(), 10 * 4096);
    snapshot.write_at(&[2; 4096], 0).unwrap();
}

#[test]
fn a_store_written_over_an_origin_nobody_noted_is_not_tied_to_whatever_comes_first() {
    let bench = Bench::new();
    bench.origin("origin", &[7; 4 * 4096]);
    bench.create(50);
    // As a kernel writes: the record knows no origin, the store has exceptions.
    let origin: Arc<dyn BlockDevice> = Arc::new(Origin::open(&bench.path("origin")).unwrap());
    let device = usnap_engine::device::FileDevice::open_read_write(&bench.path("cow")).unwrap();
    let options = SnapshotOptions::default();
    let snapshot = Snapshot::on_devices(origin, Arc::new(device), &options).unwrap();
    snapshot.write_at(&[1; 4096], 0).unwrap();
    snapshot.flush().unwrap();
    drop(snapshot);

    bench.origin("other", &[8; 4 * 4096]);
    let (snapshot, notes) = bench.open("other", &options).unwrap();
    assert!(
        notes.iter().any(|note| note.contains("which origin")),
        "{notes:?}"
    );
    drop(snapshot);
    let (snapshot, _) = bench.open("origin", &options).unwrap();
    assert!(!snapshot.report().has_identity);
}

#[test]
fn a_refused_open_changes_not_a_byte_even_where_there_is_junk_to_clear() {
    let bench = Bench::new();
    let origin = bench.origin("origin", &[7; 6000]);
    let cow = bench.create(50);
    let (snapshot, _) = bench.open("origin", &SnapshotOptions::default()).unwrap();
    snapshot.write_at(&[1; 100], 5000).unwrap();
    snapshot.flush().unwrap();
    drop(snapshot);
    // Behind the terminator, as an interrupted commit of a kernel leaves it.
    let file = OpenOptions::new().write(true).open(&cow).unwrap();
    file.write_all_at(&[0xee; 16], 4096 + 512).unwrap();
    OpenOptions::new()
        .append(true)
        .open(origin)
        .and_then(|file| file.set_len(9000))
        .unwrap();
    let before = std::fs::read(&cow).unwrap();
    for options in [SnapshotOptions::default(), forced(false)] {
        let refused = bench.open("origin", &options).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::OriginMismatch);
        assert!(std::fs::read(&cow).unwrap() == before, "something changed");
    }
}

#[test]
fn an_origin_that_grew_shows_its_new_bytes_behind_a_written_last_chunk() {
    let bench = Bench::new();
    let path = bench.origin("origin", &[7; 6000]);
    bench.create(50);
    let (snapshot, _) = bench.open("origin", &SnapshotOptions::default()).unwrap();
    snapshot.write_at(&[1; 100], 5000).unwrap();
    snapshot.flush().unwrap();
    drop(snapshot);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(&[9; 4000], 6000)
        .unwrap();

    let refused = bench
        .open("origin", &SnapshotOptions::default())
        .err()
        .unwrap();
    assert_eq!(refused.kind(), ErrorKind::OriginMismatch);
    let refused = bench.open("origin", &forced(false)).err().unwrap();
    assert_eq!(
        refused.kind(),
        ErrorKind::OriginMismatch,
        "the last chunk is not complete"
    );
    for options in [forced(true), SnapshotOptions::default()] {
        let (snapshot, _) = bench.open("origin", &options).unwrap();
        let mut found = vec![0; 10_000];
        snapshot.read_at(&mut found, 0).unwrap();
        let mut expected = [vec![7; 6000], vec![9; 4000]].concat();
        expected[5000..5100].fill(1);
        assert_eq!(found, expected);
    }
}

#[test]
fn a_modification_time_that_was_set_proves_nothing() {
    let bench = Bench::new();
    let path = bench.origin("origin", &[7; 8192]);
    let set_mtime = || {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    set_mtime();
    bench.create(50);
    drop(bench.open("origin", &SnapshotOptions::default()).unwrap());
    drop(bench.open("origin", &SnapshotOptions::default()).unwrap());
    bench.origin("origin", &[8; 8192]);
    set_mtime();
    let error = bench
        .open("origin", &SnapshotOptions::default())
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::OriginMismatch);
}

#[test]
fn a_file_with_data_anywhere_is_no_unused_cow_device() {
    let bench = Bench::new();
    bench.origin("origin", &[7; 8192]);
    let cow = bench.path("cow");
    let file = File::create(&cow).unwrap();
    file.set_len(4 << 20).unwrap();
    file.write_all_at(&[0xdd], 3 << 20).unwrap();
    let error = bench
        .open("origin", &SnapshotOptions::default())
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Foreign);
    file.write_all_at(&[0], 3 << 20).unwrap();
    let (_, notes) = bench.open("origin", &SnapshotOptions::default()).unwrap();
    assert!(
        notes.iter().any(|note| note.contains("made a new store")),
        "{notes:?}"
    );
}

#[test]
fn an_origin_that_is_somebodys_cow_device_is_in_use() {
    let bench = Bench::new();
    bench.origin("origin", &[7; 8192]);
    let cow = bench.create(50);
    let _in_use = bench.open("origin", &SnapshotOptions::default()).unwrap();
    assert_eq!(Origin::open(&cow).unwrap_err().kind(), ErrorKind::InUse);
}

#[test]
fn a_size_that_a_kernel_would_fill_to_death_is_warned_of_when_it_is_opened_too() {
    let bench = Bench::new();
    bench.origin("origin", &[7; 8192]);
    let file = File::create(bench.path("cow")).unwrap();
    file.set_len(258 * 4096).unwrap();
    let (_, notes) = bench.open("origin", &SnapshotOptions::default()).unwrap();
    assert!(
        notes.iter().any(|note| note.contains("invalidates")),
        "{notes:?}"
    );
}

#[test]
fn zeroing_over_a_hole_of_the_origin_zeroes_what_was_written_there() {
    let bench = Bench::new();
    let path = bench.path("origin");
    File::create(&path).unwrap().set_len(64 * 4096).unwrap();
    bench.create(100);
    let (snapshot, _) = bench.open("origin", &SnapshotOptions::default()).unwrap();
    for chunk in [3, 7, 8, 40] {
        snapshot.write_at(&[5; 4096], chunk * 4096).unwrap();
    }
    let flags = usnap_engine::device::ZeroFlags::default();
    snapshot.zero_at(4096, 60 * 4096, flags).unwrap();
    let mut found = vec![1; 64 * 4096];
    snapshot.read_at(&mut found, 0).unwrap();
    assert!(found.iter().all(|&byte| byte == 0));
    assert_eq!(
        snapshot.report().exceptions.uncommitted,
        4,
        "no chunk was taken for it"
    );
}
