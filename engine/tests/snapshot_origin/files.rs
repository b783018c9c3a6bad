//! On files: what the identity record says while the origin is written to and after it, which
//! origin a store is taken with later, and what becomes of one that was dropped.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use usnap_engine::check::{FindingKind, check};
use usnap_engine::device::BlockDevice;
use usnap_engine::origin::{Origin, WritableOrigin};
use usnap_engine::repair::{Repair, RepairOptions};
use usnap_engine::snapshot_origin::{MemberState, SnapshotOrigin, WhenFull};
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{ErrorKind, JournalState, Snapshot, SnapshotOptions};
use usnap_format::{ChunkSize, IdentityRecord};

pub(crate) const SIZE: u64 = 1 << 20;

/// An origin of ones in a folder.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(files.path("origin"), vec![1; 1 << 20]).unwrap();
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A store that nobody tied to an origin yet.
    pub(crate) fn create(&self, name: &str, chunk_bytes: u64, chunks: u64) {
        let options = CreateOptions {
            size_bytes: chunks * chunk_bytes,
            chunk_size: ChunkSize::from_bytes(chunk_bytes).unwrap(),
            label: String::new(),
            origin: None,
            identity: true,
        };
        create(&self.path(name), &options).unwrap();
    }

    pub(crate) fn serve(&self, when_full: WhenFull) -> Arc<SnapshotOrigin> {
        let origin = WritableOrigin::open(&self.path("origin")).unwrap();
        SnapshotOrigin::open(origin, when_full)
    }

    fn record(&self, name: &str) -> IdentityRecord {
        let cow = std::fs::read(self.path(name)).unwrap();
        let decoded = IdentityRecord::decode(&cow[16..512], crc32fast::hash);
        decoded.unwrap().unwrap()
    }

    /// As `usnap serve` opens it.
    fn open_alone(&self, name: &str) -> usnap_engine::Result<(Snapshot, Vec<String>)> {
        let origin = Arc::new(Origin::open(&self.path("origin"))?);
        Snapshot::open(&origin, &self.path(name), &SnapshotOptions::default())
    }
}

pub(crate) fn add(origin: &SnapshotOrigin, files: &Files, name: &str) -> Arc<Snapshot> {
    let options = SnapshotOptions::default();
    origin.add(name, &files.path(name), &options).unwrap().0
}

fn first_bytes(device: &dyn BlockDevice) -> [u8; 4] {
    let mut bytes = [0; 4];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn the_record_says_that_the_origin_changes_as_long_as_it_may() {
    let files = Files::new();
    files.create("a", 4096, 300);
    let origin = files.serve(WhenFull::Drop);
    let snapshot = add(&origin, &files, "a");
    let record = files.record("a");
    assert!(record.origin_changing && !record.clean);
    assert_eq!(snapshot.report().journal.state, JournalState::Active);
    origin.write_at(&[2; 5000], 0).unwrap();
    snapshot.write_at(&[3; 2], 2).unwrap();
    origin.close().unwrap();
    let record = files.record("a");
    assert!(!record.origin_changing && record.clean);
    drop((snapshot, origin));
    let (alone, notes) = files.open_alone("a").unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(first_bytes(&alone), [1, 1, 3, 3]);
    let served = Origin::open(&files.path("origin")).unwrap();
    assert_eq!(first_bytes(&served), [2; 4]);
}

#[test]
fn after_a_kill_only_the_size_counts_and_the_moment_is_kept() {
    let files = Files::new();
    files.create("a", 4096, 300);
    files.create("b", 16384, 100);
    let origin = files.serve(WhenFull::Drop);
    for name in ["a", "b"] {
        add(&origin, &files, name);
    }
    origin.write_at(&[2; 70_000], 100).unwrap();
    let own = origin.snapshot("b").unwrap();
    own.write_at(&[7; 10], 500_000).unwrap();
    drop((own, origin));

    // A store alone is taken, and said to be unsure of its origin.
    let (alone, notes) = files.open_alone("a").unwrap();
    assert!(
        notes.iter().any(|note| note.contains("only its size")),
        "{notes:?}"
    );
    assert_eq!(first_bytes(&alone), [1; 4]);
    drop(alone);
    let origin = files.serve(WhenFull::Drop);
    let [a, b] = ["a", "b"].map(|name| add(&origin, &files, name));
    origin.write_at(&[4; 1 << 20], 0).unwrap();
    let mut found = vec![0; 1 << 20];
    a.read_at(&mut found, 0).unwrap();
    assert!(found.iter().all(|byte| *byte == 1));
    b.read_at(&mut found, 0).unwrap();
    assert_eq!(found[500_000..500_010], [7; 10], "the journal had it");
    found[500_000..500_010].fill(1);
    assert!(found.iter().all(|byte| *byte == 1));
    origin.close().unwrap();
}

/// Of a server that is started again with some of its snapshots, the others are added too late.
#[test]
fn after_a_kill_one_that_comes_after_the_first_write_is_refused() {
    let files = Files::new();
    for name in ["a", "b", "fresh"] {
        files.create(name, 4096, 300);
    }
    let origin = files.serve(WhenFull::Drop);
    for name in ["a", "b"] {
        add(&origin, &files, name);
    }
    origin.write_at(&[2; 10], 0).unwrap();
    drop(origin);
    let origin = files.serve(WhenFull::Drop);
    add(&origin, &files, "a");
    origin.write_at(&[3; 10], 8192).unwrap();
    let options = SnapshotOptions::default();
    let refused = origin.add("b", &files.path("b"), &options).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::OriginMismatch, "{refused:?}");
    let forced = SnapshotOptions {
        force_origin: true,
        ..options
    };
    let (_, notes) = origin.add("b", &files.path("b"), &forced).unwrap();
    assert!(notes.iter().any(|note| note.contains("--force-origin")));
    // One that has no moment yet may begin at any time; and so may one again that ended in order.
    add(&origin, &files, "fresh");
    origin.remove("fresh").unwrap();
    add(&origin, &files, "fresh");
    origin.close().unwrap();
}

