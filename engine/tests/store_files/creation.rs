//! Making stores: nothing is overwritten, a file appears whole or not at all, and its bytes are the
//! kernel's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use usnap_engine::device::BlockDevice;
use usnap_engine::store::cow_file::{CreateOptions, create, default_size_bytes};
use usnap_engine::{ErrorKind, SnapshotOptions};
use usnap_format::ChunkSize;

use crate::bench::{Bench, CHUNK, create_options, read_only};
use crate::plain_loader::{compose, load};
use crate::stores::image;

fn chunk_size(bytes: u64) -> ChunkSize {
    ChunkSize::from_bytes(bytes).unwrap()
}

/// What `create` answers, and that the folder has nothing new in it.
fn refused(options: &CreateOptions) -> ErrorKind {
    let bench = Bench::new();
    let error = create(&bench.cow_path(), options).unwrap_err();
    let names: Vec<_> = std::fs::read_dir(bench.folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "only the origin: {names:?}");
    error.kind()
}

#[test]
fn a_store_without_identity_is_the_kernels_to_the_byte() {
    let options = CreateOptions {
        identity: false,
        ..create_options(20)
    };
    let bench = Bench::with_created(&options);
    assert!(bench.cow() == image(CHUNK, 20, &[]));
}

#[test]
fn a_new_store_is_sparse_and_private() {
    let options = CreateOptions {
        size_bytes: 1 << 40,
        ..create_options(0)
    };
    let bench = Bench::with_created(&options);
    let metadata = std::fs::metadata(bench.cow_path()).unwrap();
    assert_eq!(metadata.len(), 1 << 40);
    assert!(metadata.blocks() < 1000, "{} blocks", metadata.blocks());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let bench = Bench::new();
    let path = bench.cow_path();
    let kind = |path: &std::path::Path| create(path, &create_options(20)).unwrap_err().kind();
    for content in [&b""[..], b"precious", &[0; 9000]] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(kind(&path), ErrorKind::Exists);
        assert_eq!(bench.cow(), content);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(kind(&path), ErrorKind::Exists);
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    assert_eq!(kind(&path), ErrorKind::Exists);
    assert!(!bench.folder.path().join("nowhere").exists());
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let sensible = create_options(20);
    let cases = [
        CreateOptions {
            size_bytes: 2 * 4096 - 1,
            ..sensible.clone()
        },
        CreateOptions {
            size_bytes: 0,
            ..sensible.clone()
        },
        CreateOptions {
            chunk_size: chunk_size(32 << 20),
            size_bytes: 1 << 30,
            ..sensible.clone()
        },
        CreateOptions {
            label: "x".repeat(65),
            ..sensible.clone()
        },
        CreateOptions {
            label: "two\nlines".to_owned(),
            ..sensible.clone()
        },
    ];
    for options in cases {
        assert_eq!(refused(&options), ErrorKind::Usage, "{options:?}");
    }
    let more_than_a_file_can_be = CreateOptions {
        size_bytes: u64::MAX - 5000,
        ..sensible
    };
    refused(&more_than_a_file_can_be);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let bench = Bench::new();
    let path = bench.folder.path().join("no-such/cow");
    let error = create(&path, &create_options(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no-such/cow"), "{error}");
}

#[test]
fn a_file_appears_whole() {
    let bench = Bench::new();
    let over = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir(bench.folder.path()).unwrap().flatten() {
                    if entry.file_name() != "origin" {
                        let bytes = std::fs::read(entry.path()).unwrap();
                        assert_eq!(bytes.len(), 40 * CHUNK);
                        assert!(load(&bytes).unwrap().exceptions.is_empty());
                        looks += 1;
                    }
                }
            }
            looks
        });
        for n in 0..30 {
            let path = bench.folder.path().join(format!("cow{n}"));
            create(&path, &create_options(40)).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    assert!(looks > 30, "looked only {looks} times");
}

#[test]
fn a_size_that_a_kernel_would_break_on_is_warned_of() {
    let warnings = |size_bytes| {
        let bench = Bench::new();
        let options = CreateOptions {
            size_bytes,
            ..create_options(0)
        };
        create(&bench.cow_path(), &options).unwrap().warnings.len()
    };
    assert_eq!(warnings(256 << 20), 1, "256 MiB of 4 KiB chunks");
    assert_eq!(warnings(255 << 20), 0);
    assert_eq!(warnings((256 << 20) + 4096), 0);
}

#[test]
fn the_default_size_never_runs_full() {
    let size_bytes = default_size_bytes(CHUNK as u64 * 63 + 1, chunk_size(512)).unwrap();
    let options = CreateOptions {
        size_bytes,
        chunk_size: chunk_size(512),
        ..create_options(0)
    };
    let bench = Bench::with_created(&options);
    let origin = std::fs::read(bench.origin_path()).unwrap();
    std::fs::write(bench.origin_path(), &origin[..CHUNK * 63 + 1]).unwrap();
    let (snapshot, _) = bench.open().unwrap();
    snapshot.write_at(&[9; CHUNK * 63 + 1], 0).unwrap();
    snapshot.flush().unwrap();
    assert_eq!(
        snapshot.report().exceptions.free,
        0,
        "and no chunk too much"
    );
    drop(snapshot);
    let origin = std::fs::read(bench.origin_path()).unwrap();
    assert!(compose(&origin, &bench.cow()).unwrap() == [9; CHUNK * 63 + 1]);
}

/// What a file of zeros becomes.
fn becomes_a_store(bench: &Bench, chunk_bytes: u64) {
    let options = SnapshotOptions {
        chunk_size_if_unused: chunk_size(chunk_bytes),
        ..SnapshotOptions::default()
    };
    let (snapshot, notes) = bench.open_with(&options).unwrap();
    assert!(
        notes.iter().any(|note| note.contains("new store")),
        "{notes:?}"
    );
    assert_eq!(snapshot.chunk_size().bytes(), chunk_bytes);
    snapshot.write_at(&[1; 5], 70).unwrap();
    snapshot.flush().unwrap();
    drop(snapshot);
    let (snapshot, notes) = bench.open().unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let mut data = [0; 80];
    snapshot.read_at(&mut data, 0).unwrap();
    assert_eq!((data[69], data[70], data[75]), (100, 1, 100));
    assert_eq!(snapshot.report().exceptions.committed, 1);
}

#[test]
fn a_file_of_zeros_becomes_a_store() {
    becomes_a_store(&Bench::with_cow(&[0; 30 * CHUNK]), 4096);
    becomes_a_store(&Bench::with_cow(&vec![0; 40 << 16]), 1 << 16);
    let sparse = Bench::with_cow(b"");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(sparse.cow_path());
    file.unwrap().set_len(1 << 24).unwrap();
    becomes_a_store(&sparse, 512);
}

/// The kernel would make a store of it; but so begins many a file that is something else.
#[test]
fn a_file_whose_start_alone_is_zeros_is_left_as_it_is() {
    let mut bytes = vec![0xee; 60 * CHUNK];
    bytes[..64 << 10].fill(0);
    let bench = Bench::with_cow(&bytes);
    let error = bench.open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Foreign);
    assert!(bench.cow() == bytes);
}

#[test]
fn a_file_of_zeros_that_is_too_small_or_read_only_stays_one() {
    for (len, options) in [
        (2 * CHUNK - 1, SnapshotOptions::default()),
        (30 * CHUNK, read_only()),
    ] {
        let bench = Bench::with_cow(&vec![0; len]);
        let before = bench.fingerprint();
        let error = bench.open_with(&options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error:?}");
        assert_eq!(bench.fingerprint(), before);
    }
}
