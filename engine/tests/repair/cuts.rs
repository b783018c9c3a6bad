//! Power cuts while a repair is carried out: whichever sectors have landed, what is left means what
//! it did or less of what can't be, and a repair of that ends where the first one would have.

use std::sync::Arc;

use usnap_engine::check::check_device;
use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::repair::{Plan, RepairOptions};
use usnap_engine::sim::{CrashState, Event, LogWrites};

use crate::bench::{Bench, dropping, options, revalidating};
use crate::plain_loader::{compose, load};
use crate::stores::put_exception;

/// So many images of each moment at most.
const IMAGES_MAX: u64 = 400;

/// What is done, in order.
fn log_of(bytes: &[u8], options: &RepairOptions) -> Vec<Event> {
    let device = LogWrites::new(Arc::new(MemDevice::from_bytes(bytes)));
    let plan = Plan::make(&device, options).unwrap();
    plan.carry_out(&device).unwrap();
    assert!(check_device(&device).unwrap().is_clean());
    device.take_log()
}

/// Repairs `bytes` with a cut after each event; returns how many images there were.
fn cut_everywhere(bench: &Bench, bytes: &[u8], options: &RepairOptions, lost: &[u64]) -> u64 {
    let log = log_of(bytes, options);
    let mut state = CrashState::new(bytes.to_vec());
    let mut count = 0;
    for event in &log {
        state.add(event);
        for image in state.some_images(IMAGES_MAX, count) {
            count += 1;
            look(bench, &image, options, lost);
        }
    }
    count
}

fn look(bench: &Bench, image: &[u8], options: &RepairOptions, lost: &[u64]) {
    // As a kernel would take it: every believable entry is there, whoever is first.
    if let Ok(store) = load(image) {
        for entry in bench
            .exceptions
            .iter()
            .filter(|(old, _)| !lost.contains(old))
        {
            assert!(store.exceptions.contains(entry), "{entry:?} is missing");
        }
    }
    let device = MemDevice::from_bytes(image);
    let plan = Plan::make(&device, options).unwrap();
    assert_eq!(plan.refusals, []);
    plan.carry_out(&device).unwrap();
    assert!(check_device(&device).unwrap().is_clean());
    assert!(Plan::make(&device, &self::options()).unwrap().is_empty());
    let found = compose(&bench.origin, &device.to_bytes()).unwrap();
    bench.assert_is_content(&found, lost);
    assert_eq!(device.size_bytes() % 512, 0);
}

#[test]
fn entries_are_removed_safely_at_any_cut() {
    for (name, places) in [
        ("chunk-4k", vec![1]),
        ("chunk-4k", vec![0, 2, 4]),
        ("chunk-512", vec![0, 8]),
        ("four-areas", vec![0, 31, 32, 63, 64, 99]),
        ("four-areas", (10..60).collect()),
        ("four-areas", vec![96, 98]),
        ("full-area", vec![5]),
    ] {
        let bench = Bench::of(name);
        let mut bytes = bench.sound.clone();
        let lost: Vec<u64> = places.iter().map(|n| bench.exceptions[*n].0).collect();
        for n in &places {
            put_exception(&mut bytes, bench.chunk_len, *n, 500, 1);
        }
        assert!(
            cut_everywhere(&bench, &bytes, &dropping(), &lost) > 3,
            "{name}"
        );
    }
}

#[test]
fn junk_header_and_record_are_mended_safely_at_any_cut() {
    let bench = Bench::of("identity");
    let mut bytes = bench.sound.clone();
    for n in 4..200 {
        put_exception(&mut bytes, bench.chunk_len, n, n as u64, 9);
    }
    bytes[60] ^= 1;
    assert!(cut_everywhere(&bench, &bytes, &options(), &[]) > 20);

    // The clearing of what could be entries leaves no doubt half-way.
    let bench = Bench::of("chunk-4k");
    let mut bytes = bench.sound.clone();
    bytes.resize(120 * 4096, 0);
    put_exception(&mut bytes, 4096, 0, 0, 0);
    for n in 6..96 {
        put_exception(&mut bytes, 4096, n, 1000 + n as u64, 20 + n as u64);
    }
    let lost: Vec<u64> = bench.exceptions.iter().map(|(old, _)| *old).collect();
    assert!(cut_everywhere(&bench, &bytes, &options(), &lost) > 8);

    let bench = Bench::of("chunk-16k");
    let mut bytes = bench.sound.clone();
    bytes[..3].fill(9);
    assert!(cut_everywhere(&bench, &bytes, &options(), &[]) > 1);
}

#[test]
fn a_file_is_made_longer_and_valid_safely_at_any_cut() {
    let bench = Bench::of("full-area");
    for (cut, valid) in [(0, 1), (300, 1), (511, 0)] {
        let mut bytes = bench.sound[..34 * 512 + cut].to_vec();
        // What looks like entries, where the area will be.
        for piece in bytes[34 * 512..].chunks_exact_mut(16) {
            piece.copy_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes[4] = valid;
        assert!(cut_everywhere(&bench, &bytes, &revalidating(), &[]) > 2);
    }
    let bench = Bench::of("poisoned");
    assert!(cut_everywhere(&bench, &bench.sound, &revalidating(), &[]) > 2);
}

/// The order that DESIGN.md promises, of all at once.
#[test]
fn the_order_is_the_documented_one() {
    let bench = Bench::of("four-areas");
    let mut bytes = bench.sound.clone();
    for n in [3, 40, 98] {
        put_exception(&mut bytes, 512, n, 500, 1);
    }
    put_exception(&mut bytes, 512, 105, 1, 1);
    bytes[4] = 0;
    let both = RepairOptions {
        revalidate: true,
        ..dropping()
    };
    let words: Vec<String> = log_of(&bytes, &both)
        .iter()
        .map(|event| match event {
            Event::Flush { .. } => "sync".to_owned(),
            other => {
                let (offset, len) = other.range().unwrap();
                format!("{} +{len}", offset / 512)
            }
        })
        .collect();
    // Area k is chunk 33 k + 1; entries 97 to 99 lie in area 3, chunk 100.
    let wanted = [
        "sync", "100 +368", "sync", "1 +512", "34 +512", "sync", "100 +512", "sync", "0 +16",
        "sync",
    ];
    assert_eq!(words, wanted);
}
