//! Journals of real files, on the disk and in memory. A kill is a snapshot dropped without being
//! closed: what a process leaves is the page cache and the mapped pages, and both are there.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use usnap_engine::check::check;
use usnap_engine::device::BlockDevice;
use usnap_engine::origin::Origin;
use usnap_engine::repair::{Repair, RepairOptions};
use usnap_engine::store::cow_file::create;
use usnap_engine::{
    ErrorKind, JournalMode, JournalState, Result, Snapshot, SnapshotOptions, journal_waiting,
};
use usnap_format::{Exception, IdentityRecord, NewChunk, OldChunk};

use crate::bench::{CHUNK, create_options};

struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new(root: &str) -> Self {
        let folder = TempDir::new_in(root).unwrap();
        std::fs::write(folder.path().join("origin"), [5; 64 * CHUNK]).unwrap();
        create(&folder.path().join("cow"), &create_options(200)).unwrap();
        Self { folder }
    }

    fn each(test: impl Fn(&Self)) {
        for root in ["/tmp", "/dev/shm"] {
            test(&Self::new(root));
        }
    }

    fn cow(&self) -> PathBuf {
        self.folder.path().join("cow")
    }

    fn open_as(&self, cow: &Path, options: &SnapshotOptions) -> Result<(Snapshot, Vec<String>)> {
        let origin = Origin::open(&self.folder.path().join("origin")).unwrap();
        Snapshot::open(&Arc::new(origin), cow, options)
    }

    fn open(&self) -> Snapshot {
        self.open_as(&self.cow(), &SnapshotOptions::default())
            .unwrap()
            .0
    }

    fn refused(&self, mode: JournalMode) -> String {
        let before = self.everything();
        let error = self.open_as(&self.cow(), &with_mode(mode)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::JournalInDoubt, "{error:?}");
        assert!(
            self.everything() == before,
            "a refused open changes nothing"
        );
        format!("{error:?} ({})", error.hint().unwrap())
    }

    fn write_and_kill(&self, chunks: std::ops::Range<u64>) {
        let snapshot = self.open();
        for chunk in chunks {
            write(&snapshot, chunk, 1);
        }
    }

    fn journals(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "journal"))
            .collect()
    }

    /// Name, content and time of each file.
    fn everything(&self) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
        let mut paths = self.journals();
        paths.push(self.cow());
        let look = |path: PathBuf| {
            let time = path.metadata().unwrap().modified().unwrap();
            (path.clone(), std::fs::read(path).unwrap(), time)
        };
        paths.into_iter().map(look).collect()
    }

    fn record(&self) -> IdentityRecord {
        let bytes = std::fs::read(self.cow()).unwrap();
        IdentityRecord::decode(&bytes[16..512], crc32fast::hash)
            .unwrap()
            .unwrap()
    }
}

fn with_mode(journal: JournalMode) -> SnapshotOptions {
    SnapshotOptions {
        journal,
        ..SnapshotOptions::default()
    }
}

fn write(snapshot: &Snapshot, chunk: u64, byte: u8) {
    let data = [byte; CHUNK];
    snapshot.write_at(&data, chunk * CHUNK as u64).unwrap();
}

fn byte_of(snapshot: &Snapshot, chunk: u64) -> u8 {
    let mut data = [0; CHUNK];
    snapshot.read_at(&mut data, chunk * CHUNK as u64).unwrap();
    assert_eq!(data, [data[0]; CHUNK]);
    data[0]
}

