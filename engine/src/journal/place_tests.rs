//! Journal files among friends and enemies: on ext4 (or what the build directory lies on) and on
//! tmpfs, where there is no room, and where something else has the name already.

use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::slice;
use std::time::Duration;

use super::{
    Place, create, create_in, file_name, find, find_in, find_read_only, places, remove,
    remove_left_over,
};
use crate::error::ErrorKind;
use crate::journal::layout::{SLOTS_MAX, words_for};
use crate::journal::{Base, Found, Journal, Session, Unreadable, Witness};

const SESSION: Session = Session([0xab; 16]);
const NAME: &str = ".usnap-abababababababababababababababab.journal";

fn beside(directory: &Path) -> Place {
    Place {
        directory: directory.to_owned(),
        private: None,
    }
}

fn private(directory: &Path) -> Place {
    Place {
        directory: directory.to_owned(),
        private: Some("usnap".to_owned()),
    }
}

/// A directory on the disk's filesystem and one in memory.
fn directories() -> Vec<tempfile::TempDir> {
    let mut directories = vec![tempfile::tempdir_in(".").unwrap()];
    directories.extend(tempfile::tempdir_in("/dev/shm"));
    directories
}

#[test]
fn a_journal_is_made_found_and_removed_on_a_disk_and_in_memory() {
    for directory in directories() {
        let places = [beside(directory.path())];
        assert!(find_in(&places, SESSION).unwrap().is_none());
        let Ok((memory, path)) = create_in(&places, SESSION, 1024) else {
            // Only where a mapped file is safe.
            assert!(!directory.path().starts_with("/dev/shm"));
            continue;
        };
        assert_eq!(path, directory.path().join(NAME));
        assert_eq!(memory.len_words(), words_for(1024));
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        let allocated = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
        assert!(allocated >= metadata.len(), "no part of it is a hole");
        let base = Base {
            committed: 5,
            area_crc32: 6,
        };
        let _journal = Journal::begin(memory, SESSION, &Witness::neutral(), base).unwrap();
        let (found_path, found) = find_in(&places, SESSION).unwrap().unwrap();
        assert_eq!(found_path, path);
        assert_eq!(Found::read(found).unwrap().base, base);
        let cow = directory.path().join("cow");
        std::fs::write(&cow, "").unwrap();
        let (_, copy) = find_read_only(&cow, SESSION).unwrap().unwrap();
        assert_eq!(Found::read(std::sync::Arc::new(copy)).unwrap().base, base);
        assert!(create_in(&places, SESSION, 1024).is_err(), "it is there");
        remove(&path);
        assert!(find_in(&places, SESSION).unwrap().is_none());
    }
}

#[test]
fn a_cow_files_journal_is_found_wherever_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let cow = directory.path().join("cow");
    std::fs::write(&cow, "").unwrap();
    let session = Session::random().unwrap();
    for is_block in [false, true] {
        let Ok((_, path)) = create(&cow, is_block, session, 1024) else {
            continue;
        };
        assert!(!is_block || !path.starts_with(directory.path()));
        assert_eq!(find(&cow, session).unwrap().unwrap().0, path);
        assert_eq!(find_read_only(&cow, session).unwrap().unwrap().0, path);
        remove(&path);
        assert!(find(&cow, session).unwrap().is_none());
    }
}

#[test]
fn the_places_are_the_cow_files_own_directory_and_then_memory() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("real");
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("cow"), "").unwrap();
    let link = directory.path().join("link");
    symlink(real.join("cow"), &link).unwrap();
    let first = |is_block| places(&link, is_block).remove(0).directory;
    assert_eq!(first(false), real.canonicalize().unwrap());
    assert_ne!(first(true), first(false));
    assert_eq!(
        places(&link, true).last().unwrap().directory,
        Path::new("/dev/shm")
    );
}

#[test]
fn a_private_directory_is_made_for_us_alone_and_only_in_memory() {
    for directory in directories() {
        let in_memory = directory.path().starts_with("/dev/shm");
        let place = private(directory.path());
        let made = create_in(slice::from_ref(&place), SESSION, 1024);
        assert_eq!(made.is_ok(), in_memory);
        let inner = directory.path().join("usnap");
        let mode = inner.metadata().map(|m| m.permissions().mode() & 0o7777);
        assert_eq!(mode.ok(), in_memory.then_some(0o700));
        assert_eq!(
            find_in(slice::from_ref(&place), SESSION).unwrap().is_some(),
            in_memory
        );
        if in_memory {
            std::fs::set_permissions(&inner, Permissions::from_mode(0o770)).unwrap();
            assert!(find_in(slice::from_ref(&place), SESSION).unwrap().is_none());
            assert!(create_in(slice::from_ref(&place), Session([1; 16]), 1024).is_err());
            let elsewhere = directory.path().join("elsewhere");
            std::fs::set_permissions(&inner, Permissions::from_mode(0o700)).unwrap();
            std::fs::rename(&inner, &elsewhere).unwrap();
            symlink(&elsewhere, &inner).unwrap();
            assert!(find_in(slice::from_ref(&place), SESSION).unwrap().is_none());
            assert!(create_in(&[place], Session([1; 16]), 1024).is_err());
        }
    }
}

#[test]
fn where_there_is_no_place_every_reason_is_given() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let nowhere = directory.path().join("nowhere");
    let places = [beside(&nowhere), beside(&file), beside(Path::new("/proc"))];
    let Err(reasons) = create_in(&places, SESSION, 1024) else {
        panic!("made in /proc");
    };
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    // The next place is taken.
    let places = [beside(&nowhere), beside(directory.path())];
    let (_, path) = create_in(&places, SESSION, 1024).unwrap();
    assert!(path.starts_with(directory.path()));
    assert!(find_in(&places, SESSION).unwrap().is_some());
}

