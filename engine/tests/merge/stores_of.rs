//! Stores to be merged: their images, the origin, and what both show together.

use usnap_format::{IDENTITY_LEN, IDENTITY_OFFSET, IdentityRecord};

use crate::plain_loader::compose;
use crate::random::Random;
use crate::stores::{image, put_exception};

/// A store to be merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) chunk_len: usize,
    pub(crate) exceptions: usize,
    /// New chunks are not in order, and some numbers are left out.
    pub(crate) is_disordered: bool,
    /// What nothing reaches looks like areas that are full of entries.
    pub(crate) is_stale: bool,
    /// Whether there is an identity record.
    pub(crate) has_record: bool,
}

/// The same, in bytes.
pub(crate) struct Pair {
    pub(crate) shape: Shape,
    pub(crate) origin: Vec<u8>,
    pub(crate) cow: Vec<u8>,
    /// What the snapshot shows.
    pub(crate) content: Vec<u8>,
}

/// So many chunks of the origin have no exception.
const UNMAPPED: usize = 40;

impl Pair {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let chunk_len = shape.chunk_len;
        let entries = chunk_len / 16;
        let origin_chunks = shape.exceptions + UNMAPPED;
        // It ends inside its last chunk.
        let origin_len = origin_chunks * chunk_len - chunk_len / 4;
        let mut old_chunks: Vec<u64> = (0..origin_chunks as u64).collect();
        shuffle(&mut old_chunks, &mut random, 8);
        let last = origin_chunks as u64 - 1;
        // The last one is always written.
        let place = old_chunks.iter().position(|old| *old == last);
        if let Some(place) = place.filter(|place| *place >= shape.exceptions) {
            old_chunks.swap(place, shape.exceptions.saturating_sub(1));
        }
        let number = |n: usize| (2 + n + n / entries) as u64;
        let spread = if shape.is_disordered { 2 } else { 1 };
        let mut new_chunks: Vec<u64> = (0..shape.exceptions * spread).map(number).collect();
        if shape.is_disordered {
            shuffle(&mut new_chunks, &mut random, 16);
        }
        let pairs: Vec<(u64, u64)> = old_chunks
            .into_iter()
            .zip(new_chunks)
            .take(shape.exceptions)
            .collect();
        let room = shape.exceptions * spread + 3 * entries;
        let chunks = usize::try_from(number(room)).unwrap() + 1;
        let mut cow = image(chunk_len, chunks, &pairs);
        for (n, chunk) in cow.chunks_mut(chunk_len).enumerate().skip(2) {
            if n % (entries + 1) != 1 {
                fill(chunk, 7 << 32 | n as u64);
            }
        }
        if shape.is_stale {
            for n in (shape.exceptions / entries + 1) * entries..room {
                put_exception(&mut cow, chunk_len, n, n as u64 % 7, number(n % 5));
            }
        }
        let mut origin = vec![0; origin_len];
        for (n, chunk) in origin.chunks_mut(chunk_len).enumerate() {
            fill(chunk, 1 << 32 | n as u64);
        }
        if shape.has_record {
            let record = IdentityRecord::default().encode(crc32fast::hash);
            put_record(&mut cow, &record);
        }
        let content = compose(&origin, &cow).unwrap();
        Self {
            shape,
            origin,
            cow,
            content,
        }
    }

    /// The bytes of the COW device when all is merged: entries are zeros, and nothing else changed.
    pub(crate) fn assert_merged(&self, origin: &[u8], cow: &[u8]) -> Result<(), String> {
        if origin != self.content {
            return Err("the origin is not what the snapshot was".to_owned());
        }
        let chunk_len = self.shape.chunk_len;
        let stride = chunk_len / 16 + 1;
        let touched = self.shape.exceptions.div_ceil(stride - 1);
        for (n, (was, is)) in self
            .cow
            .chunks(chunk_len)
            .zip(cow.chunks(chunk_len))
            .enumerate()
        {
            let wanted = if n == 0 {
                was[..16] == is[..16]
            } else if n % stride != 1 {
                was == is
            } else if n / stride < touched {
                is.iter().all(|byte| *byte == 0)
            } else {
                was == is || is.iter().all(|byte| *byte == 0)
            };
            if !wanted {
                return Err(format!(
                    "chunk {n} of the merged store is not as it should be"
                ));
            }
        }
        match record_of(cow) {
            Some(record) if record.origin_changing => Err("the origin still changes".to_owned()),
            Some(record) if record.origin.is_none() => Err("there is no identity".to_owned()),
            None if self.shape.has_record => Err("the record is gone".to_owned()),
            _ => Ok(()),
        }
    }
}

pub(crate) fn record_of(cow: &[u8]) -> Option<IdentityRecord> {
    let at = usize::try_from(IDENTITY_OFFSET).unwrap();
    IdentityRecord::decode(&cow[at..512], crc32fast::hash).unwrap()
}

pub(crate) fn put_record(cow: &mut [u8], record: &[u8; IDENTITY_LEN]) {
    let at = usize::try_from(IDENTITY_OFFSET).unwrap();
    cow[at..at + IDENTITY_LEN].copy_from_slice(record);
}

/// Runs of up to `longest` stay together.
fn shuffle(numbers: &mut Vec<u64>, random: &mut Random, longest: u64) {
    let mut runs = Vec::new();
    let mut rest = std::mem::take(numbers);
    while !rest.is_empty() {
        let len = usize::try_from(1 + random.below(longest)).unwrap();
        let behind = rest.split_off(len.min(rest.len()));
        runs.push(rest);
        rest = behind;
    }
    while !runs.is_empty() {
        let next = usize::try_from(random.below(runs.len() as u64)).unwrap();
        numbers.extend(runs.swap_remove(next));
    }
}

/// Bytes that say where they belong, another in each sector.
fn fill(chunk: &mut [u8], stamp: u64) {
    for (n, sector) in (0..).zip(chunk.chunks_mut(512)) {
        let word = Random::new(stamp << 8 | n).next() | 1;
        for (to, from) in sector.iter_mut().zip(word.to_le_bytes().iter().cycle()) {
            *to = *from;
        }
    }
}