#[test]
fn a_journal_lies_beside_the_file_while_it_is_served_and_is_nobody_elses() {
    Bench::each(|bench| {
        let snapshot = bench.open();
        let journals = bench.journals();
        assert_eq!(journals.len(), 1);
        let metadata = journals[0].metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        let record = bench.record();
        assert!(!record.clean && record.session != [0; 16] && record.boot_id != [0; 16]);
        let report = snapshot.report().journal;
        assert_eq!(report.state, JournalState::Active);
        assert_eq!(report.path.as_ref(), journals.first());
        assert_eq!(journal_waiting(&bench.cow()).unwrap(), None, "it is in use");

        write(&snapshot, 3, 1);
        snapshot.close().unwrap();
        snapshot.close().unwrap();
        assert!(bench.journals().is_empty());
        let closed = bench.record();
        assert!(closed.clean && closed.session == record.session);
        drop(snapshot);
        let (snapshot, notes) = bench
            .open_as(&bench.cow(), &SnapshotOptions::default())
            .unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        assert!(!bench.record().clean && bench.record().session != record.session);
        assert_eq!(byte_of(&snapshot, 3), 1);
    });
}

#[test]
fn what_waits_is_known_beforehand_and_replayed() {
    Bench::each(|bench| {
        bench.write_and_kill(7..10);
        let waiting = journal_waiting(&bench.cow()).unwrap().unwrap();
        let missing = |n: u64| Exception {
            old_chunk: OldChunk(7 + n),
            new_chunk: NewChunk(2 + n),
        };
        let expected: Vec<_> = (0..3).map(missing).collect();
        assert_eq!(waiting.missing, Some(expected));
        assert!(waiting.is_believed() && !waiting.is_latched);
        assert_eq!(waiting.path.as_ref(), bench.journals().first());
        let at_rest = usnap_engine::dump::status(&bench.cow()).unwrap();
        assert_eq!(at_rest.journal.state, JournalState::Waiting);
        assert_eq!(
            (at_rest.journal.pending, at_rest.exceptions.committed),
            (Some(3), 0)
        );

        let (snapshot, notes) = bench
            .open_as(&bench.cow(), &SnapshotOptions::default())
            .unwrap();
        assert!(notes[0].starts_with("replayed 3 exceptions"), "{notes:?}");
        assert_eq!(bench.journals().len(), 1, "the old one is gone");
        assert!((7..10).all(|chunk| byte_of(&snapshot, chunk) == 1));
        assert_eq!(snapshot.report().exceptions.committed, 3);
    });
}

#[test]
fn a_latched_store_is_refused_until_its_journal_is_discarded() {
    let bench = Bench::new("/tmp");
    let snapshot = bench.open();
    write(&snapshot, 1, 1);
    snapshot.flush().unwrap();
    write(&snapshot, 2, 1);
    // What was written is cut off, so the commit fails for good.
    let file = File::options().write(true).open(bench.cow()).unwrap();
    file.set_len(3 * CHUNK as u64).unwrap();
    snapshot.flush().unwrap_err();
    let live = snapshot.report();
    assert!(live.latched.is_some());
    assert_eq!(live.journal.state, JournalState::Latched);
    snapshot.close().unwrap_err();
    drop(snapshot);
    assert_eq!(bench.journals().len(), 1, "it stays, to say so");

    assert!(journal_waiting(&bench.cow()).unwrap().unwrap().is_latched);
    for mode in [JournalMode::Auto, JournalMode::Replay, JournalMode::Off] {
        let said = bench.refused(mode);
        assert!(
            said.contains("a flush failed") && said.contains("--journal=discard"),
            "{said}"
        );
    }
    let (snapshot, _) = bench
        .open_as(&bench.cow(), &with_mode(JournalMode::Discard))
        .unwrap();
    assert_eq!((byte_of(&snapshot, 1), byte_of(&snapshot, 2)), (1, 5));
    assert_eq!(bench.journals().len(), 1, "a new one");
    assert_eq!(snapshot.report().journal.state, JournalState::Active);
}

