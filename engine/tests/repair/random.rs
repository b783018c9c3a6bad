//! Seeded random damage to the metadata of kernel-made stores: a repair never panics, never touches
//! a data chunk, and ends with a store that is clean, or refuses with nothing changed.

use std::collections::BTreeMap;

use usnap_engine::check::check_device;
use usnap_engine::device::MemDevice;
use usnap_engine::repair::{Plan, RepairOptions};
use usnap_format::ChunkSize;

use crate::bench::Bench;
use crate::plain_loader::compose;
use crate::random_numbers::Random;

fn rounds() -> u64 {
    let rounds = std::env::var("USNAP_REPAIR_ROUNDS").ok();
    rounds.map_or(4_000, |text| text.parse().unwrap())
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// A place in the header or in an area.
fn place(random: &mut Random, bench: &Bench) -> usize {
    let stride = bench.chunk_len / 16 + 1;
    let areas = (bench.sound.len() / bench.chunk_len - 1).div_ceil(stride) as u64;
    let within = index(random.below(bench.chunk_len as u64));
    match random.below(4) {
        0 => index(random.below(16)),
        1 => index(random.below(256)),
        _ => {
            // Mostly where entries are.
            let used = (bench.exceptions.len() * 16 + 40).min(bench.chunk_len);
            let within = if random.below(4) > 0 {
                within % used
            } else {
                within
            };
            (1 + index(random.below(areas)) * stride) * bench.chunk_len + within
        }
    }
}

fn damage(random: &mut Random, bench: &Bench, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = place(random, bench).min(bytes.len() - 16);
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            2 => bytes[at / 16 * 16..][..16].fill(0),
            3 => {
                // A number that may well be a chunk's.
                let number = random.below(140);
                bytes[at / 8 * 8..][..8].copy_from_slice(&number.to_le_bytes());
            }
            4 => {
                // An entry repeated elsewhere.
                let other = place(random, bench).min(bytes.len() - 16) / 16 * 16;
                let entry: [u8; 16] = bytes[other..other + 16].try_into().unwrap();
                bytes[at / 16 * 16..][..16].copy_from_slice(&entry);
            }
            5 => {
                let sector = at.min(bytes.len() - 512) / 512 * 512;
                for byte in &mut bytes[sector..sector + 512] {
                    *byte = u8::try_from(random.below(256)).unwrap();
                }
            }
            6 => {
                let sector = at.min(bytes.len() - 512) / 512 * 512;
                bytes[sector..sector + 512].fill(0);
            }
            _ if random.below(4) == 0 => {
                let len = bytes.len() as u64;
                bytes.truncate(index(len / 2 + random.below(len / 2)).max(512));
            }
            _ => {}
        }
    }
}

fn is_metadata(chunk_len: usize, chunk: usize) -> bool {
    chunk == 0 || chunk % (chunk_len / 16 + 1) == 1
}

#[test]
fn random_damage_is_mended_or_refused() {
    let names = [
        "chunk-512",
        "chunk-4k",
        "four-areas",
        "full-area",
        "identity",
        "poisoned",
    ];
    let benches = names.map(Bench::of);
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 0..rounds() {
        let mut random = Random::new(round);
        let bench = &benches[index(random.below(benches.len() as u64))];
        let mut bytes = bench.sound.clone();
        damage(&mut random, bench, &mut bytes);
        let sectors = u32::try_from(bench.chunk_len / 512).unwrap();
        let is_told = random.below(3) == 0;
        let options = RepairOptions {
            revalidate: random.below(2) == 0,
            drop_damaged: random.below(2) == 0,
            chunk_size: is_told.then(|| ChunkSize::from_sectors(sectors).unwrap()),
            ..RepairOptions::default()
        };
        *outcomes
            .entry(one(bench, &bytes, &options, round))
            .or_default() += 1;
    }
    println!("{outcomes:?}");
    for outcome in ["no store", "refused", "mended", "sound"] {
        assert!(
            outcomes.contains_key(outcome),
            "{outcome} was not reached: {outcomes:?}"
        );
    }
}

fn one(bench: &Bench, bytes: &[u8], options: &RepairOptions, round: u64) -> &'static str {
    let device = MemDevice::from_bytes(bytes);
    let plan = match Plan::make(&device, options) {
        Ok(plan) => plan,
        Err(error) => {
            assert!(error.to_string().starts_with("cannot "), "{error:?}");
            return "no store";
        }
    };
    assert!(
        device.to_bytes() == bytes,
        "round {round}: planned, and changed"
    );
    let checked = check_device(&device);
    if plan.is_empty() {
        assert!(
            checked.unwrap().is_clean(),
            "round {round}: damage, and no plan"
        );
        return "sound";
    }
    if plan.carry_out(&device).is_err() {
        assert!(
            device.to_bytes() == bytes,
            "round {round}: refused, and changed"
        );
        return "refused";
    }
    let report = check_device(&device).unwrap();
    assert_eq!(report.findings, [], "round {round}");
    let after = device.to_bytes();
    let sectors = u32::from_le_bytes(after[12..16].try_into().unwrap());
    let chunk_len = usize::try_from(sectors).unwrap() * 512;
    for (chunk, data) in bytes.chunks_exact(chunk_len).enumerate() {
        let same = &after[chunk * chunk_len..][..chunk_len] == data;
        assert!(
            same || is_metadata(chunk_len, chunk),
            "round {round}: chunk {chunk}"
        );
    }
    // Whoever reads it by the format's facts alone can.
    compose(&bench.origin, &after).unwrap_or_else(|e| panic!("round {round}: {e}"));
    "mended"
}
