//! One size: fill, look up, read as well, insert.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use usnap_engine::parts::Index;

/// Lookups of a round.
const LOOKUPS: u64 = 1 << 20;
/// Entries of an area of 4 KiB: behind so many new chunks the next area lies, and a run ends.
const AREA: u64 = AREA_STEP as u64;
const AREA_STEP: usize = 256;
const CHUNK: usize = 4096;
/// What 4 KiB are copied from after a lookup: more than the caches hold.
const DATA: usize = 256 << 20;

/// Where the exceptions lie.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shape {
    /// One behind the other, as written from the beginning on.
    Sequential,
    /// Anywhere in four to eight times as many chunks, in any order.
    Scattered,
}

/// What one size costs.
pub(crate) struct Figures {
    shape: Shape,
    size: u64,
    fill_seconds: f64,
    bytes: f64,
    /// Nanoseconds of a lookup of a mapped chunk, whose number is known beforehand; that hangs on the
    /// one before; and with a copy of 4 KiB from anywhere in memory.
    lookup: f64,
    chained: f64,
    with_copy: f64,
    insert: f64,
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Scattered => "scattered",
        }
    }

    fn chunk_count(self, size: u64) -> u64 {
        match self {
            Self::Sequential => 2 * size,
            Self::Scattered => (4 * size).next_power_of_two(),
        }
    }

    /// The `number`th old chunk that was written to; each occurs once.
    fn old_chunk(self, number: u64, chunk_count: u64) -> u64 {
        match self {
            Self::Sequential => number,
            Self::Scattered => shuffled(number, chunk_count),
        }
    }

    /// Runs of old chunk, new chunk and count.
    fn runs(self, size: u64, chunk_count: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let (count, step) = match self {
            Self::Sequential => (AREA, AREA_STEP),
            Self::Scattered => (1, 1),
        };
        (0..size).step_by(step).map(move |number| {
            let old = self.old_chunk(number, chunk_count);
            (old, new_chunk(number), count.min(size - number))
        })
    }
}

/// Where the `number`th chunk that was ever written lies on the COW device.
fn new_chunk(number: u64) -> u64 {
    number + number / AREA + 2
}

/// A one-to-one mess of the numbers below a power of two.
fn shuffled(number: u64, count: u64) -> u64 {
    let mask = count - 1;
    let half = count.trailing_zeros() / 2;
    let mut value = number;
    for factor in [
        0x9e37_79b9_7f4a_7c15_u64,
        0xbf58_476d_1ce4_e5b9,
        0x94d0_49bb_1331_11eb,
    ] {
        value = value.wrapping_mul(factor) & mask;
        value ^= value >> half;
    }
    value
}

pub(crate) fn measure(shape: Shape, size: u64, rounds: u32) -> Result<Figures> {
    let chunk_count = shape.chunk_count(size);
    let before = resident_bytes()?;
    let begun = Instant::now();
    let index = Index::filled_with(chunk_count, || shape.runs(size, chunk_count))?;
    let fill_seconds = begun.elapsed().as_secs_f64();
    let bytes = resident_bytes()?.saturating_sub(before) as f64 / size as f64;

    let picks: Vec<(u64, u64)> = (0..LOOKUPS)
        .map(|n| shuffled(n, LOOKUPS * 1024) % size)
        .map(|number| (shape.old_chunk(number, chunk_count), new_chunk(number)))
        .collect();
    for (old, new) in &picks {
        ensure!(index.lookup(*old) == Some(*new), "chunk {old} is not found");
    }
    let data = vec![1_u8; DATA];
    let mut buf = [0; CHUNK];
    let lookup = median(rounds, || {
        picks
            .iter()
            .map(|(old, _)| index.lookup(black_box(*old)).unwrap_or(0))
            .fold(0, u64::wrapping_add)
    });
    let chained = median(rounds, || {
        picks.iter().fold(0, |sum, (old, _)| {
            // The same chunk, but not before the last answer is there.
            index.lookup(old ^ (black_box(sum) >> 63)).unwrap_or(0)
        })
    });
    let with_copy = median(rounds, || {
        picks
            .iter()
            .map(|(old, _)| {
                let new = index.lookup(black_box(*old)).unwrap_or(0);
                let from = usize::try_from(new).unwrap_or(0) % (DATA / CHUNK) * CHUNK;
                if let Some(chunk) = data.get(from..from + CHUNK) {
                    buf.copy_from_slice(chunk);
                }
                u64::from(black_box(&buf)[0])
            })
            .sum()
    });
    Ok(Figures {
        shape,
        size,
        fill_seconds,
        bytes,
        lookup,
        chained,
        with_copy,
        insert: insertions(&index, shape, size, chunk_count)?,
    })
}

/// Nanoseconds of an insertion, while there become half as many more, but at most as many as a round
/// has lookups.
fn insertions(index: &Index, shape: Shape, size: u64, chunk_count: u64) -> Result<f64> {
    let more = LOOKUPS.min(size / 2);
    let olds: Vec<u64> = (size..size + more)
        .map(|number| shape.old_chunk(number, chunk_count))
        .collect();
    let begun = Instant::now();
    let mut inserted = 0;
    for (number, old) in (size..).zip(&olds) {
        inserted += index.insert(*old, new_chunk(number), 1);
    }
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(inserted == more, "{inserted} of {more} were inserted");
    Ok(seconds * 1e9 / more as f64)
}

/// Nanoseconds of one of `LOOKUPS`, the median of some rounds.
fn median(rounds: u32, mut round: impl FnMut() -> u64) -> f64 {
    let mut all: Vec<f64> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            black_box(round());
            begun.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// What this process has in memory.
fn resident_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").context("cannot read statm")?;
    let pages = statm
        .split(' ')
        .nth(1)
        .context("statm has no second field")?;
    Ok(pages.parse::<u64>().context("statm has no number")? * rustix::param::page_size() as u64)
}

impl Figures {
    pub(crate) const HEADING: &str = "| order | exceptions | fill | bytes each | lookup | one by one | with a copy of 4K | insert |\n\
        |---|---|---|---|---|---|---|---|";
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| {} | {} | {:.3} s | {:.2} | {:.1} ns | {:.1} ns | {:.0} ns | {:.0} ns |",
            self.shape.name(),
            self.size,
            self.fill_seconds,
            self.bytes,
            self.lookup,
            self.chained,
            self.with_copy,
            self.insert
        )
    }
}
