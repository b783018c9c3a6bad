//! Stores made by the Linux kernel (format-spec/vectors, whose README says what is in them): the
//! engine serves the content and the status that the kernel did, leaves the kernel's bytes alone,
//! and what it writes on is read back by an independent loader.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::dump::{StoreHeader, Visitor, walk};
use usnap_engine::origin::Origin;
use usnap_engine::store::initialise;
use usnap_engine::{ErrorKind, Result, Snapshot, SnapshotOptions};
use usnap_format::{AreaIndex, ChunkSize, Exception, NewChunk};

#[path = "support/plain_loader.rs"]
mod plain_loader;

use plain_loader::{compose, load};

const SECTOR: usize = 512;
/// Where an identity record lies.
const RECORD: std::ops::Range<usize> = 16..256;

struct Vector {
    name: String,
    expected: Vec<(String, String)>,
    store: Vec<u8>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../format-spec/vectors")
}

fn vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "expect")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            let pairs = text.lines().filter_map(|line| line.split_once(' '));
            vectors.push(Vector {
                name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                expected: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                store: std::fs::read(path.with_extension("store")).unwrap(),
            });
        }
    }
    assert!(vectors.len() >= 15, "only {} vectors", vectors.len());
    vectors
}

/// A sector of the pattern.
fn pattern(tag: &str, sector: usize) -> Vec<u8> {
    format!("{tag} {sector:08x}\n").repeat(32).into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn checksum(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

impl Vector {
    fn all(&self, key: &str) -> Vec<&str> {
        let pairs = self.expected.iter().filter(|(k, _)| k == key);
        pairs.map(|(_, value)| value.as_str()).collect()
    }

    fn one(&self, key: &str) -> &str {
        let values = self.all(key);
        assert_eq!(values.len(), 1, "{}: {key}", self.name);
        values[0]
    }

    fn origin(&self) -> Vec<u8> {
        let sectors: usize = self.one("origin_sectors").parse().unwrap();
        let mut origin: Vec<u8> = (0..sectors).flat_map(|s| pattern("origin", s)).collect();
        for patch in self.all("origin_patch") {
            let (sector, tag) = patch.split_once(' ').unwrap();
            let sector: usize = sector.parse().unwrap();
            origin[sector * SECTOR..][..SECTOR].copy_from_slice(&pattern(tag, sector));
        }
        assert_eq!(
            checksum(&origin),
            self.one("origin_sha256"),
            "{}",
            self.name
        );
        origin
    }

    fn exceptions(&self) -> Vec<(u64, u64)> {
        let pair = |text: &str| {
            let (old_chunk, new_chunk) = text.split_once(' ').unwrap();
            (old_chunk.parse().unwrap(), new_chunk.parse().unwrap())
        };
        self.all("exception").into_iter().map(pair).collect()
    }

    fn is_invalid(&self) -> bool {
        self.one("valid") == "0"
    }

    /// Origin and store as files in a folder of their own.
    fn files(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("origin"), self.origin()).unwrap();
        std::fs::write(folder.path().join("cow"), &self.store).unwrap();
        folder
    }
}

fn open(folder: &tempfile::TempDir, read_only: bool) -> Result<Snapshot> {
    let origin = Arc::new(Origin::open(&folder.path().join("origin"))?);
    let options = SnapshotOptions {
        read_only,
        // A record that was crafted knows no origin of ours.
        force_origin: true,
        ..SnapshotOptions::default()
    };
    Ok(Snapshot::open(&origin, &folder.path().join("cow"), &options)?.0)
}

fn content(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(snapshot.size_bytes()).unwrap()];
    snapshot.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_the_kernel_served_is_served_with_the_kernels_status() {
    for vector in vectors().iter().filter(|vector| !vector.is_invalid()) {
        let files = vector.files();
        for read_only in [true, false] {
            let name = format!("{}, read-only: {read_only}", vector.name);
            let snapshot = open(&files, read_only).unwrap();
            let status = snapshot.status().to_string();
            assert_eq!(status, vector.one("reopened_status"), "{name}");
            let found = checksum(&content(&snapshot));
            assert_eq!(found, vector.one("content_sha256"), "{name}");
            snapshot.flush().unwrap();
        }
    }
}

#[test]
fn opening_changes_nothing_but_what_lies_behind_the_last_exception() {
    for vector in vectors().iter().filter(|vector| !vector.is_invalid()) {
        let files = vector.files();
        open(&files, false).unwrap().flush().unwrap();
        let after = std::fs::read(files.path().join("cow")).unwrap();
        let has_record = vector.store[RECORD].iter().any(|byte| *byte != 0);
        let changed: Vec<usize> = (0..after.len())
            .filter(|i| after[*i] != vector.store[*i])
            // Where there is a record, it names the session.
            .filter(|i| !has_record || !RECORD.contains(i))
            .collect();
        if vector.one("junk_offset") == "none" {
            assert!(changed.is_empty(), "{}: {changed:?}", vector.name);
        } else {
            assert!(!changed.is_empty() && changed.iter().all(|i| after[*i] == 0));
        }
    }
}

#[test]
fn stores_that_the_kernel_invalidated_are_refused_and_shown() {
    let vectors = vectors();
    let invalid: Vec<&Vector> = vectors
        .iter()
        .filter(|vector| vector.is_invalid())
        .collect();
    assert!(invalid.len() >= 2);
    for vector in invalid {
        let files = vector.files();
        let error = open(&files, true).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidStore, "{}", vector.name);
        let report = usnap_engine::dump::status(&files.path().join("cow")).unwrap();
        assert_eq!(report.status.to_string(), vector.one("reopened_status"));
    }
}

