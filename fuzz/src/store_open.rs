//! Any bytes as a COW device. What an independent loader and the rules of a sound store say must
//! be what the engine says, and `check`, and a refused store must be left as it was.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use usnap_engine::check::{Finding, FindingKind, check};
use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::dump::status;
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};

use crate::history::plain_loader::{PlainStore, compose, load};
use crate::input::Input;

/// The largest chunks that are served.
const CHUNK_LEN_MAX: usize = 16 << 20;
pub(crate) const IMAGE_LEN_MAX: usize = 1 << 20;

/// A number that is mostly small, and now and then anything.
fn number(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        255 => input.u64(),
        254 => u64::from(input.u16()),
        small => u64::from(small % 80),
    }
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = image.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A store with a sound header, and entries and bytes as they come.
pub(crate) fn made_up(input: &mut Input<'_>) -> Vec<u8> {
    let chunk_len = 512 << (input.u8() % 3);
    let len = chunk_len * (2 + usize::from(input.u8())) + usize::from(input.u8());
    let mut image = vec![0; len];
    put(&mut image, 0, b"SnAp\x01\0\0\0\x01");
    put(&mut image, 12, &(chunk_len as u32 / 512).to_le_bytes());
    let entries = chunk_len / 16;
    let mut n = 0;
    // In a row, at the data chunks in order: so that areas fill.
    for _ in 0..input.u8() {
        let (old, new) = (n as u64, (2 + n + n / entries) as u64);
        let at = (1 + n / entries * (entries + 1)) * chunk_len + n % entries * 16;
        put(&mut image, at, &old.to_le_bytes());
        put(&mut image, at + 8, &new.to_le_bytes());
        n += 1;
    }
    while !input.is_empty() {
        if input.u8().is_multiple_of(8) {
            let at = usize::from(input.u16());
            put(&mut image, at, &[input.u8()]);
        } else {
            let (old, new) = (number(input), number(input));
            let at = (1 + n / entries * (entries + 1)) * chunk_len + n % entries * 16;
            put(&mut image, at, &old.to_le_bytes());
            put(&mut image, at + 8, &new.to_le_bytes());
            n += 1 + usize::from(input.u8().is_multiple_of(32));
        }
    }
    image
}

/// Whether every entry can be believed. Of chunks that the origin does not have, which nobody can
/// reach, there may be several entries.
fn is_sound(store: &PlainStore, image_len: usize, origin_len: usize) -> bool {
    let origin_chunks = origin_len.div_ceil(store.chunk_len) as u64;
    let chunks = (image_len / store.chunk_len) as u64;
    let stride = store.chunk_len as u64 / 16 + 1;
    let (mut old, mut new) = (HashSet::new(), HashSet::new());
    store.exceptions.iter().all(|(old_chunk, new_chunk)| {
        *new_chunk < chunks
            && new_chunk % stride != 1
            && (*old_chunk >= origin_chunks || old.insert(*old_chunk))
            && new.insert(*new_chunk)
    })
}

/// The chunk size that the header names, in bytes.
fn chunk_len(image: &[u8]) -> Option<usize> {
    let sectors = image.get(12..16)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(sectors))
        .ok()?
        .checked_mul(512)
}

/// What must come of opening the image.
pub(crate) fn verdict(image: &[u8], origin_len: usize) -> Option<PlainStore> {
    // Before the areas are looked at: a chunk size that can be, and two chunks of it.
    let chunk_len = chunk_len(image)?;
    let can_be = chunk_len.is_power_of_two() && (512..=CHUNK_LEN_MAX).contains(&chunk_len);
    if !can_be || image.len() < 2 * chunk_len {
        return None;
    }
    load(image)
        .ok()
        .filter(|store| is_sound(store, image.len(), origin_len))
}

fn open(origin: &[u8], cow: &Arc<MemDevice>, read_only: bool) -> usnap_engine::Result<Snapshot> {
    let options = SnapshotOptions {
        read_only,
        ..SnapshotOptions::default()
    };
    let origin = Arc::new(MemDevice::from_bytes(origin));
    Snapshot::on_devices(origin, cow.clone(), &options)
}

fn read_all(snapshot: &Snapshot) -> Vec<u8> {
    let len = usize::try_from(snapshot.size_bytes()).expect("small");
    let mut content = vec![0; len];
    snapshot
        .read_at(&mut content, 0)
        .expect("every chunk is there");
    content
}

