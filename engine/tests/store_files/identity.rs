//! Which origin a store belongs to: remembered at the first open, compared at the next, and only
//! what the user asks for overrides it.

use std::fs::File;
use std::time::{Duration, SystemTime};

use usnap_engine::check::{FindingKind, check};
use usnap_engine::device::BlockDevice;
use usnap_engine::dump::status;
use usnap_engine::store::cow_file::CreateOptions;
use usnap_engine::{ErrorKind, SnapshotOptions};
use usnap_format::IdentityRecord;

use crate::bench::{Bench, CHUNK, create_options, origin_content, read_only, whole_message};
use crate::stores::image;

/// The record lies behind the 16 bytes of the header, inside the first sector.
const RECORD: std::ops::Range<usize> = 16..512;

fn record_of(cow: &[u8]) -> IdentityRecord {
    let decoded = IdentityRecord::decode(&cow[RECORD], crc32fast::hash);
    decoded.unwrap().unwrap()
}

fn adopt() -> SnapshotOptions {
    SnapshotOptions {
        adopt: true,
        ..SnapshotOptions::default()
    }
}

fn force() -> SnapshotOptions {
    SnapshotOptions {
        force_origin: true,
        ..SnapshotOptions::default()
    }
}

fn notes(bench: &Bench, options: &SnapshotOptions) -> Vec<String> {
    bench.open_with(options).unwrap().1
}

/// The one note that says that the store is this origin's from now on.
fn is_tied(notes: &[String]) -> bool {
    matches!(notes, [note] if note.contains("is tied to origin"))
}

/// A store that was opened once with its origin.
fn known() -> Bench {
    let bench = Bench::with_created(&create_options(40));
    assert!(is_tied(&notes(&bench, &SnapshotOptions::default())));
    bench
}

/// Writes the origin anew, and makes sure that its time is another.
fn change_origin(bench: &Bench, content: &[u8]) {
    std::fs::write(bench.origin_path(), content).unwrap();
    let file = File::options()
        .write(true)
        .open(bench.origin_path())
        .unwrap();
    let later = SystemTime::now() + Duration::from_secs(100);
    file.set_modified(later).unwrap();
}

fn assert_refused(bench: &Bench, word: &str) {
    let before = bench.fingerprint();
    for options in [SnapshotOptions::default(), read_only(), adopt()] {
        let error = bench.open_with(&options).err().unwrap();
        let message = whole_message(&error);
        assert_eq!(error.kind(), ErrorKind::OriginMismatch, "{message}");
        assert!(
            message.contains(word) && message.contains("--force-origin"),
            "{message}"
        );
    }
    assert_eq!(bench.fingerprint(), before);
}

#[test]
fn the_same_origin_is_known_again() {
    let bench = known();
    for _ in 0..2 {
        let (snapshot, notes) = bench.open().unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        assert!(snapshot.report().has_identity);
    }
    let before = bench.cow();
    drop(bench.open().unwrap());
    let mut after = bench.cow();
    assert_eq!(record_of(&after).origin, record_of(&before).origin);
    assert_ne!(record_of(&after).session, record_of(&before).session);
    after[RECORD].copy_from_slice(&before[RECORD]);
    assert!(after == before, "nothing else is written again");
}

#[test]
fn a_read_only_open_remembers_nothing() {
    let bench = Bench::with_created(&create_options(40));
    let before = bench.fingerprint();
    assert!(notes(&bench, &read_only()).is_empty());
    assert_eq!(bench.fingerprint(), before);
    change_origin(&bench, &[1; CHUNK]);
    drop(bench.open().unwrap());
}

#[test]
fn an_origin_known_at_creation_is_compared_at_the_first_open() {
    let bench = Bench::new();
    let options = CreateOptions {
        origin: Some(bench.origin().identity().unwrap()),
        label: "of birth".to_owned(),
        ..create_options(40)
    };
    usnap_engine::store::cow_file::create(&bench.cow_path(), &options).unwrap();
    let (snapshot, notes) = bench.open().unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(snapshot.report().label, "of birth");
    drop(snapshot);
    change_origin(&bench, &[1; 64 * CHUNK]);
    assert_refused(&bench, "content changed");
}

#[test]
fn a_touched_origin_with_the_same_content_is_served_and_mentioned() {
    let bench = known();
    change_origin(&bench, &origin_content());
    let notes = notes(&bench, &SnapshotOptions::default());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("modification time"), "{notes:?}");
}

#[test]
fn an_origin_with_other_content_is_refused() {
    for at in [0, 1024, 63 * CHUNK + 4095] {
        let bench = known();
        let mut content = origin_content();
        content[at] ^= 1;
        change_origin(&bench, &content);
        assert_refused(&bench, "content changed");
    }
}

#[test]
fn an_origin_of_another_size_is_refused_whatever_its_time() {
    for len in [63 * CHUNK, 64 * CHUNK - 1, 65 * CHUNK] {
        let bench = known();
        let time = std::fs::metadata(bench.origin_path())
            .unwrap()
            .modified()
            .unwrap();
        let file = File::options()
            .write(true)
            .open(bench.origin_path())
            .unwrap();
        file.set_len(len as u64).unwrap();
        file.set_modified(time).unwrap();
        assert_refused(&bench, &len.to_string());
    }
}

#[test]
fn force_serves_another_origin_and_leaves_the_record() {
    let bench = known();
    let record = record_of(&bench.cow());
    change_origin(&bench, &[1; 64 * CHUNK]);
    let notes = notes(&bench, &force());
    assert!(
        notes.iter().any(|note| note.contains("--force-origin")),
        "{notes:?}"
    );
    assert_eq!(record_of(&bench.cow()).origin, record.origin);
    assert_refused(&bench, "content changed");
}