#[test]
fn one_that_was_removed_belongs_to_the_origin_of_that_moment() {
    let files = Files::new();
    files.create("a", 4096, 300);
    let origin = files.serve(WhenFull::Drop);
    let snapshot = add(&origin, &files, "a");
    origin.write_at(&[2; 10], 0).unwrap();
    snapshot.write_at(&[5; 1], 1).unwrap();
    origin.remove("a").unwrap();
    assert!(origin.snapshots().is_empty());
    let gone = origin.remove("a").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    for result in [snapshot.write_at(&[1], 0), snapshot.flush()] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Io);
    }
    assert!(!snapshot.commit_pending().unwrap());
    assert_eq!(snapshot.status().to_string(), "Invalid");
    drop(snapshot);
    assert!(files.record("a").clean && !files.record("a").origin_changing);
    // As it is, it can come back; once the origin went on without it, it can't.
    let again = add(&origin, &files, "a");
    assert_eq!(first_bytes(&*again), [1, 5, 1, 1]);
    drop(again);
    origin.remove("a").unwrap();
    origin.write_at(&[6; 10], 0).unwrap();
    let options = SnapshotOptions::default();
    let refused = origin.add("a", &files.path("a"), &options).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::OriginMismatch);
    drop(origin);
    let error = files.open_alone("a").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OriginMismatch);
}

#[test]
fn one_that_is_dropped_is_no_snapshot_any_more_and_the_others_are() {
    let files = Files::new();
    files.create("small", 4096, 6);
    files.create("large", 16384, 100);
    let origin = files.serve(WhenFull::Drop);
    let small = add(&origin, &files, "small");
    let large = add(&origin, &files, "large");
    origin.write_at(&[2; 400_000], 0).unwrap();
    let states = origin.snapshots();
    let MemberState::Dropped { why } = &states[0].state else {
        panic!("{:?}", states[0]);
    };
    assert!(why.contains("is full"), "{why}");
    assert_eq!(states[1].state, MemberState::Active);
    assert_eq!(first_bytes(&*large), [1; 4]);
    assert!(small.read_at(&mut [0], 0).is_err() && small.write_at(&[0], 0).is_err());
    let record = files.record("small");
    assert!(record.origin_changing && record.session == [0; 16]);
    origin.remove("small").unwrap();
    origin.close().unwrap();
    drop((small, large, origin));
    let error = files.open_alone("small").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidStore);
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("went on without"))
    );
    let report = check(&files.path("small"), None).unwrap();
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.kind == FindingKind::Invalidated)
    );
    let options = RepairOptions {
        revalidate: true,
        ..RepairOptions::default()
    };
    let repair = Repair::open(&files.path("small"), None, &options, true).unwrap();
    let notes = &repair.plan().notes;
    assert!(
        notes.iter().any(|note| note.contains("unsound")),
        "{notes:?}"
    );
    drop(repair);
    files.open_alone("large").unwrap();
}