/// What the offline tools say of the same bytes in a file.
fn look_at_rest(image: &[u8], origin: &[u8], opens: bool) {
    let mut cow = tempfile::NamedTempFile::new().expect("a file");
    cow.write_all(image).expect("room");
    let mut below = tempfile::NamedTempFile::new().expect("a file");
    below.write_all(origin).expect("room");
    let _a_number_or_an_error = status(cow.path());
    let report = check(cow.path(), Some(below.path()));
    let harmless = |finding: &Finding| match finding.kind {
        FindingKind::JunkBehindTerminator
        | FindingKind::OutsideOrigin
        | FindingKind::Identity
        | FindingKind::OriginDiffers => true,
        FindingKind::OldChunkTwice => {
            let chunk_len = chunk_len(image).expect("it has areas");
            let origin_chunks = origin.len().div_ceil(chunk_len) as u64;
            let exception = finding.exception;
            exception.is_some_and(|e| e.old_chunk.0 >= origin_chunks)
        }
        // Entries of a store of smaller chunks, where this one has data: it may be either, and what
        // the header says is served.
        FindingKind::HeaderDamaged => opens && finding.message.contains("looks sound"),
        _ => false,
    };
    match report {
        Ok(report) => {
            let sound = report.findings.iter().all(harmless);
            assert!(
                sound == opens,
                "opens: {opens}, findings: {:?}",
                report.findings
            );
        }
        Err(error) => assert!(
            !opens || error.kind() == ErrorKind::NotSupported,
            "opens, and can't be checked: {error:?}"
        ),
    }
    let after = std::fs::read(cow.path()).expect("the file");
    assert!(after == image, "looked at, and changed");
}

/// Opens the bytes as a COW device.
///
/// # Panics
/// Where the engine opens what is unsound or refuses what is sound, serves anything but what an
/// independent loader sees, or changes what it refuses.
pub fn store_open(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let is_raw = input.u8().is_multiple_of(4);
    let origin_len = 1 + usize::from(input.u16()) % 40_000;
    let origin: Vec<u8> = (0..origin_len).map(|i| (i / 100) as u8 | 1).collect();
    let mut image = if is_raw {
        input.rest().to_vec()
    } else {
        made_up(&mut input)
    };
    image.truncate(IMAGE_LEN_MAX);
    let verdict = verdict(&image, origin_len);
    look_at_rest(&image, &origin, verdict.is_some());

    for read_only in [true, false] {
        let cow = Arc::new(MemDevice::from_bytes(&image));
        let snapshot = match open(&origin, &cow, read_only) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                assert!(verdict.is_none(), "sound, and refused: {error:?}");
                assert!(cow.to_bytes() == image, "refused, and changed");
                continue;
            }
        };
        assert!(verdict.is_some(), "unsound, and opened");
        let content = compose(&origin, &image).expect("it is sound");
        assert!(read_all(&snapshot) == content, "serves something else");
        if read_only {
            drop(snapshot);
            assert!(cow.to_bytes() == image, "read-only, and changed");
        } else {
            write_on(snapshot, &origin, &cow, content);
        }
    }
    match verdict {
        None => "refused",
        Some(store) if store.exceptions.is_empty() => "empty",
        Some(_) => "opened",
    }
}

/// Writes here and there; whoever opens it next sees the same.
fn write_on(snapshot: Snapshot, origin: &[u8], cow: &Arc<MemDevice>, mut content: Vec<u8>) {
    for at in (0..content.len()).step_by(7_000) {
        let len = 600.min(content.len() - at);
        match snapshot.write_at(&vec![0xa7; len], at as u64) {
            Ok(()) => content[at..at + len].fill(0xa7),
            Err(error) => {
                assert!(error.kind() == ErrorKind::NoSpace, "{error:?}");
                // A part of it may be there.
                content = read_all(&snapshot);
            }
        }
    }
    snapshot.flush().expect("memory");
    let report = snapshot.report();
    assert!(read_all(&snapshot) == content);
    drop(snapshot);
    assert!(compose(origin, &cow.to_bytes()).expect("sound") == content);
    let again = open(origin, cow, false).expect("it was just written");
    assert!(read_all(&again) == content);
    assert!(again.report().exceptions == report.exceptions);
    assert!(again.status() == report.status);
}
