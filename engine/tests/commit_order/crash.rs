//! Power cuts: all short histories over an alphabet, cut before each sync, with all subsets (or a
//! sample) of the sectors that were not synced. Each image is opened here and, independently, in
//! the kernel's way, both of which then write on. At every moment each sector is one of its values
//! since the last flush, and what was flushed is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::sim::{CrashState, Event};
use usnap_engine::{Snapshot, SnapshotOptions};

use crate::plain_kernel::PlainKernel;
use crate::plain_loader::{compose, load};
use crate::recorder::Recorder;
use crate::stores::{first_exceptions, image, put_exception};

const SECTOR: usize = 512;
const ORIGIN_CHUNKS: usize = 240;
const COW_CHUNKS: usize = 260;
/// Old chunks from here on are for those who write on after a cut.
const FRESH: usize = 150;
const ORIGIN_TAG: u8 = 199;
const STALE_TAG: u8 = 0xee;

/// One step. New chunks are taken from old chunk 100 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Writes so many new chunks at once.
    Write(usize),
    /// Writes over what the first steps wrote, and over a chunk that was there before.
    Overwrite,
    /// Zeroes a new chunk and discards an old one.
    Clear,
    Flush,
}

use Step::{Clear, Flush, Overwrite, Write};

/// Where a history begins.
struct Start {
    chunk_len: usize,
    exceptions: u64,
    /// Entries behind the terminator, as a torn commit of somebody else left them.
    junk: bool,
}

impl Start {
    fn image(&self) -> Vec<u8> {
        let exceptions = first_exceptions(self.chunk_len, self.exceptions);
        let mut store = image(self.chunk_len, COW_CHUNKS, &exceptions);
        // What no exception names is not zeros, in data chunks and in areas: nobody may show it.
        let used = exceptions.iter().map(|(_, new_chunk)| *new_chunk).max();
        let first_unused = usize::try_from(used.unwrap_or(1)).unwrap() + 1;
        store[first_unused * self.chunk_len..].fill(STALE_TAG);
        if self.junk {
            let first = usize::try_from(self.exceptions).unwrap();
            for n in first + 2..first + 6 {
                // Chunks that the next commits will use, for old chunks that nobody writes.
                put_exception(&mut store, self.chunk_len, n, 80 + n as u64, n as u64);
            }
        }
        store
    }

    fn origin(&self) -> Vec<u8> {
        vec![ORIGIN_TAG; ORIGIN_CHUNKS * self.chunk_len]
    }
}

/// The values of each sector since the last flush.
#[derive(Clone)]
struct Values(Vec<BTreeSet<u8>>);

fn tags(content: &[u8]) -> Vec<u8> {
    content
        .chunks(SECTOR)
        .map(|sector| {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "a torn sector"
            );
            sector[0]
        })
        .collect()
}

impl Values {
    fn of(content: &[u8]) -> Self {
        Self(tags(content).into_iter().map(|tag| [tag].into()).collect())
    }

    fn write(&mut self, offset: usize, len: usize, tag: u8) {
        for values in &mut self.0[offset / SECTOR..(offset + len) / SECTOR] {
            values.insert(tag);
        }
    }

    fn assert_has(&self, content: &[u8], what: &str) {
        for (sector, (tag, values)) in tags(content).into_iter().zip(&self.0).enumerate() {
            assert!(
                values.contains(&tag),
                "{what}: sector {sector} is {tag}, may be {values:?}"
            );
        }
    }
}

