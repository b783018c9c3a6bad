//! Killed servers: the device as the page cache has it and the journal's memory are all that is left,
//! and everything that was answered is there again.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::sim::{CallKind, Calls, Failure, Fault};
use usnap_engine::{ErrorKind, HeapMemory, JournalMemory, JournalMode, Result};
use usnap_engine::{Snapshot, SnapshotOptions};

use crate::plain_loader::load;
use crate::recorder::Recorder;
use crate::stores::image;
use crate::story::story;

const CHUNK_LEN: usize = 512;
const CHUNK_BYTES: u64 = CHUNK_LEN as u64;

/// Words of a journal with so many slots in each segment.
fn words_for(slots: usize) -> usize {
    40 + 6 * slots
}

/// What outlives the process.
struct Left {
    device: Recorder,
    memory: Arc<HeapMemory>,
}

impl Left {
    fn new(slots: usize) -> Self {
        Self {
            device: Recorder::new(&image(CHUNK_LEN, 420, &[])),
            memory: Arc::new(HeapMemory::zeros(words_for(slots))),
        }
    }

    fn open_as(&self, options: &SnapshotOptions) -> Result<Snapshot> {
        let origin = Arc::new(MemDevice::new(400 * CHUNK_BYTES));
        let memory: Arc<dyn JournalMemory> = self.memory.clone();
        Snapshot::on_devices_with_journal(origin, self.device.device.clone(), options, memory)
    }

    fn open(&self) -> Snapshot {
        self.open_as(&SnapshotOptions::default()).unwrap()
    }

    fn story(&self) -> Vec<String> {
        story(&self.device.take_log(), CHUNK_LEN)
    }

    fn entries(&self) -> usize {
        load(&self.device.image()).unwrap().exceptions.len()
    }
}

fn with_mode(journal: JournalMode) -> SnapshotOptions {
    SnapshotOptions {
        journal,
        ..SnapshotOptions::default()
    }
}

fn write(snapshot: &Snapshot, chunk: u64, byte: u8) {
    let data = [byte; CHUNK_LEN];
    snapshot.write_at(&data, chunk * CHUNK_BYTES).unwrap();
}

fn byte_of(snapshot: &Snapshot, chunk: u64) -> u8 {
    let mut data = [0; CHUNK_LEN];
    snapshot.read_at(&mut data, chunk * CHUNK_BYTES).unwrap();
    assert_eq!(data, [data[0]; CHUNK_LEN]);
    data[0]
}

#[test]
fn what_was_written_and_not_flushed_is_there_after_a_kill_and_committed_by_the_open() {
    let left = Left::new(64);
    let snapshot = left.open();
    for chunk in 0..50 {
        write(&snapshot, 7 * chunk % 50, 9);
    }
    assert_eq!(left.entries(), 0);
    drop(snapshot);
    left.story();
    let snapshot = left.open();
    let wanted = [
        "sync",
        "reserve area 0",
        "reserve area 1",
        "write area 1: 18 entries",
        "sync",
        "write area 0: 32 entries",
        "sync",
    ];
    assert_eq!(left.story(), wanted);
    assert!((0..50).all(|chunk| byte_of(&snapshot, chunk) == 9));
    let counts = snapshot.report().exceptions;
    assert_eq!((counts.committed, counts.uncommitted), (50, 0));
    // The next numbers lie behind, and a second kill loses no more than the first.
    write(&snapshot, 60, 8);
    drop(snapshot);
    let snapshot = left.open();
    assert_eq!(byte_of(&snapshot, 60), 8);
    assert_eq!(left.entries(), 51);
}

#[test]
fn a_journal_without_room_makes_the_next_writer_commit() {
    let left = Left::new(4);
    let snapshot = left.open();
    for chunk in 0..4 {
        write(&snapshot, chunk, 9);
    }
    left.story();
    write(&snapshot, 4, 9);
    let wanted = ["sync", "write area 0: 4 entries", "sync", "write data 6..7"];
    assert_eq!(left.story(), wanted, "the commit comes first");
    // A run of chunks takes one note.
    snapshot
        .write_at(&[9; 3 * CHUNK_LEN], 10 * CHUNK_BYTES)
        .unwrap();
    assert_eq!(left.story(), ["write data 7..10"]);
    drop(snapshot);
    let snapshot = left.open();
    assert!(
        (0..5)
            .chain(10..13)
            .all(|chunk| byte_of(&snapshot, chunk) == 9)
    );
}