#[test]
fn each_doubt_refuses_and_replay_overrules_it() {
    type Trick = fn(&Bench);
    let tricks: [(&str, Trick); 2] = [
        ("last modified by somebody else", |bench| {
            let file = File::options().write(true).open(bench.cow()).unwrap();
            let later = SystemTime::now() + Duration::from_secs(20);
            file.set_modified(later).unwrap();
        }),
        ("for another file", |bench| {
            let copy = bench.folder.path().join("copy");
            std::fs::copy(bench.cow(), &copy).unwrap();
            std::fs::rename(copy, bench.cow()).unwrap();
        }),
    ];
    for (doubt, trick) in tricks {
        Bench::each(|bench| {
            bench.write_and_kill(0..3);
            trick(bench);
            for mode in [JournalMode::Auto, JournalMode::Off] {
                let said = bench.refused(mode);
                assert!(
                    said.contains(doubt) && said.contains("3 exceptions"),
                    "{said}"
                );
                assert!(said.contains("--journal=replay") && said.contains("--journal=discard"));
            }
            let waiting = journal_waiting(&bench.cow()).unwrap().unwrap();
            assert!(waiting.doubts[0].contains(doubt), "{waiting:?}");
            assert_eq!(waiting.pending(), Some(3));
            let replay = with_mode(JournalMode::Replay);
            let (snapshot, _) = bench.open_as(&bench.cow(), &replay).unwrap();
            assert!((0..3).all(|chunk| byte_of(&snapshot, chunk) == 1));
        });
    }
}

#[test]
fn what_speaks_against_a_journal_that_misses_nothing_refuses_nothing() {
    type Trick = fn(&Bench);
    let tricks: [Trick; 2] = [
        |bench| {
            let file = File::options().write(true).open(bench.cow()).unwrap();
            let later = SystemTime::now() + Duration::from_secs(20);
            file.set_modified(later).unwrap();
        },
        // As a kernel that went on with the store.
        |bench| {
            let mut entry = [0; 16];
            entry[0] = 40;
            entry[8] = 9;
            let file = File::options().write(true).open(bench.cow()).unwrap();
            let at = (CHUNK + 3 * 16) as u64;
            file.write_all_at(&entry, at).unwrap();
        },
    ];
    for trick in tricks {
        Bench::each(|bench| {
            let snapshot = bench.open();
            (0..3).for_each(|chunk| write(&snapshot, chunk, 1));
            snapshot.flush().unwrap();
            drop(snapshot);
            trick(bench);
            let waiting = journal_waiting(&bench.cow()).unwrap().unwrap();
            assert!(
                waiting.is_believed() && waiting.is_all_committed(),
                "{waiting:?}"
            );
            let checked = check(&bench.cow(), None).unwrap();
            let said = &checked.notes[0].message;
            assert!(said.contains("all that it wrote is committed"), "{said}");
            let (snapshot, notes) = bench
                .open_as(&bench.cow(), &SnapshotOptions::default())
                .unwrap();
            assert!(notes.is_empty(), "{notes:?}");
            assert_eq!(byte_of(&snapshot, 2), 1);
        });
    }
}

#[test]
fn a_journal_that_was_emptied_is_missed_like_one_that_is_gone() {
    for len in [0, 4] {
        let bench = Bench::new("/tmp");
        bench.write_and_kill(0..3);
        let journal = bench.journals().remove(0);
        std::fs::write(&journal, &[0; 8][..len]).unwrap();
        let status = usnap_engine::dump::status(&bench.cow()).unwrap();
        assert_eq!(status.journal.state, JournalState::Absent);
        assert_eq!(status.journal.pending, None);
        let said = bench.refused(JournalMode::Auto);
        assert!(said.contains("is empty"), "{said}");
        let (_, notes) = bench
            .open_as(&bench.cow(), &with_mode(JournalMode::Discard))
            .unwrap();
        assert!(notes[0].contains("may be missing"), "{notes:?}");
        assert!(!journal.exists());
    }
}

#[test]
fn a_journal_written_over_a_longer_origin_is_replayed_by_a_repair_too() {
    let bench = Bench::new("/tmp");
    bench.open().close().unwrap();
    let origin = File::options()
        .write(true)
        .open(bench.folder.path().join("origin"))
        .unwrap();
    origin.set_len(70 * CHUNK as u64).unwrap();
    let forced = SnapshotOptions {
        force_origin: true,
        ..SnapshotOptions::default()
    };
    let (snapshot, _) = bench.open_as(&bench.cow(), &forced).unwrap();
    write(&snapshot, 68, 1);
    drop(snapshot);
    let waiting = journal_waiting(&bench.cow()).unwrap().unwrap();
    assert!(waiting.is_believed(), "{waiting:?}");
    let options = RepairOptions::default();
    let repair = Repair::open(&bench.cow(), None, &options, false).unwrap();
    repair.carry_out().unwrap();
    let (snapshot, _) = bench.open_as(&bench.cow(), &forced).unwrap();
    assert_eq!(byte_of(&snapshot, 68), 1);
}

