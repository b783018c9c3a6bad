//! A sync that fails is told once. Whatever it was that lost a page, and whether there is a journal
//! to note it in, what a later open shows and flushes is there after a power cut.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::{
    Error, ErrorKind, HeapMemory, JournalMemory, JournalMode, Result, Snapshot, SnapshotOptions,
};

use crate::cached::Cached;
use crate::{CHUNK_LEN, ENTRIES, WORDS, first_left, origin_bytes};

/// Written before the kill: more than the area has room for, so that a replay writes two.
const WRITTEN: std::ops::Range<u64> = 31..36;

fn open(
    cow: &Arc<Cached>,
    memory: Option<&Arc<HeapMemory>>,
    mode: JournalMode,
) -> Result<Snapshot> {
    let origin = Arc::new(MemDevice::from_bytes(&origin_bytes()));
    let options = SnapshotOptions {
        journal: mode,
        ..SnapshotOptions::default()
    };
    match memory {
        Some(memory) => {
            let memory = Arc::clone(memory) as Arc<dyn JournalMemory>;
            Snapshot::on_devices_with_journal(origin, cow.clone(), &options, memory)
        }
        None => Snapshot::on_devices(origin, cow.clone(), &options),
    }
}

fn memory() -> Arc<HeapMemory> {
    Arc::new(HeapMemory::zeros(WORDS * 8))
}

/// A store with junk behind its last entry, which an open clears.
fn with_junk() -> Vec<u8> {
    let mut image = first_left().image;
    image[CHUNK_LEN + 16 * (usize::try_from(ENTRIES).unwrap() + 1)] = 0xee;
    image
}

fn write_all(snapshot: &Snapshot) {
    for chunk in WRITTEN {
        let at = chunk * CHUNK_LEN as u64;
        snapshot.write_at(&[7; CHUNK_LEN], at).unwrap();
    }
}

fn all(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = origin_bytes();
    snapshot.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Flushes and cuts the power: the store shows what it showed.
fn cut(cow: &Arc<Cached>, snapshot: &Snapshot) -> std::result::Result<(), String> {
    let seen = all(snapshot);
    snapshot.flush().unwrap();
    let after = Cached::new(&cow.on_disk());
    match open(&after, None, JournalMode::Auto) {
        Ok(after) if all(&after) == seen => Ok(()),
        Ok(_) => Err("flushed and lost".to_owned()),
        Err(e) => Err(format!("{e:?}")),
    }
}

fn is_in_doubt<T>(opened: &Result<T>) -> bool {
    let kind = opened.as_ref().err().map(Error::kind);
    kind == Some(ErrorKind::JournalInDoubt)
}

#[test]
fn each_sync_of_an_open_may_fail_and_the_next_open_reads_the_disk() {
    let mut failed = 0;
    for (n, image) in (0..6).flat_map(|n| [(n, first_left().image), (n, with_junk())]) {
        let cow = Cached::new(&first_left().image);
        let memory = memory();
        let snapshot = open(&cow, Some(&memory), JournalMode::Auto).unwrap();
        write_all(&snapshot);
        drop(snapshot);
        // The junk comes before the server, as far as the disk knows.
        for (at, byte) in image.iter().enumerate().filter(|(_, byte)| **byte == 0xee) {
            cow.write_at(&[*byte], at as u64).unwrap();
        }
        cow.fail_sync(n);
        let first = open(&cow, Some(&memory), JournalMode::Auto);
        if !cow.take_failure() {
            continue;
        }
        failed += 1;
        assert_eq!(first.err().unwrap().kind(), ErrorKind::Io);
        let second = open(&cow, Some(&memory), JournalMode::Auto);
        if n == 0 {
            assert!(
                is_in_doubt(&second),
                "what was to be proved is not replayed"
            );
            continue;
        }
        let second = second.unwrap();
        assert_eq!(all(&second)[31 * CHUNK_LEN], 7);
        cut(&cow, &second).unwrap_or_else(|e| panic!("sync {n}: {e}"));
    }
    assert!(failed > 6, "{failed}");
}

#[test]
fn an_open_without_a_journal_reads_the_disk_whatever_failed_before() {
    for n in 0..4 {
        let cow = Cached::new(&first_left().image);
        let snapshot = open(&cow, None, JournalMode::Auto).unwrap();
        write_all(&snapshot);
        cow.fail_sync(n);
        let flushed = snapshot.flush();
        assert_eq!(flushed.is_err(), cow.take_failure());
        drop(snapshot);
        let second = open(&cow, None, JournalMode::Auto).unwrap();
        cut(&cow, &second).unwrap_or_else(|e| panic!("sync {n}: {e}"));
    }
    // Clearing the junk.
    let cow = Cached::new(&with_junk());
    cow.fail_sync(0);
    assert!(open(&cow, None, JournalMode::Auto).is_err());
    assert!(cow.take_failure());
    open(&cow, None, JournalMode::Auto).unwrap();
    let expected = first_left().image;
    assert!(cow.on_disk() == expected, "the junk is still there");
}

#[test]
fn what_was_to_be_discarded_is_not_replayed_because_discarding_failed() {
    let cow = Cached::new(&first_left().image);
    let memory = memory();
    write_all(&open(&cow, Some(&memory), JournalMode::Auto).unwrap());
    let junk = with_junk();
    cow.write_at(&junk[CHUNK_LEN..2 * CHUNK_LEN], CHUNK_LEN as u64)
        .unwrap();
    cow.fail_sync(0);
    assert!(open(&cow, Some(&memory), JournalMode::Discard).is_err());
    assert!(cow.take_failure());
    assert!(is_in_doubt(&open(&cow, Some(&memory), JournalMode::Auto)));
    let snapshot = open(&cow, Some(&memory), JournalMode::Discard).unwrap();
    assert!(all(&snapshot)[31 * CHUNK_LEN] != 7);
    cut(&cow, &snapshot).unwrap();
}
