//! Stores whose origin is not settled: a merge that did not end, or an origin that is another one
//! than was noted. What is made of them has to stay right whatever becomes of the origin.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use usnap_engine::compact::{CompactOptions, Compacted, compact};
use usnap_engine::device::BlockDevice;
use usnap_engine::merge::{Merge, MergeEnd, MergeOptions, Watch};
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{ErrorKind, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

const CHUNK: usize = 4096;

/// An origin of 64 chunks of ones, and a store that has chunk 5 as it is, and chunk 6 as twos.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(bench.path("origin"), vec![1; 64 * CHUNK]).unwrap();
        bench.create("cow", Some("origin"));
        let snapshot = bench.open("origin", &[], "cow").unwrap();
        snapshot.write_at(&[1; CHUNK], 5 * CHUNK as u64).unwrap();
        snapshot.write_at(&[2; CHUNK], 6 * CHUNK as u64).unwrap();
        snapshot.close().unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn create(&self, name: &str, origin: Option<&str>) {
        let identity = origin.map(|origin| {
            let origin = Origin::open(&self.path(origin)).unwrap();
            origin.identity().unwrap()
        });
        let options = CreateOptions {
            size_bytes: 100 * CHUNK as u64,
            chunk_size: ChunkSize::from_bytes(CHUNK as u64).unwrap(),
            label: String::new(),
            origin: identity,
            identity: true,
        };
        create(&self.path(name), &options).unwrap();
    }

    fn open(&self, origin: &str, layers: &[&str], cow: &str) -> Result<Snapshot> {
        let layers: Vec<_> = layers.iter().map(|layer| self.path(layer)).collect();
        let (origin, _) = Origin::open_with_layers(&self.path(origin), &layers, false)?;
        let options = SnapshotOptions::default();
        Ok(Snapshot::open(&Arc::new(origin), &self.path(cow), &options)?.0)
    }

    /// As a merge that is killed when it has begun.
    fn begin_merge(&self) {
        let options = MergeOptions::default();
        let (merge, notes) =
            Merge::open(&self.path("cow"), &self.path("origin"), &options).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let mut watch = Watch {
            is_stopped: &|| true,
            merged: &mut |_| (),
        };
        assert_eq!(
            merge.run(&mut watch).unwrap(),
            MergeEnd::Stopped { left: 2 }
        );
    }

    fn compact(&self, origin: &Path, force_origin: bool) -> Compacted {
        let options = CompactOptions {
            force_origin,
            ..CompactOptions::default()
        };
        let (cow, out) = (self.path("cow"), self.path("small"));
        compact(origin, &cow, &out, &options, &mut |_, _| true).unwrap()
    }
}

fn chunk(snapshot: &Snapshot, number: usize) -> u8 {
    let mut bytes = [0; CHUNK];
    snapshot
        .read_at(&mut bytes, (number * CHUNK) as u64)
        .unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

/// What the origin holds may not be on its disk, since the merge was not flushed.
#[test]
fn while_the_origin_changes_a_compacted_store_has_what_the_origin_has_too() {
    let bench = Bench::new();
    let compacted = bench.compact(&bench.path("origin"), false);
    assert_eq!((compacted.exceptions, compacted.equal), (1, 1));
    std::fs::remove_file(bench.path("small")).unwrap();
    bench.begin_merge();
    let compacted = bench.compact(&bench.path("origin"), false);
    assert_eq!((compacted.exceptions, compacted.equal), (2, 0));
    assert!(
        compacted.notes.iter().any(|note| note.contains("kept")),
        "{:?}",
        compacted.notes
    );
}

/// What the new store leaves out is what this origin has, so it does not fit the one on record.
#[test]
fn a_store_that_is_compacted_over_another_origin_is_tied_to_that() {
    let bench = Bench::new();
    let mut other = vec![1; 64 * CHUNK];
    other[6 * CHUNK..7 * CHUNK].fill(2);
    std::fs::write(bench.path("other"), &other).unwrap();
    let compacted = bench.compact(&bench.path("other"), true);
    assert_eq!((compacted.exceptions, compacted.equal), (0, 2));
    let refused = bench.open("origin", &[], "small").err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::OriginMismatch, "{refused:?}");
    let snapshot = bench.open("other", &[], "small").unwrap();
    assert_eq!((chunk(&snapshot, 5), chunk(&snapshot, 6)), (1, 2));
}

/// Only the origin's size is compared then, but its kind is known.
#[test]
fn while_the_origin_changes_a_store_does_not_fit_one_with_layers() {
    let bench = Bench::new();
    bench.create("layer", Some("origin"));
    bench.begin_merge();
    let refused = bench.open("origin", &["layer"], "cow").err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::OriginMismatch, "{refused:?}");
    assert!(refused.to_string().contains("without layers"), "{refused}");
    let snapshot = bench.open("origin", &[], "cow").unwrap();
    assert_eq!(chunk(&snapshot, 6), 2);
}

#[test]
fn it_is_said_where_a_merge_can_not_tell_which_origin_is_right() {
    let bench = Bench::new();
    bench.create("unknown", None);
    let merge = |cow: &str| {
        let options = MergeOptions::default();
        Merge::open(&bench.path(cow), &bench.path("origin"), &options)
            .unwrap()
            .1
    };
    assert_eq!(merge("unknown"), [""; 0], "there is nothing to merge");
    // An entry made by a kernel, which notes no origin down.
    let file = std::fs::File::options()
        .write(true)
        .open(bench.path("unknown"))
        .unwrap();
    let entry = [3_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat();
    std::os::unix::fs::FileExt::write_all_at(&file, &entry, CHUNK as u64).unwrap();
    let notes = merge("unknown");
    assert!(
        notes.iter().any(|note| note.contains("does not say")),
        "{notes:?}"
    );
}