#[test]
fn force_serves_an_origin_that_is_too_short_for_some_chunks() {
    let bench = Bench::with_cow(&image(CHUNK, 40, &[(5, 2), (70, 3)]));
    let (snapshot, _) = bench.open_with(&force()).unwrap();
    let mut data = [0; CHUNK];
    snapshot.read_at(&mut data, 5 * CHUNK as u64).unwrap();
    assert_eq!(data, [2; CHUNK]);
    snapshot.write_at(&[9; CHUNK], 0).unwrap();
    snapshot.flush().unwrap();
    // The exception that the origin has no chunk for stays, and its number is not used again.
    let exceptions = crate::plain_loader::load(&bench.cow()).unwrap().exceptions;
    assert_eq!(exceptions, [(5, 2), (70, 3), (0, 4)]);
}

#[test]
fn force_and_adopt_make_it_the_stores_origin() {
    let bench = known();
    change_origin(&bench, &[1; 64 * CHUNK]);
    let both = SnapshotOptions {
        adopt: true,
        ..force()
    };
    drop(bench.open_with(&both).unwrap());
    assert!(notes(&bench, &SnapshotOptions::default()).is_empty());
    change_origin(&bench, &origin_content());
    assert_refused(&bench, "content changed");
}

#[test]
fn a_store_without_a_record_is_served_mentioned_and_can_be_adopted() {
    let bench = Bench::with_cow(&image(CHUNK, 40, &[(5, 2)]));
    let before = bench.cow();
    for _ in 0..2 {
        let (snapshot, notes) = bench.open().unwrap();
        assert!(
            notes.len() == 2 && notes[0].contains("--adopt") && notes[1].contains("no journal"),
            "{notes:?}"
        );
        assert!(!snapshot.report().has_identity);
    }
    assert!(bench.cow() == before, "the kernel's bytes are left alone");

    assert!(is_tied(&notes(&bench, &adopt())));
    let (old, new) = (image(CHUNK, 40, &[(5, 2)]), bench.cow());
    let changed: Vec<usize> = (0..old.len()).filter(|i| old[*i] != new[*i]).collect();
    assert!(changed.iter().all(|i| RECORD.contains(i)) && !changed.is_empty());
    assert!(notes(&bench, &SnapshotOptions::default()).is_empty());
    change_origin(&bench, &[1; 64 * CHUNK]);
    assert_refused(&bench, "content changed");
}

#[test]
fn adopting_keeps_the_label() {
    let options = CreateOptions {
        label: "a name".to_owned(),
        ..create_options(40)
    };
    let bench = Bench::with_created(&options);
    drop(bench.open_with(&adopt()).unwrap());
    let (snapshot, _) = bench.open().unwrap();
    assert_eq!(snapshot.report().label, "a name");
    assert!(snapshot.report().has_identity);
}

#[test]
fn a_damaged_record_is_mentioned_and_ignored() {
    let bench = known();
    let mut bytes = bench.cow();
    bytes[100] ^= 1;
    std::fs::write(bench.cow_path(), &bytes).unwrap();
    let found = notes(&bench, &SnapshotOptions::default());
    assert!(
        found.iter().any(|note| note.contains("ignored")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|note| note.contains("--adopt")),
        "{found:?}"
    );
    assert_eq!(bench.cow()[RECORD], bytes[RECORD], "not repaired unasked");
    let found = notes(&bench, &adopt());
    assert!(
        found.iter().all(|note| !note.contains("--adopt")),
        "{found:?}"
    );
    assert!(notes(&bench, &SnapshotOptions::default()).is_empty());
}

/// A store whose record says that the origin is written to as well.
fn changing() -> Bench {
    let bench = known();
    let mut bytes = bench.cow();
    let record = IdentityRecord {
        origin_changing: true,
        ..record_of(&bytes)
    };
    let encoded = record.encode(crc32fast::hash);
    bytes[RECORD][..encoded.len()].copy_from_slice(&encoded);
    std::fs::write(bench.cow_path(), &bytes).unwrap();
    bench
}

#[test]
fn of_an_origin_that_is_changing_only_the_size_is_compared() {
    let bench = changing();
    change_origin(&bench, &[1; 64 * CHUNK]);
    for options in [read_only(), SnapshotOptions::default()] {
        let (snapshot, notes) = bench.open_with(&options).unwrap();
        let [note] = &notes[..] else {
            panic!("{notes:?}")
        };
        assert!(note.contains("only its size was compared"), "{note}");
        assert!(snapshot.report().origin_changing);
        snapshot.close().unwrap();
        // A session leaves it as it is.
        assert!(record_of(&bench.cow()).origin_changing);
        assert!(status(&bench.cow_path()).unwrap().origin_changing);
        let report = check(&bench.cow_path(), Some(&bench.origin_path())).unwrap();
        assert!(report.is_clean(), "{report:?}");
        let kinds: Vec<_> = report.notes.iter().map(|note| note.kind).collect();
        assert_eq!(kinds, [FindingKind::OriginChanging]);
    }
    change_origin(&bench, &[1; 63 * CHUNK]);
    assert_refused(&bench, "this one has 258048");
    let report = check(&bench.cow_path(), Some(&bench.origin_path())).unwrap();
    assert_eq!(report.findings[0].kind, FindingKind::OriginDiffers);
}

#[test]
fn adopting_ties_the_store_to_the_changed_origin_as_it_is() {
    let bench = changing();
    change_origin(&bench, &[1; 64 * CHUNK]);
    assert!(is_tied(&notes(&bench, &adopt())));
    assert!(!record_of(&bench.cow()).origin_changing);
    assert!(notes(&bench, &SnapshotOptions::default()).is_empty());
    change_origin(&bench, &[2; 64 * CHUNK]);
    assert_refused(&bench, "content changed");
}
