//! The kernel's snapshot-origin and ours play the same history, a request at a time: writes to the
//! origin and to three snapshots with chunks of 4, 16 and 64 KiB, and to one that runs full. The COW
//! devices have the same bytes then, all of them, and so has the origin.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use usnap_engine::device::BlockDevice;
use usnap_engine::origin::WritableOrigin;
use usnap_engine::snapshot_origin::{MemberState, SnapshotOrigin, WhenFull};
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{Durability, SnapshotOptions};
use usnap_format::{ChunkSize, HEADER_LEN};
use usnap_test_support::lab::{sha256_of_bytes, text};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, KIB, MIB, Need, Rng, missing};

use crate::LAB;

/// The last chunk is a partial one, for all sizes.
const ORIGIN_BYTES: u64 = 6 * MIB + 5 * 512;
const DATA_BYTES: u64 = MIB;
const REQUESTS: u64 = 200;
/// Name, chunk size, chunks; the last one runs full.
const STORES: [(&str, u64, u64); 4] = [
    ("s4", 4 * KIB, 1700),
    ("s16", 16 * KIB, 450),
    ("s64", 64 * KIB, 120),
    ("small", 8 * KIB, 40),
];

/// One write of `bytes` bytes of the data, to the origin or to a snapshot.
struct Request {
    device: &'static str,
    bytes: u64,
    from: u64,
    to: u64,
}

/// Whole sectors: single ones, parts of chunks, whole chunks, many chunks.
fn history(seed: u64) -> Vec<Request> {
    let mut rng = Rng::new(seed);
    let one = |number: u64| {
        let device = match rng.below(8) {
            0 => "s4",
            1 => "s16",
            2 => "s64",
            _ => "origin",
        };
        let bytes = match rng.below(6) {
            0 => 512,
            1 => 4 * KIB,
            2 => 16 * KIB,
            3 => 64 * KIB,
            _ => 512 * (1 + rng.below(200)),
        };
        let step = [512, 4 * KIB, 64 * KIB][usize::try_from(rng.below(3)).unwrap_or(0)];
        // The end of the origin, too.
        let to = if number % 50 == 49 {
            ORIGIN_BYTES - bytes
        } else {
            rng.below(ORIGIN_BYTES - bytes) / step * step
        };
        Request {
            device,
            bytes,
            from: rng.below((DATA_BYTES - bytes) / 512) * 512,
            to,
        }
    };
    (0..REQUESTS).map(one).collect()
}

/// Plays the history on the files in `folder`: of each device what it shows in the end, and its
/// status line.
fn play(folder: &Path, data: &[u8], history: &[Request]) -> Result<Vec<(String, String)>> {
    let origin = WritableOrigin::open(&folder.join("origin"))?;
    let origin = SnapshotOrigin::open(origin, WhenFull::Drop);
    let mut snapshots = Vec::new();
    for (name, chunk_bytes, chunks) in STORES {
        let cow = folder.join(name);
        let options = CreateOptions {
            size_bytes: chunks * chunk_bytes,
            chunk_size: ChunkSize::from_bytes(chunk_bytes).context("a chunk size")?,
            label: String::new(),
            origin: None,
            // The kernel has none.
            identity: false,
        };
        create(&cow, &options)?;
        let options = SnapshotOptions {
            durability: Durability::EveryWrite,
            ..SnapshotOptions::default()
        };
        snapshots.push((name, origin.add(name, &cow, &options)?.0));
    }
    for request in history {
        let range = usize::try_from(request.from)?..usize::try_from(request.from + request.bytes)?;
        let bytes = data.get(range).context("it lies inside")?;
        let snapshot = snapshots.iter().find(|(name, _)| *name == request.device);
        let device: Arc<dyn BlockDevice> = match snapshot {
            Some((_, snapshot)) => Arc::clone(snapshot) as Arc<dyn BlockDevice>,
            None => Arc::clone(&origin) as Arc<dyn BlockDevice>,
        };
        device.write_at(bytes, request.to)?;
        device.flush()?;
    }
    let mut content = vec![0; usize::try_from(ORIGIN_BYTES)?];
    origin.read_at(&mut content, 0)?;
    let mut shown = vec![(sha256_of_bytes(&content)?, String::new())];
    for ((_, snapshot), state) in snapshots.iter().zip(origin.snapshots()) {
        let is_dropped = matches!(state.state, MemberState::Dropped { .. });
        let digest = match snapshot.read_at(&mut content, 0) {
            Ok(()) => sha256_of_bytes(&content)?,
            Err(_) if is_dropped => String::new(),
            Err(error) => return Err(error.into()),
        };
        shown.push((digest, snapshot.status().to_string()));
    }
    origin.close()?;
    Ok(shown)
}

/// The place of the first difference.
fn difference(ours: &[u8], theirs: &[u8]) -> Option<usize> {
    ours.iter().zip(theirs).position(|(a, b)| a != b)
}

/// The kernel's part: a guest with files like ours.
fn guest(theirs: &Path, data: &Path, history: &Path) -> Result<Guest> {
    let mut guest = Guest::new()
        .disk("ORIGIN", &theirs.join("origin"))
        .variable("DATA", text(data)?)
        .variable("HISTORY", text(history)?);
    let mut list = Vec::new();
    for (number, (name, chunk_bytes, chunks)) in STORES.iter().enumerate() {
        let cow = theirs.join(name);
        fs::File::create(&cow)?.set_len(chunks * chunk_bytes)?;
        guest = guest.disk(&format!("COW{number}"), &cow);
        list.push(format!("{name}:COW{number}:{}", chunk_bytes / 512));
    }
    Ok(guest.variable("STORES", &list.join(" ")))
}

#[test]
fn our_origin_leaves_the_same_bytes_as_the_kernels() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = LAB.scratch("origin")?;
    let (ours, theirs) = (scratch.join("ours"), scratch.join("theirs"));
    for folder in [&ours, &theirs] {
        fs::create_dir_all(folder)?;
        random_file(&folder.join("origin"), ORIGIN_BYTES, 11)?;
    }
    let data: PathBuf = scratch.join("data");
    random_file(&data, DATA_BYTES, 12)?;
    let requests = history(13);
    let mut lines = String::new();
    for request in &requests {
        let Request {
            device,
            bytes,
            from,
            to,
        } = request;
        writeln!(lines, "{device} {bytes} {from} {to}")?;
    }
    let history = scratch.join("history");
    fs::write(&history, lines)?;

    let said = guest(&theirs, &data, &history)?.run(&scratch, include_str!("origin.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    let shown = play(&ours, &fs::read(&data)?, &requests)?;

    let names = ["origin"].into_iter().chain(STORES.map(|(name, ..)| name));
    for (name, (digest, status)) in names.zip(&shown) {
        let read = |folder: &Path| fs::read(folder.join(name));
        let (our_bytes, their_bytes) = (read(&ours)?, read(&theirs)?);
        ensure!(our_bytes.len() == their_bytes.len(), "{name}");
        if name == "small" {
            // What it had when it was given up depends on how much was under way.
            assert_eq!(status, "Invalid");
            assert_eq!(said.value("small.status")?, "Invalid");
            assert_eq!(our_bytes[..HEADER_LEN], their_bytes[..HEADER_LEN]);
            continue;
        }
        assert_eq!(difference(&our_bytes, &their_bytes), None, "{name}");
        assert_eq!(said.value(&format!("{name}.sha256"))?, digest, "{name}");
        if name != "origin" {
            assert_eq!(said.value(&format!("{name}.status"))?, status, "{name}");
        }
    }
    Ok(())
}