#[test]
fn what_killed_openings_left_over_goes_and_other_files_journals_stay() {
    let bench = Bench::new("/tmp");
    let other = bench.folder.path().join("other");
    create(&other, &create_options(200)).unwrap();
    let (_in_use, _) = bench.open_as(&other, &SnapshotOptions::default()).unwrap();
    let others = bench.journals();
    bench.write_and_kill(0..3);
    let own: Vec<_> = bench
        .journals()
        .into_iter()
        .filter(|path| !others.contains(path))
        .collect();
    let named = |digits: &str| bench.folder.path().join(format!(".usnap-{digits}.journal"));
    // As if the kill had come when two journals were there; and a name that is no journal's.
    let left_over = named(&"0".repeat(32));
    let kept = named("mine");
    for copy in [&left_over, &kept] {
        std::fs::copy(&own[0], copy).unwrap();
    }
    let snapshot = bench.open();
    assert_eq!(byte_of(&snapshot, 2), 1);
    assert!(!left_over.exists() && !own[0].exists());
    assert!(kept.exists() && others[0].exists());
    assert_eq!(bench.journals().len(), 3);
}

#[test]
fn a_damaged_journal_is_refused_whatever_is_asked_and_kept_when_it_is_discarded() {
    let bench = Bench::new("/tmp");
    bench.write_and_kill(0..3);
    let journal = bench.journals().remove(0);
    let file = File::options().write(true).open(&journal).unwrap();
    file.write_all_at(&[0xee; 8], 40).unwrap();
    for mode in [JournalMode::Auto, JournalMode::Replay] {
        let said = bench.refused(mode);
        assert!(said.contains("header is damaged"), "{said}");
    }
    let waiting = journal_waiting(&bench.cow()).unwrap().unwrap();
    assert!(waiting.hopeless.is_some() && !waiting.is_believed());
    assert_eq!(waiting.pending(), None, "nobody knows");
    let checked = check(&bench.cow(), None).unwrap();
    let said = &checked.notes[0].message;
    assert!(said.contains("an unknown number of exceptions"), "{said}");
    let (snapshot, _) = bench
        .open_as(&bench.cow(), &with_mode(JournalMode::Discard))
        .unwrap();
    assert_eq!(byte_of(&snapshot, 0), 5);
    assert!(journal.exists(), "nobody knows whose it is");
}

#[test]
fn without_the_journal_that_it_had_a_killed_store_is_refused_until_that_is_discarded() {
    let bench = Bench::new("/tmp");
    bench.write_and_kill(0..3);
    assert!(bench.record().has_journal);
    let journal = bench.journals().remove(0);
    let name = journal.file_name().unwrap().to_str().unwrap().to_owned();
    let away = bench.folder.path().join("away");
    std::fs::rename(&journal, &away).unwrap();
    let status = usnap_engine::dump::status(&bench.cow()).unwrap();
    assert_eq!(status.journal.state, JournalState::Absent);
    assert!(status.journal.doubts[0].contains(&name));
    for mode in [JournalMode::Auto, JournalMode::Replay, JournalMode::Off] {
        let said = bench.refused(mode);
        assert!(said.contains(&name) && said.contains("--journal=discard"));
        assert!(said.contains(bench.folder.path().to_str().unwrap()));
    }
    // Put back, it is as if nothing had been.
    std::fs::rename(&away, &journal).unwrap();
    let (snapshot, _) = bench
        .open_as(&bench.cow(), &SnapshotOptions::default())
        .unwrap();
    assert_eq!(byte_of(&snapshot, 2), 1);
    drop(snapshot);
    std::fs::remove_file(bench.journals().remove(0)).unwrap();
    let (snapshot, notes) = bench
        .open_as(&bench.cow(), &with_mode(JournalMode::Discard))
        .unwrap();
    assert!(notes[0].contains("may be missing"), "{notes:?}");
    snapshot.close().unwrap();
    assert!(!bench.record().has_journal);
}

