//! Who may use a COW file: one writer, or readers, each change nothing of the other's.

use usnap_engine::device::BlockDevice;
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};

use crate::bench::{Bench, CHUNK, read_only, whole_message};
use crate::stores::{entry_offset, first_exceptions, image, put_exception};

fn in_use(bench: &Bench, options: &SnapshotOptions) {
    let error = bench.open_with(options).err().unwrap();
    let message = whole_message(&error);
    assert_eq!(error.kind(), ErrorKind::InUse, "{message}");
    let pid = format!("pid {}", std::process::id());
    assert!(message.contains(&pid), "no {pid} in: {message}");
}

#[test]
fn a_store_has_one_writer_and_its_process_is_named() {
    let bench = Bench::with_cow(&image(CHUNK, 40, &[(5, 2)]));
    let (writer, _) = bench.open().unwrap();
    in_use(&bench, &SnapshotOptions::default());
    in_use(&bench, &read_only());
    writer.write_at(&[1; 10], 0).unwrap();
    drop(writer);
    drop(bench.open().unwrap());
}

#[test]
fn readers_share_and_keep_writers_out() {
    let bench = Bench::with_cow(&image(CHUNK, 40, &[(5, 2)]));
    let (first, _) = bench.open_with(&read_only()).unwrap();
    let (second, _) = bench.open_with(&read_only()).unwrap();
    in_use(&bench, &SnapshotOptions::default());
    drop(first);
    in_use(&bench, &SnapshotOptions::default());
    drop(second);
    drop(bench.open().unwrap());
}

#[test]
fn a_file_is_not_its_own_origin() {
    let bench = Bench::new();
    let before = std::fs::read(bench.origin_path()).unwrap();
    let link = bench.folder.path().join("link");
    std::os::unix::fs::symlink("origin", &link).unwrap();
    for path in [bench.origin_path(), link] {
        let options = SnapshotOptions::default();
        let error = Snapshot::open(&bench.origin(), &path, &options)
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error:?}");
    }
    assert!(std::fs::read(bench.origin_path()).unwrap() == before);
}

#[test]
fn a_read_only_snapshot_changes_nothing() {
    let mut bytes = image(CHUNK, 40, &[(5, 2)]);
    // What a writable open would clear.
    put_exception(&mut bytes, CHUNK, 9, 6, 3);
    let bench = Bench::with_cow(&bytes);
    let before = bench.fingerprint();
    let (snapshot, notes) = bench.open_with(&read_only()).unwrap();
    assert!(
        notes.iter().all(|note| !note.contains("cleared")),
        "{notes:?}"
    );
    assert!(snapshot.is_read_only());
    let mut data = [0; CHUNK];
    snapshot.read_at(&mut data, 5 * CHUNK as u64).unwrap();
    assert_eq!(data, [2; CHUNK]);
    snapshot.read_at(&mut data, 6 * CHUNK as u64).unwrap();
    assert_eq!(
        data, [106; CHUNK],
        "what is behind the terminator is not there"
    );
    let kind = |result: usnap_engine::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(snapshot.write_at(&[1], 0)), ErrorKind::ReadOnly);
    assert_eq!(kind(snapshot.discard_at(0, 4096)), ErrorKind::ReadOnly);
    let flags = usnap_engine::device::ZeroFlags::default();
    assert_eq!(kind(snapshot.zero_at(0, 4096, flags)), ErrorKind::ReadOnly);
    snapshot.flush().unwrap();
    assert!(!snapshot.commit_pending().unwrap());
    drop(snapshot);
    assert_eq!(bench.fingerprint(), before);
}