#[test]
fn one_that_is_full_refuses_the_origins_writes_where_it_was_told_to() {
    let files = Files::new();
    files.create("small", 4096, 6);
    let origin = files.serve(WhenFull::Refuse);
    let small = add(&origin, &files, "small");
    let error = origin.write_at(&[2; 400_000], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.hint().is_some_and(|hint| hint.contains("longer")));
    assert_eq!(first_bytes(&*origin), [1; 4]);
    assert_eq!(origin.snapshots()[0].state, MemberState::Active);
    let own = small.write_at(&[3; 4096], 40 * 4096).unwrap_err();
    assert_eq!(own.kind(), ErrorKind::NoSpace);
    // Room is used at once.
    let cow = std::fs::File::options()
        .write(true)
        .open(files.path("small"));
    cow.unwrap().set_len(300 * 4096).unwrap();
    origin.write_at(&[2; 400_000], 0).unwrap();
    assert_eq!(first_bytes(&*small), [1; 4]);
    origin.close().unwrap();
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let files = Files::new();
    files.create("a", 4096, 300);
    let origin = files.serve(WhenFull::Drop);
    add(&origin, &files, "a");
    let options = SnapshotOptions::default();
    let kind = |name: &str, file: &str, options: &SnapshotOptions| {
        let added = origin.add(name, &files.path(file), options);
        added.err().unwrap().kind()
    };
    assert_eq!(kind("a", "b", &options), ErrorKind::Exists);
    assert_eq!(kind("b", "a", &options), ErrorKind::InUse);
    assert_eq!(kind("b", "none", &options), ErrorKind::NotFound);
    assert_eq!(kind("b", "origin", &options), ErrorKind::Usage);
    let read_only = SnapshotOptions {
        read_only: true,
        ..options
    };
    assert_eq!(kind("b", "none", &read_only), ErrorKind::Usage);
    assert_eq!(origin.snapshots().len(), 1);
    origin.close().unwrap();
    origin.close().unwrap();
    let error = origin.write_at(&[1], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Latched);
    // A store of another origin, and that one in the end.
    drop(origin);
    let other = std::fs::File::options()
        .write(true)
        .open(files.path("origin"));
    other.unwrap().write_all_at(&[9; 100], SIZE / 2).unwrap();
    let origin = files.serve(WhenFull::Drop);
    let refused = origin.add("a", &files.path("a"), &options).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::OriginMismatch);
    let force = SnapshotOptions {
        force_origin: true,
        ..options
    };
    origin.add("a", &files.path("a"), &force).unwrap();
    origin.close().unwrap();
    drop(origin);
    files.open_alone("a").unwrap();
}

#[test]
fn an_origin_that_was_written_to_without_a_snapshot_is_noticed_by_its_time() {
    let files = Files::new();
    // Larger than what is sampled.
    std::fs::write(files.path("origin"), vec![1; 4 << 20]).unwrap();
    files.create("a", 4096, 1100);
    let origin = files.serve(WhenFull::Drop);
    add(&origin, &files, "a");
    origin.write_at(&[2; 10], 0).unwrap();
    origin.remove("a").unwrap();
    // Longer than the clock's step; at a place that no sample covers.
    std::thread::sleep(std::time::Duration::from_millis(30));
    origin.write_at(&[3; 10], 70_000).unwrap();
    let options = SnapshotOptions::default();
    let error = origin.add("a", &files.path("a"), &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OriginMismatch);
    assert!(error.to_string().contains("modification time"), "{error}");
}

#[test]
fn one_that_was_made_earlier_and_never_served_begins_when_it_is_added() {
    let files = Files::new();
    let identity = Origin::open(&files.path("origin")).unwrap().identity();
    let options = CreateOptions {
        size_bytes: 300 * 4096,
        chunk_size: ChunkSize::from_bytes(4096).unwrap(),
        label: String::new(),
        origin: Some(identity.unwrap()),
        identity: true,
    };
    for name in ["a", "b"] {
        create(&files.path(name), &options).unwrap();
    }
    // Served once, it has a moment.
    drop(files.open_alone("b").unwrap().0.close());
    let origin = files.serve(WhenFull::Drop);
    origin.write_at(&[2; 10], 0).unwrap();
    let options = SnapshotOptions::default();
    let (snapshot, notes) = origin.add("a", &files.path("a"), &options).unwrap();
    assert!(
        notes.iter().any(|note| note.contains("its moment is now")),
        "{notes:?}"
    );
    origin.write_at(&[4; 10], 0).unwrap();
    assert_eq!(first_bytes(&*snapshot), [2; 4]);
    let error = origin.add("b", &files.path("b"), &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OriginMismatch);
    origin.close().unwrap();
    drop((snapshot, origin));
    let (alone, notes) = files.open_alone("a").unwrap();
    assert!(
        notes.is_empty() && first_bytes(&alone) == [2; 4],
        "{notes:?}"
    );
}
