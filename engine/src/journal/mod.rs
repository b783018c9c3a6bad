//! The journal for `kill -9`: which exceptions were written and not committed yet, noted in memory
//! that outlives the process (DESIGN.md, "The journal").
//!
//! - `live`: the journal of a store in use; `stamp`: when its COW file was modified by us.
//! - `found`: a journal that was left behind; `judge`: whether it is believed, and what is missing.
//! - `layout`: what is in which word; `memory`, `mapped`: where the words lie.
//! - `place`: where journal files lie, how they are made, found and removed.
//! - `witness`: what a journal and its COW file must agree on.
//!
//! How an open goes: `Found::read`; `is_of_boot` (an earlier boot's journal is worth nothing);
//! `is_latched`, `doubts`, `missing`. Nothing is changed until all of them were asked. With a
//! journal begun, each call that modifies the COW file goes through the `Stamp`.

mod found;
mod judge;
mod layout;
mod live;
mod mapped;
mod memory;
pub(crate) mod place;
mod stamp;
#[cfg(test)]
mod tests;
mod witness;

use rustix::rand::{GetRandomFlags, getrandom};
use usnap_format::{NewChunk, OldChunk};

pub(crate) use found::{Found, Notes, Unreadable};
pub(crate) use judge::{Contradiction, REPLAY_CHUNKS_MAX, StoreView};
pub(crate) use layout::SLOTS_MAX;
pub(crate) use live::Journal;
pub use memory::{HeapMemory, JournalMemory};
pub(crate) use stamp::Stamp;
pub(crate) use witness::Witness;

use crate::error::{Error, Result};

/// Ties a journal to the store that names it: one writable open. Zeros: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session(pub(crate) [u8; 16]);

impl Session {
    /// A session that nobody has had.
    ///
    /// # Errors
    /// `Io` where the system has no randomness to give.
    pub(crate) fn random() -> Result<Self> {
        let mut bytes = [0; 16];
        let got = getrandom(&mut bytes, GetRandomFlags::empty())
            .map_err(|e| Error::io("cannot make a session number", e.into()))?;
        if got != bytes.len() {
            let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(Error::io("cannot make a session number", short));
        }
        Ok(Self(bytes))
    }

    fn words(self) -> [u64; 2] {
        words_of(self.0)
    }

    fn from_words(words: [u64; 2]) -> Self {
        Self(bytes_of(words))
    }
}

fn words_of(bytes: [u8; 16]) -> [u64; 2] {
    let all = u128::from_le_bytes(bytes);
    let low = all & u128::from(u64::MAX);
    [
        u64::try_from(low).unwrap_or(0),
        u64::try_from(all >> 64).unwrap_or(0),
    ]
}

fn bytes_of([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// What was committed when the notes began: they are about what comes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// Entries in the store.
    pub(crate) committed: u64,
    /// CRC-32 of the current area's committed entries; of nothing where an area begins.
    pub(crate) area_crc32: u32,
}

/// Consecutive old chunks at consecutive new chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first_old: OldChunk,
    pub(crate) first_new: NewChunk,
    /// At least 1, below 2^32.
    pub(crate) count: u64,
}