/// Does one step on the snapshot; `values` are right during it, and afterwards.
fn take(snapshot: &Snapshot, start: &Start, number: usize, step: Step, values: &mut Values) {
    let chunk_len = start.chunk_len;
    let tag = 200 + u8::try_from(number).unwrap();
    let write = |chunk: usize, count: usize, values: &mut Values| {
        let (offset, len) = (chunk * chunk_len, count * chunk_len);
        values.write(offset, len, tag);
        snapshot.write_at(&vec![tag; len], offset as u64).unwrap();
    };
    match step {
        Write(count) => write(100 + number * 5, count, values),
        Overwrite => {
            write(0, 1, values);
            write(100, 1, values);
        }
        Clear => {
            let (new, old) = (100 + number * 5, 1);
            values.write(new * chunk_len, chunk_len, 0);
            values.write(old * chunk_len, chunk_len, 0);
            let bytes = |chunk: usize| (chunk * chunk_len) as u64;
            let len = chunk_len as u64;
            snapshot
                .zero_at(bytes(new), len, ZeroFlags::default())
                .unwrap();
            snapshot.discard_at(bytes(old), len).unwrap();
        }
        Flush => snapshot.flush().unwrap(),
    }
}

/// Plays a history and judges what every cut leaves; how many images that were.
fn cut_everywhere(start: &Start, store: Vec<u8>, steps: &[Step], nested: bool) -> u64 {
    let device = Recorder::new(&store);
    let origin = Arc::new(MemDevice::from_bytes(&start.origin()));
    let mut values = Values::of(&compose(&start.origin(), &store).unwrap());
    let mut cut = CrashState::new(store);
    let mut images = 0;
    let options = SnapshotOptions::default();
    let snapshot = Snapshot::on_devices(origin, device.device.clone(), &options).unwrap();
    let mut see = |values: &Values, at_the_end: bool| {
        for event in device.take_log() {
            if matches!(event, Event::Flush { .. }) {
                images += judge_all(start, &cut, values, nested);
            }
            cut.add(&event);
        }
        if at_the_end {
            images += judge_all(start, &cut, values, nested);
        }
    };
    see(&values, false);
    for (number, step) in steps.iter().enumerate() {
        take(&snapshot, start, number, *step, &mut values);
        see(&values, false);
        if *step == Flush {
            let mut content = vec![0; start.origin().len()];
            snapshot.read_at(&mut content, 0).unwrap();
            values = Values::of(&content);
        }
    }
    see(&values, true);
    images
}

fn judge_all(start: &Start, cut: &CrashState, values: &Values, nested: bool) -> u64 {
    let max = if nested { 24 } else { 6 };
    let mut count = 0;
    for image in cut.some_images(max, 1) {
        judge(start, &image, values);
        count += 1;
        // A second cut, of what is written on after the first.
        if nested && count % 8 == 1 {
            count += cut_everywhere(start, image, &[Write(3), Flush], false);
        }
    }
    count
}

/// One image: what it holds, and that it still does after either side has written on.
fn judge(start: &Start, image: &[u8], values: &Values) {
    let origin = start.origin();
    let content = compose(&origin, image).unwrap();
    values.assert_has(&content, "as it lies");
    let kept = FRESH * start.chunk_len;

    let cow = Arc::new(MemDevice::from_bytes(image));
    let below = Arc::new(MemDevice::from_bytes(&origin));
    let options = SnapshotOptions::default();
    let snapshot = Snapshot::on_devices(below, cow.clone(), &options).unwrap();
    let mut found = vec![0; origin.len()];
    snapshot.read_at(&mut found, 0).unwrap();
    assert!(found == content, "the engine reads something else");
    snapshot
        .write_at(&vec![1; 2 * start.chunk_len], kept as u64)
        .unwrap();
    snapshot.flush().unwrap();
    drop(snapshot);
    let after = cow.to_bytes();
    let written_on = compose(&origin, &after).unwrap();
    assert!(
        written_on[..kept] == content[..kept],
        "changed by writing on"
    );
    assert!(
        written_on[kept..][..2 * start.chunk_len]
            .iter()
            .all(|b| *b == 1)
    );
    assert_no_chunk_twice(&after);

    // More than an area's worth, looked at after each, so that whatever lies behind the terminator
    // would come alive.
    let mut kernel = PlainKernel::activate(image.to_vec()).unwrap();
    let count = load(image).unwrap().exceptions.len();
    for n in 0..start.chunk_len / 16 + 2 {
        kernel.write((FRESH + n) as u64, 1);
        let found = load(kernel.image()).unwrap().exceptions.len();
        assert_eq!(
            found,
            count + n + 1,
            "more came alive than the kernel wrote"
        );
    }
    let after = kernel.into_image();
    let written_on = compose(&origin, &after).unwrap();
    assert!(
        written_on[..kept] == content[..kept],
        "changed by the kernel"
    );
    assert_no_chunk_twice(&after);
}