#[test]
fn a_killed_store_that_kept_no_journal_is_served_and_that_is_said_once() {
    let bench = Bench::new("/tmp");
    let off = with_mode(JournalMode::Off);
    let (snapshot, _) = bench.open_as(&bench.cow(), &off).unwrap();
    write(&snapshot, 0, 1);
    drop(snapshot);
    assert!(!bench.record().has_journal);
    let status = usnap_engine::dump::status(&bench.cow()).unwrap();
    assert_eq!(status.journal.state, JournalState::Absent);
    assert_eq!(status.journal.doubts, Vec::<String>::new());
    let notes = bench
        .open_as(&bench.cow(), &SnapshotOptions::default())
        .unwrap()
        .1;
    assert!(notes[0].contains("may be missing"), "{notes:?}");
    // Killed again at once, but this time there is a journal, which has nothing.
    let notes = bench
        .open_as(&bench.cow(), &SnapshotOptions::default())
        .unwrap()
        .1;
    assert!(notes.is_empty(), "{notes:?}");
}

/// As if `cow` and its journal had been written under another boot id, by a kernel that was started
/// so many seconds before this one.
fn under_another_boot_id(bench: &Bench, cow: &Path, journal: &Path, seconds: u64) {
    let record = IdentityRecord {
        boot_id: [7; 16],
        ..bench.record()
    };
    let file = File::options().write(true).open(cow).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&record.encode(crc32fast::hash), 16)
        .unwrap();
    file.set_modified(modified).unwrap();
    // The header's words (`layout.rs`): the boot is 4 and 5, the start in 12, the checksum 13.
    let file = File::options().read(true).write(true).open(journal);
    let file = file.unwrap();
    let mut words = [0; 14 * 8];
    file.read_exact_at(&mut words, 0).unwrap();
    words[32..48].fill(7);
    let (flags, _) = words[96..].split_first_chunk::<8>().unwrap();
    let flags = u64::from_ne_bytes(*flags) - (seconds << 1);
    words[96..104].copy_from_slice(&flags.to_ne_bytes());
    let sum = u64::from(crc32fast::hash(&words[..104]));
    words[104..].copy_from_slice(&sum.to_ne_bytes());
    file.write_all_at(&words, 0).unwrap();
}

#[test]
fn a_journal_of_an_earlier_boot_is_worth_nothing_and_what_it_means_is_said() {
    let bench = Bench::new("/tmp");
    bench.write_and_kill(0..3);
    under_another_boot_id(&bench, &bench.cow(), &bench.journals()[0], 100);
    assert_eq!(journal_waiting(&bench.cow()).unwrap(), None);
    let (snapshot, notes) = bench
        .open_as(&bench.cow(), &SnapshotOptions::default())
        .unwrap();
    assert!(notes[0].contains("was not closed in order"), "{notes:?}");
    assert!(notes[0].contains("had noted 3 exceptions"), "{notes:?}");
    assert_eq!(
        byte_of(&snapshot, 0),
        5,
        "the page cache is gone with a boot"
    );
    assert_eq!(bench.journals().len(), 1, "the old one is gone");
}

