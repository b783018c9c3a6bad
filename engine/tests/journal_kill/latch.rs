//! A sync that fails poisons the journal: from then on no open believes it, and up to then every
//! open is as good as any.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::{ErrorKind, JournalMode, Snapshot, SnapshotOptions};

use crate::film::{Fault, Film};
use crate::play::Operation;
use crate::{first_expected, first_left, open, origin_bytes};

const HISTORY: [Operation; 2] = [
    Operation::Whole {
        chunk: 31,
        count: 1,
    },
    Operation::Part { chunk: 32 },
];

#[test]
fn a_kill_behind_a_failed_sync_is_refused_and_one_before_it_is_not() {
    let film = Film::new(first_left());
    let snapshot = open(&film).unwrap();
    let mut expected = first_expected();
    for (step, operation) in HISTORY.into_iter().enumerate() {
        operation.carry_out(&snapshot, step).unwrap();
        expected = expected.after(operation, step);
    }
    let before = film.left();
    film.take_log();
    film.fail(Some(Fault::Sync));
    assert!(snapshot.flush().is_err());
    let log = film.take_log();
    let mut refused = Vec::new();
    before.clone().after_each(&log, |left| {
        let film = Film::new(left.clone());
        match open(&film) {
            Ok(snapshot) => {
                expected.read(&snapshot).unwrap();
                refused.push(false);
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::JournalInDoubt, "{e:?}");
                assert_eq!(film.left(), *left, "a refused open changes nothing");
                refused.push(true);
            }
        }
    });
    let (last, earlier) = refused.split_last().unwrap();
    assert!(*last, "the poison is the last thing done");
    assert!(!earlier.contains(&true));

    // Later writes and flushes do nothing, and only a person gets further.
    assert!(HISTORY[0].carry_out(&snapshot, 5).is_err());
    assert_eq!(snapshot.flush().unwrap_err().kind(), ErrorKind::Latched);
    drop(snapshot);
    let origin = Arc::new(MemDevice::from_bytes(&origin_bytes()));
    for (journal, opens) in [(JournalMode::Replay, false), (JournalMode::Discard, true)] {
        let options = SnapshotOptions {
            journal,
            ..SnapshotOptions::default()
        };
        let film = Film::new(film.left());
        let opened = Snapshot::on_devices_with_journal(
            origin.clone(),
            film.device(),
            &options,
            film.memory(),
        );
        assert_eq!(opened.is_ok(), opens, "{journal:?}");
        if let Ok(snapshot) = opened {
            first_expected().read(&snapshot).unwrap();
        }
    }
}

#[test]
fn what_a_sync_can_not_prove_is_not_replayed_then_or_later() {
    let film = Film::new(first_left());
    let snapshot = open(&film).unwrap();
    for (step, operation) in HISTORY.into_iter().enumerate() {
        operation.carry_out(&snapshot, step).unwrap();
    }
    drop(snapshot);
    let left = film.left();
    film.fail(Some(Fault::Sync));
    assert_eq!(open(&film).err().unwrap().kind(), ErrorKind::Io);
    assert!(!film.has_fault(), "it syncs first of all");
    assert_eq!(film.left().image, left.image);
    // The system would say next time that all is well.
    let refused = open(&film).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::JournalInDoubt, "{refused:?}");
    assert_eq!(film.left().image, left.image);
}
