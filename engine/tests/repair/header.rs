//! Headers that are damaged, over stores whose areas say what they were, or do not.

use usnap_engine::ErrorKind;
use usnap_engine::repair::{RepairOptions, StepKind};
use usnap_format::ChunkSize;

use crate::bench::{Bench, options};
use crate::stores::{image, put_exception};

fn told(sectors: u32) -> RepairOptions {
    RepairOptions {
        chunk_size: Some(ChunkSize::from_sectors(sectors).unwrap()),
        ..options()
    }
}

const VECTORS: [(&str, u32); 7] = [
    ("chunk-512", 1),
    ("chunk-4k", 8),
    ("chunk-16k", 32),
    ("chunk-64k", 128),
    ("four-areas", 1),
    ("full-area", 1),
    ("cut-origin", 8),
];

#[test]
fn each_field_and_all_of_them_are_written_anew_and_nothing_else_is() {
    for (name, _) in VECTORS {
        for (place, bytes) in [
            (0, &b"SnAq"[..]),
            (0, &[0; 4]),
            (8, &[9, 0, 0, 0]),
            (12, &[0; 4]),
            (12, &[3, 0, 0, 0]),
            (12, &[0, 0, 0, 0x80]),
            (0, &[0xff; 16]),
        ] {
            let bench = Bench::of(name);
            let mut damaged = bench.sound.clone();
            damaged[place..place + bytes.len()].copy_from_slice(bytes);
            bench.put(&damaged);
            assert_eq!(
                bench.repair(&options()),
                [StepKind::RewriteHeader],
                "{name}"
            );
            assert!(bench.cow() == bench.sound, "{name} {place}");
        }
    }
}

#[test]
fn a_header_of_zeros_is_rewritten_only_where_the_chunk_size_is_named() {
    for (name, sectors) in VECTORS {
        let bench = Bench::of(name);
        let mut wiped = bench.sound.clone();
        wiped[..16].fill(0);
        bench.put(&wiped);
        let error = bench.refused(&options());
        let size = sectors * 512;
        let hint = error.hint().unwrap();
        assert!(hint.contains(&format!("--chunk-size {size}")), "{hint}");
        assert_eq!(bench.repair(&told(sectors)), [StepKind::RewriteHeader]);
        assert!(bench.cow() == bench.sound, "{name}");
    }
}

#[test]
fn entries_with_holes_below_a_lost_header_need_the_chunk_size() {
    for name in ["holes", "half-merged", "holes-before-area"] {
        let bench = Bench::of(name);
        let mut lost = bench.sound.clone();
        lost[..16].fill(0xee);
        bench.put(&lost);
        // Merging from the end leaves the rest in order.
        if name == "half-merged" {
            bench.repair(&options());
        } else {
            let error = bench.refused(&options());
            assert!(error.to_string().contains("perfect order"), "{error}");
            let sectors = u32::try_from(bench.chunk_len / 512).unwrap();
            bench.repair(&told(sectors));
        }
        assert!(bench.cow() == bench.sound, "{name}");
    }
}

#[test]
fn a_wrong_chunk_size_in_a_header_that_looks_sound_needs_it_to_be_named() {
    for (name, sectors, wrong) in [
        ("chunk-4k", 8, 16_u32),
        ("chunk-16k", 32, 8),
        ("four-areas", 1, 8),
    ] {
        let bench = Bench::of(name);
        let mut damaged = bench.sound.clone();
        damaged[12..16].copy_from_slice(&wrong.to_le_bytes());
        bench.put(&damaged);
        let findings = bench.check().findings;
        // An area 0 of zeros where larger chunks would have it looks like an empty store; smaller
        // chunks' area 0 was zeroed when a store of larger ones was made.
        if findings.is_empty() {
            assert!(wrong < sectors, "{name}");
            continue;
        }
        let error = bench.refused(&options());
        assert!(error.hint().unwrap().contains("--chunk-size"), "{error:?}");
        assert_eq!(bench.repair(&told(sectors)), [StepKind::RewriteHeader]);
        assert!(bench.cow() == bench.sound, "{name}");
    }
}

#[test]
fn a_chunk_size_that_contradicts_the_header_or_that_nothing_speaks_for_is_refused() {
    let bench = Bench::of("chunk-4k");
    assert_eq!(bench.refused(&told(16)).kind(), ErrorKind::Usage);
    assert!(bench.plan(&told(8)).unwrap().is_empty());
    let mut garbage = bench.sound.clone();
    garbage[..5000].fill(0x99);
    bench.put(&garbage);
    for options in [options(), told(8), told(1), told(32), told(1 << 16)] {
        let error = bench.refused(&options);
        assert!(
            matches!(error.kind(), ErrorKind::Foreign | ErrorKind::Corrupt),
            "{error:?}"
        );
    }
}

/// A disk image with a boot sector, and zeros where an area would be.
#[test]
fn what_is_no_store_is_left_alone_even_where_the_chunk_size_is_named() {
    let bench = Bench::of("chunk-4k");
    let mut disk = vec![0; 200_000];
    disk[..512].fill(0xfa);
    bench.put(&disk);
    for sectors in [1, 8, 32] {
        let error = bench.refused(&told(sectors));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    }
    bench.put(&[0; 100_000]);
    for options in [options(), told(8)] {
        bench.refused(&options);
    }
}

#[test]
fn of_several_chunk_sizes_that_fit_none_is_chosen() {
    let bench = Bench::of("chunk-4k");
    let mut bytes = image(4096, 40, &[(1, 2), (2, 3)]);
    // Chunk 2 of 4 KiB is where chunks of 8 KiB have area 0.
    bytes[8192..16384].fill(0);
    put_exception(&mut bytes, 8192, 0, 1, 2);
    bytes[..4].fill(0xee);
    bytes[12..16].fill(0xee);
    bench.put(&bytes);
    let error = bench.refused(&options());
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("4096 (2 entries), 8192 (1 entries)"),
        "{hint}"
    );
    assert_eq!(bench.refused(&told(1)).kind(), ErrorKind::Corrupt);
    assert_eq!(bench.plan(&told(16)).unwrap().step_count, 1);
    bytes[..16].copy_from_slice(&image(4096, 1, &[])[..16]);
    bench.repair(&told(8));
    assert!(bench.cow() == bytes);
}