#[test]
fn a_journal_that_somebody_removes_or_replaces_meanwhile_is_missed() {
    for is_replaced in [false, true] {
        let bench = Bench::new("/tmp");
        let snapshot = bench.open();
        write(&snapshot, 0, 1);
        assert_eq!(snapshot.report().journal.state, JournalState::Active);
        let journal = bench.journals().remove(0);
        std::fs::rename(&journal, bench.folder.path().join("away")).unwrap();
        if is_replaced {
            std::fs::write(&journal, b"mine").unwrap();
        }
        let report = snapshot.report().journal;
        assert_eq!((report.state, report.path), (JournalState::None, None));
        assert!(report.why_none.unwrap().contains("removed"));
        assert!(snapshot.commit_pending().unwrap());
        snapshot.close().unwrap();
        assert_eq!(journal.exists(), is_replaced, "another's stays");
        assert!(bench.record().clean);
    }
    let bench = Bench::new("/tmp");
    let snapshot = bench.open();
    snapshot.close().unwrap();
    let state = snapshot.report().journal.state;
    assert_eq!(state, JournalState::Active, "an end in order is no loss");
}

#[test]
fn another_boot_id_of_the_same_kernel_is_a_doubt() {
    let bench = Bench::new("/tmp");
    bench.write_and_kill(0..3);
    under_another_boot_id(&bench, &bench.cow(), &bench.journals()[0], 0);
    let said = bench.refused(JournalMode::Auto);
    assert!(said.contains("under another boot id"), "{said}");
    let replay = with_mode(JournalMode::Replay);
    let (snapshot, _) = bench.open_as(&bench.cow(), &replay).unwrap();
    assert!((0..3).all(|chunk| byte_of(&snapshot, chunk) == 1));
}

#[test]
fn a_copy_from_an_earlier_boot_leaves_the_journal_to_the_first_one() {
    let bench = Bench::new("/tmp");
    bench.write_and_kill(0..3);
    let copy = bench.folder.path().join("copy");
    std::fs::copy(bench.cow(), &copy).unwrap();
    let journal = bench.journals().remove(0);
    under_another_boot_id(&bench, &copy, &journal, 100);
    let (_copy, notes) = bench.open_as(&copy, &SnapshotOptions::default()).unwrap();
    assert!(notes[0].contains("was not closed in order"), "{notes:?}");
    assert!(journal.exists(), "the first one's");
}

#[test]
fn a_read_only_open_shows_what_waits_and_writes_nothing() {
    let bench = Bench::new("/tmp");
    bench.write_and_kill(0..3);
    let before = bench.everything();
    let options = SnapshotOptions {
        read_only: true,
        ..SnapshotOptions::default()
    };
    let (snapshot, notes) = bench.open_as(&bench.cow(), &options).unwrap();
    assert!(
        notes[0].starts_with("shown, not committed: 3 exceptions"),
        "{notes:?}"
    );
    assert!((0..3).all(|chunk| byte_of(&snapshot, chunk) == 1));
    assert_eq!(snapshot.report().journal.state, JournalState::Waiting);
    snapshot.flush().unwrap();
    snapshot.close().unwrap();
    drop(snapshot);
    assert!(
        bench.everything() == before,
        "a read-only open writes nothing"
    );
    assert_eq!(byte_of(&bench.open(), 2), 1);
}

#[test]
fn changes_of_every_kind_leave_a_time_that_the_journal_knows() {
    use usnap_engine::device::ZeroFlags;
    Bench::each(|bench| {
        let changes: [fn(&Snapshot); 5] = [
            |snapshot| write(snapshot, 0, 2),
            |snapshot| snapshot.discard_at(0, CHUNK as u64).unwrap(),
            |snapshot| {
                let no_hole = ZeroFlags {
                    no_hole: true,
                    fast: false,
                };
                snapshot.zero_at(0, CHUNK as u64, no_hole).unwrap();
            },
            |snapshot| {
                let length = CHUNK as u64;
                snapshot.zero_at(0, length, ZeroFlags::default()).unwrap();
            },
            |snapshot| snapshot.flush().unwrap(),
        ];
        for change in changes {
            let snapshot = bench.open();
            write(&snapshot, 0, 1);
            // Later than what is near enough.
            std::thread::sleep(Duration::from_millis(300));
            change(&snapshot);
            drop(snapshot);
            let (_, notes) = bench
                .open_as(&bench.cow(), &SnapshotOptions::default())
                .unwrap();
            assert!(notes.len() < 2, "{notes:?}");
        }
    });
}
