//! Bytes that look random and can be made again from a seed.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};

/// A small generator (`SplitMix64`); the same seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let drawn = self.next_u64().to_le_bytes();
            word.copy_from_slice(&drawn[..word.len()]);
        }
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }

    /// The numbers from 0 to `count` - 1, shuffled.
    pub fn permutation(&mut self, count: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..count).collect();
        for end in (1..numbers.len()).rev() {
            let other = self.next_u64() % (end as u64 + 1);
            numbers.swap(end, usize::try_from(other).unwrap_or(end));
        }
        numbers
    }
}

/// Writes a file of `size_bytes` made from `seed`.
///
/// # Errors
/// The file can't be written.
pub fn random_file(path: &Path, size_bytes: u64, seed: u64) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut rng = Rng::new(seed);
        let mut piece = vec![0; 1 << 16];
        let mut left = size_bytes;
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            rng.fill(&mut piece[..len]);
            file.write_all(&piece[..len])?;
            left -= len as u64;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