/// Collects the exceptions that a walk shows.
#[derive(Default)]
struct Collector(Vec<(u64, u64)>);

impl Visitor for Collector {
    fn header(&mut self, _header: &StoreHeader) -> Result<()> {
        Ok(())
    }

    fn area(&mut self, _area: AreaIndex, _location: NewChunk) -> Result<()> {
        Ok(())
    }

    fn exception(&mut self, _area: AreaIndex, _index: u64, exception: Exception) -> Result<()> {
        self.0.push((exception.old_chunk.0, exception.new_chunk.0));
        Ok(())
    }
}

#[test]
fn a_walk_shows_the_kernels_exceptions() {
    for vector in vectors() {
        let files = vector.files();
        let mut collector = Collector::default();
        walk(&files.path().join("cow"), &mut collector).unwrap();
        assert_eq!(collector.0, vector.exceptions(), "{}", vector.name);
    }
}

#[test]
fn the_engine_writes_on_where_the_kernel_stopped() {
    for vector in vectors().iter().filter(|vector| !vector.is_invalid()) {
        let files = vector.files();
        let origin = vector.origin();
        let snapshot = open(&files, false).unwrap();
        let mut wanted = content(&snapshot);
        let chunk_len = usize::try_from(snapshot.chunk_size().bytes()).unwrap();
        for at in (0..wanted.len() - 100).step_by(chunk_len) {
            match snapshot.write_at(&[0xc3; 100], at as u64) {
                Ok(()) => wanted[at..at + 100].fill(0xc3),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", vector.name),
            }
        }
        snapshot.flush().unwrap();
        drop(snapshot);
        let cow = std::fs::read(files.path().join("cow")).unwrap();
        assert!(compose(&origin, &cow).unwrap() == wanted, "{}", vector.name);
        let exceptions = load(&cow).unwrap().exceptions;
        assert!(
            exceptions.starts_with(&vector.exceptions()),
            "{}",
            vector.name
        );
        assert!(cow[..16] == vector.store[..16], "{}", vector.name);
    }
}

#[test]
fn the_status_is_the_kernels_after_each_count_of_first_writes() {
    let lines = std::fs::read_to_string(folder().join("status-lines.lines")).unwrap();
    assert!(lines.lines().count() > 10);
    for line in lines.lines() {
        let fields: Vec<&str> = line.splitn(5, ' ').collect();
        let number = |i: usize| fields[i].parse::<u64>().unwrap();
        let chunk_size = ChunkSize::from_bytes(number(1) * 512).unwrap();
        let (exceptions, cow_bytes) = (number(2), number(3) * 512);
        let origin = Arc::new(MemDevice::new((exceptions + 1) * chunk_size.bytes()));
        let snapshot = if fields[0] == "N" {
            Snapshot::transient(origin, chunk_size, cow_bytes).unwrap()
        } else {
            let cow = Arc::new(MemDevice::new(cow_bytes));
            initialise(&*cow, chunk_size, None).unwrap();
            Snapshot::on_devices(origin, cow, &SnapshotOptions::default()).unwrap()
        };
        for n in 0..exceptions {
            snapshot.write_at(&[1], n * chunk_size.bytes()).unwrap();
        }
        snapshot.flush().unwrap();
        assert_eq!(snapshot.status().to_string(), fields[4], "{line}");
    }
}