#[test]
fn a_writable_open_clears_what_lies_behind_the_last_exception_and_says_so() {
    let mut bytes = image(CHUNK, 40, &[(5, 2)]);
    put_exception(&mut bytes, CHUNK, 9, 6, 3);
    // Old chunk without new chunk: the terminator itself is not all zeros.
    put_exception(&mut bytes, CHUNK, 1, 77, 0);
    let bench = Bench::with_cow(&bytes);
    let (snapshot, notes) = bench.open().unwrap();
    assert!(
        notes.iter().any(|note| note.contains("cleared")),
        "{notes:?}"
    );
    drop(snapshot);
    let cleared = bench.cow();
    let (start, end) = (entry_offset(CHUNK, 1), 2 * CHUNK);
    assert!(cleared[start..end].iter().all(|byte| *byte == 0));
    assert!(cleared[..start] == bytes[..start] && cleared[end..] == bytes[end..]);
    let (_, notes) = bench.open().unwrap();
    assert!(
        notes.iter().all(|note| !note.contains("cleared")),
        "{notes:?}"
    );
}

#[test]
fn a_store_that_is_refused_keeps_what_lies_behind_its_last_exception() {
    let mut bytes = image(CHUNK, 40, &[(5, 2), (64, 3)]);
    put_exception(&mut bytes, CHUNK, 9, 6, 4);
    let bench = Bench::with_cow(&bytes);
    let before = bench.fingerprint();
    let error = bench.open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OriginMismatch);
    assert_eq!(bench.fingerprint(), before);
}

#[test]
fn a_cow_file_that_is_cut_off_while_it_is_used_is_not_written_behind_its_end() {
    let bench = Bench::with_cow(&image(CHUNK, 40, &[(5, 2), (9, 30)]));
    let (snapshot, _) = bench.open().unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bench.cow_path())
        .unwrap();
    file.set_len(20 * CHUNK as u64).unwrap();
    let mut data = [0; CHUNK];
    let kind = |result: usnap_engine::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(snapshot.read_at(&mut data, 9 * 4096)), ErrorKind::Io);
    // Whatever looks at the file's size: here the timer.
    snapshot.commit_pending().unwrap();
    assert!(snapshot.write_at(&[1; 10], 9 * 4096).is_err());
    assert!(
        snapshot.write_at(&[1; 4096], 20 * 4096).is_err(),
        "a new chunk"
    );
    assert_eq!(
        std::fs::metadata(bench.cow_path()).unwrap().len(),
        20 * 4096
    );
    snapshot.read_at(&mut data, 5 * 4096).unwrap();
    assert_eq!(data, [2; CHUNK], "the rest is served");
}

#[test]
fn a_cow_file_that_grows_while_it_is_used_takes_more() {
    let bench = Bench::with_cow(&image(CHUNK, 4, &[(5, 2), (6, 3)]));
    let (snapshot, _) = bench.open().unwrap();
    let error = snapshot.write_at(&[1; 4096], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(whole_message(&error).contains("full"), "{error:?}");
    snapshot.write_at(&[1; 4096], 5 * 4096).unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bench.cow_path())
        .unwrap();
    file.set_len(6 * CHUNK as u64).unwrap();
    snapshot.write_at(&[1; 8192], 0).unwrap();
    assert!(snapshot.report().is_full);
}

/// A kernel that was interrupted leaves that, and had answered none of it, so serving goes on; but
/// the loss of a sector looks alike, so it is said.
#[test]
fn entries_that_an_open_clears_are_counted_and_so_is_a_sector_of_zeros_before_them() {
    let entries = |count| image(CHUNK, 120, &first_exceptions(CHUNK, count));
    let mut one_lost = entries(64);
    one_lost[entry_offset(CHUNK, 16)..][..16].fill(0);
    let mut sector_lost = entries(96);
    sector_lost[entry_offset(CHUNK, 32)..][..512].fill(0);
    for (bytes, committed, said) in [
        (one_lost, 16, "; 47 entries among them could be ones"),
        (
            sector_lost,
            32,
            "; 32 entries among them could be ones, whole sectors",
        ),
    ] {
        let (snapshot, notes) = Bench::with_cow(&bytes).open().unwrap();
        assert_eq!(snapshot.report().exceptions.committed, committed);
        let is_said = |note: &String| note.contains(said);
        assert_eq!(
            notes.iter().filter(|note| is_said(note)).count(),
            1,
            "{notes:?}"
        );
    }
}