#[test]
fn a_commit_that_is_needed_for_room_and_finds_no_space_is_that_writes_error() {
    let left = Left::new(4);
    let snapshot = left.open();
    for chunk in 0..4 {
        write(&snapshot, chunk, 9);
    }
    let no_space = || {
        let calls = Calls::WritesTo(CHUNK_BYTES..2 * CHUNK_BYTES);
        let fault = Fault::nth(calls, 0, Failure::whole(ErrorKind::NoSpace));
        left.device.fail(fault);
    };
    no_space();
    let refused = snapshot.write_at(&[9; CHUNK_LEN], 4 * CHUNK_BYTES);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
    // What was sealed waits, and there is room in the other half meanwhile.
    for chunk in 5..9 {
        write(&snapshot, chunk, 9);
    }
    no_space();
    let refused = snapshot.write_at(&[9; CHUNK_LEN], 4 * CHUNK_BYTES);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
    drop(snapshot);
    let snapshot = left.open();
    assert!(
        (0..4)
            .chain(5..9)
            .all(|chunk| byte_of(&snapshot, chunk) == 9)
    );
    assert_eq!(byte_of(&snapshot, 4), 0);
}

#[test]
fn writes_that_fail_give_their_room_back() {
    let left = Left::new(4);
    let snapshot = left.open();
    for _ in 0..40 {
        let calls = Calls::Only(CallKind::Write);
        left.device
            .fail(Fault::nth(calls, 0, Failure::whole(ErrorKind::Io)));
        snapshot.write_at(&[9; CHUNK_LEN], 0).unwrap_err();
    }
    left.story();
    for chunk in 0..4 {
        write(&snapshot, chunk, 9);
    }
    let data = "write data";
    assert!(left.story().iter().all(|event| event.starts_with(data)));
}

#[test]
fn after_a_failed_sync_the_next_open_refuses_until_told_to_do_without() {
    let left = Left::new(64);
    let snapshot = left.open();
    write(&snapshot, 1, 1);
    snapshot.flush().unwrap();
    write(&snapshot, 2, 2);
    let calls = Calls::Only(CallKind::Flush);
    left.device
        .fail(Fault::nth(calls, 0, Failure::whole(ErrorKind::Io)));
    snapshot.flush().unwrap_err();
    snapshot.close().unwrap_err();
    drop(snapshot);
    left.story();
    for mode in [JournalMode::Auto, JournalMode::Replay, JournalMode::Off] {
        let refused = left.open_as(&with_mode(mode)).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::JournalInDoubt);
        assert!(refused.hint().unwrap().contains("--journal=discard"));
        assert!(left.story().is_empty(), "nothing was changed");
    }
    let snapshot = left.open_as(&with_mode(JournalMode::Discard)).unwrap();
    assert_eq!((byte_of(&snapshot, 1), byte_of(&snapshot, 2)), (1, 0));
}

#[test]
fn data_that_can_not_be_proved_is_not_replayed_then_or_later() {
    let left = Left::new(64);
    write(&left.open(), 1, 1);
    let calls = Calls::Only(CallKind::Flush);
    left.device
        .fail(Fault::nth(calls, 0, Failure::whole(ErrorKind::Io)));
    let refused = left.open_as(&with_mode(JournalMode::Auto)).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Io);
    // The next sync says that all is well, and is not believed.
    let refused = left.open_as(&with_mode(JournalMode::Auto)).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::JournalInDoubt);
    assert_eq!(left.entries(), 0);
}

#[test]
fn a_read_only_open_shows_what_waits_and_writes_nothing() {
    let left = Left::new(64);
    write(&left.open(), 3, 3);
    left.story();
    let words = left.memory.words();
    let options = SnapshotOptions {
        read_only: true,
        ..SnapshotOptions::default()
    };
    let snapshot = left.open_as(&options).unwrap();
    assert_eq!(byte_of(&snapshot, 3), 3);
    let counts = snapshot.report().exceptions;
    assert_eq!((counts.committed, counts.uncommitted), (0, 1));
    snapshot.flush().unwrap();
    snapshot.close().unwrap();
    assert!(left.story().is_empty());
    assert_eq!(left.memory.words(), words);
    drop(snapshot);
    assert_eq!(byte_of(&left.open(), 3), 3);
}

#[test]
fn what_was_closed_is_committed_and_written_no_more() {
    let left = Left::new(64);
    let snapshot = left.open();
    write(&snapshot, 3, 3);
    snapshot.close().unwrap();
    assert_eq!(left.entries(), 1);
    for chunk in [3, 4] {
        let refused = snapshot.write_at(&[1; CHUNK_LEN], chunk * CHUNK_BYTES);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Latched);
    }
    assert_eq!(byte_of(&snapshot, 3), 3);
    assert_eq!(snapshot.report().latched, None, "no flush failed");
}
