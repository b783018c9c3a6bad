//! A COW device's bytes, read by nothing but the format's facts.

use crate::history::{Shape, Store, bytes};

/// An entry: old chunk, new chunk.
pub(crate) type Entry = (u64, u64);

/// The entries of all areas, in order, and how many areas that took.
pub(crate) fn entries(cow: &[u8], chunk: u64) -> Vec<Entry> {
    let (per_area, chunk_bytes) = (bytes(chunk) / 16, bytes(chunk));
    let mut found = Vec::new();
    for area in 0.. {
        let start = (1 + area * (per_area + 1)) * chunk_bytes;
        let Some(bytes) = cow.get(start..start + chunk_bytes) else {
            break;
        };
        for entry in bytes.chunks(16) {
            let number = |at: usize| entry[at..at + 8].try_into().map(u64::from_le_bytes);
            let (old, new) = (number(0).unwrap_or(0), number(8).unwrap_or(0));
            if new == 0 {
                return found;
            }
            found.push((old, new));
        }
    }
    found
}

/// The old chunks that have exceptions, as one number.
pub(crate) fn mapped_digest(cow: &[u8], chunk: u64) -> u32 {
    let mut old: Vec<u64> = entries(cow, chunk)
        .into_iter()
        .map(|(old, _)| old)
        .collect();
    old.sort_unstable();
    let words: Vec<u8> = old.into_iter().flat_map(u64::to_le_bytes).collect();
    crc32fast::hash(&words)
}

/// Takes out what may differ: the identity record's place, where there is one, and what lies behind
/// the origin's end in the copy of a cut last chunk, where there were old bytes.
pub(crate) fn normalised(mut cow: Vec<u8>, shape: &Shape) -> Vec<u8> {
    match shape.store {
        Store::Plain => {}
        Store::Identity => cow[16..512].fill(0),
        Store::OverGarbage => {
            let last = shape.origin / shape.chunk;
            let copy = shape.cut_tail().and_then(|tail| {
                let all = entries(&cow, shape.chunk);
                let (_, new) = all.into_iter().find(|(old, _)| *old == last)?;
                Some((new * shape.chunk + tail, shape.chunk - tail))
            });
            if let Some((start, len)) = copy {
                let start = bytes(start);
                if let Some(behind) = cow.get_mut(start..start + bytes(len)) {
                    behind.fill(0);
                }
            }
        }
    }
    cow
}