fn assert_no_chunk_twice(image: &[u8]) {
    let exceptions = load(image).unwrap().exceptions;
    let old: BTreeSet<u64> = exceptions.iter().map(|(old_chunk, _)| *old_chunk).collect();
    let new: BTreeSet<u64> = exceptions.iter().map(|(_, new_chunk)| *new_chunk).collect();
    assert_eq!((old.len(), new.len()), (exceptions.len(), exceptions.len()));
}

/// All histories of so many steps.
fn histories(alphabet: &[Step], len: u32) -> impl Iterator<Item = Vec<Step>> {
    let count = alphabet.len().pow(len);
    (0..count).map(move |mut n| {
        (0..len)
            .map(|_| {
                let step = alphabet[n % alphabet.len()];
                n /= alphabet.len();
                step
            })
            .chain([Flush])
            .collect()
    })
}

fn explore(start: &Start, alphabet: &[Step], len: u32) {
    let mut images = 0;
    for steps in histories(alphabet, len) {
        images += cut_everywhere(start, start.image(), &steps, true);
    }
    assert!(images > 1000, "only {images} images were judged");
}

#[test]
fn a_power_cut_keeps_what_was_flushed_where_an_area_is_one_sector() {
    // 29 of the 32 entries are used: every history runs over the border.
    let start = Start {
        chunk_len: 512,
        exceptions: 29,
        junk: false,
    };
    explore(&start, &[Write(1), Write(3), Overwrite, Clear, Flush], 3);
}

#[test]
fn a_power_cut_keeps_what_was_flushed_where_an_area_is_two_sectors() {
    for exceptions in [29, 61] {
        let start = Start {
            chunk_len: 1024,
            exceptions,
            junk: false,
        };
        explore(&start, &[Write(4), Overwrite, Flush], 3);
    }
}

#[test]
fn a_power_cut_brings_no_junk_alive_at_or_after_open() {
    let start = Start {
        chunk_len: 1024,
        exceptions: 29,
        junk: true,
    };
    // A kernel that takes such a store itself does bring it alive: only what happens once the
    // store was opened here can be promised. So the first cut comes after that.
    let store = Recorder::new(&start.image());
    let origin = Arc::new(MemDevice::from_bytes(&start.origin()));
    let options = SnapshotOptions::default();
    drop(Snapshot::on_devices(origin, store.device.clone(), &options).unwrap());
    for steps in histories(&[Write(1), Write(4), Flush], 2) {
        cut_everywhere(&start, store.image(), &steps, true);
    }
}

#[test]
fn no_cut_during_the_clearing_of_junk_shows_it_to_us() {
    let start = Start {
        chunk_len: 1024,
        exceptions: 29,
        junk: true,
    };
    let device = Recorder::new(&start.image());
    let origin = Arc::new(MemDevice::from_bytes(&start.origin()));
    let options = SnapshotOptions::default();
    let wanted = compose(&start.origin(), &start.image()).unwrap();
    let first = Snapshot::on_devices(origin.clone(), device.device.clone(), &options).unwrap();
    first.write_at(&vec![7; 8 * 1024], 100 * 1024).unwrap();
    let mut cut = CrashState::new(start.image());
    for event in device.take_log() {
        cut.add(&event);
        for image in cut.some_images(64, 1) {
            let cow = Arc::new(MemDevice::from_bytes(&image));
            let snapshot = Snapshot::on_devices(origin.clone(), cow.clone(), &options).unwrap();
            snapshot.write_at(&vec![8; 12 * 1024], 120 * 1024).unwrap();
            snapshot.flush().unwrap();
            drop(snapshot);
            let content = compose(&start.origin(), &cow.to_bytes()).unwrap();
            assert!(content[..100 * 1024] == wanted[..100 * 1024]);
        }
    }
}