#[test]
fn a_file_that_can_not_be_allocated_is_not_left_behind() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let too_long = usize::MAX / 16;
    let result = beside(directory.path()).create(NAME, too_long);
    assert!(result.is_err());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// What lies at `path` is refused quickly, not followed, and still there after all of it.
fn refuses(directory: &Path, path: &Path, why: &str) {
    let before = path.symlink_metadata().unwrap();
    let (sender, done) = std::sync::mpsc::channel();
    let place = beside(directory);
    let is_foreign = std::thread::spawn(move || {
        let error = find_in(slice::from_ref(&place), SESSION).err();
        let made = create_in(&[place], SESSION, 1024);
        sender.send((error, made.is_ok())).unwrap();
    });
    let (error, made) = done
        .recv_timeout(Duration::from_secs(10))
        .unwrap_or_else(|_| panic!("waits for {why}"));
    is_foreign.join().unwrap();
    let error = error.unwrap_or_else(|| panic!("takes it: {why}"));
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(error.to_string().contains(why), "{error} is not {why}");
    assert!(!made);
    remove(path);
    let after = path.symlink_metadata().unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    assert_eq!(after.len(), before.len());
}

#[test]
fn what_is_not_a_journal_of_ours_is_left_alone() {
    for directory in directories() {
        let directory = directory.path();
        let path = directory.join(NAME);
        let file = directory.join("file");
        std::fs::write(&file, "somebody's").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();

        symlink(&file, &path).unwrap();
        refuses(directory, &path, "it is not a regular file");
        std::fs::remove_file(&path).unwrap();
        symlink("nowhere", &path).unwrap();
        refuses(directory, &path, "it is not a regular file");
        std::fs::remove_file(&path).unwrap();

        std::fs::create_dir(&path).unwrap();
        refuses(directory, &path, "it is not a regular file");
        std::fs::remove_dir(&path).unwrap();

        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(super::CWD, &path, pipe, super::OURS_ALONE, 0).unwrap();
        assert!(path.metadata().unwrap().file_type().is_fifo());
        refuses(directory, &path, "it is not a regular file");
        std::fs::remove_file(&path).unwrap();

        std::fs::hard_link(&file, &path).unwrap();
        refuses(directory, &path, "it has another name too");
        std::fs::remove_file(&path).unwrap();

        for mode in [0o644, 0o660, 0o400, 0o4600] {
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            refuses(directory, &path, "others may open it");
            std::fs::remove_file(&path).unwrap();
        }

        let longer = std::fs::File::create(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for size in [8 * words_for(SLOTS_MAX) as u64 + 1, 1 << 42] {
            longer.set_len(size).unwrap();
            refuses(directory, &path, "it is longer than a journal can be");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"somebody's");

        if super::geteuid().is_root() {
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            refuses(directory, &path, "it belongs to user 12345");
            // To look at it root may.
            assert!(find_read_only(&file, SESSION).unwrap().is_some());
        }
    }
}

#[test]
fn a_file_of_any_size_and_content_is_read_without_harm() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join(NAME);
    let places = [beside(directory.path())];
    let (memory, _) = create_in(&places, SESSION, 2).unwrap();
    let base = Base {
        committed: 5,
        area_crc32: 6,
    };
    let _journal = Journal::begin(memory, SESSION, &Witness::neutral(), base).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for size in 0..whole.len() + 64 {
        let mut bytes = whole.clone();
        bytes.resize(size, 0xff);
        std::fs::write(&path, bytes).unwrap();
        let (_, memory) = find_in(&places, SESSION).unwrap().unwrap();
        let read = Found::read(memory);
        // Up to a slot more or a few bytes over make no difference to what it holds.
        let slots_fit = size / 8 >= words_for(2) && size / 8 < words_for(3);
        assert_eq!(read.is_ok(), slots_fit, "{size} bytes");
        let not_begun = matches!(read, Err(Unreadable::NotBegun));
        assert_eq!(not_begun, size < 8, "{size} bytes");
    }
}

#[test]
fn what_a_killed_opening_left_goes_and_what_may_be_anothers_stays() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let cow = directory.path().join("cow");
    std::fs::write(&cow, "").unwrap();
    let now = Witness::of(&std::fs::File::open(&cow).unwrap()).unwrap();
    let places = [beside(directory.path())];
    let base = Base {
        committed: 0,
        area_crc32: 0,
    };
    let make = |session: [u8; 16], change: fn(&mut Witness)| {
        let mut then = now;
        change(&mut then);
        let (memory, path) = create_in(&places, Session(session), 2).unwrap();
        let _journal = Journal::begin(memory, Session(session), &then, base).unwrap();
        path
    };
    let own = make([1; 16], |_| {});
    let left = [
        make([2; 16], |_| {}),
        make([3; 16], |then| (then.mount_id, then.superblock) = (9, 9)),
        make([4; 16], |then| then.boot_id = [9; 16]),
    ];
    let others = [
        make([5; 16], |then| then.inode += 1),
        make([6; 16], |then| then.device += 1),
    ];
    remove_left_over(&cow, Session([1; 16]), &now);
    assert!(own.exists());
    assert_eq!(left.map(|path| path.exists()), [false; 3]);
    assert_eq!(others.map(|path| path.exists()), [true; 2]);
}

#[test]
fn a_name_has_the_session_as_digits() {
    assert_eq!(file_name(SESSION), NAME);
    let session = Session(std::array::from_fn(|n| u8::try_from(n).unwrap()));
    let expected = ".usnap-000102030405060708090a0b0c0d0e0f.journal";
    assert_eq!(file_name(session), expected);
}
