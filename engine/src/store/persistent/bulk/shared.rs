//! Whether a new chunk is named twice, where the order does not show that none is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use usnap_format::{DiskException, NewChunk};

use super::areas::Entries;
use crate::num::to_usize;

/// The new chunks that were seen: a bit for each up to the largest, or a list, where that is
/// smaller. A device may be much larger than what is in use.
pub(super) struct NewChunks {
    seen: Seen,
    is_shared: AtomicBool,
}

enum Seen {
    Bits(Vec<AtomicU64>),
    List(Mutex<Vec<u64>>),
}

impl NewChunks {
    /// For so many entries, of which none names a chunk behind `max`.
    pub(super) fn new(entries: u64, max: Option<NewChunk>) -> Self {
        let words = max.map_or(0, |max| max.0 / 64 + 1);
        let seen = if words <= entries {
            Seen::Bits((0..words).map(|_| AtomicU64::new(0)).collect())
        } else {
            Seen::List(Mutex::new(Vec::with_capacity(to_usize(entries))))
        };
        Self {
            seen,
            is_shared: AtomicBool::new(false),
        }
    }

    /// Adds an area's.
    pub(super) fn add(&self, entries: &Entries) {
        let new_chunks = entries
            .iter()
            .map(|entry| DiskException::decode(entry).new_chunk);
        match &self.seen {
            Seen::Bits(words) => {
                for new_chunk in new_chunks {
                    let bit = 1 << (new_chunk % 64);
                    let word = words.get(to_usize(new_chunk / 64));
                    let before = word.map_or(bit, |word| word.fetch_or(bit, Ordering::Relaxed));
                    if before & bit != 0 {
                        self.is_shared.store(true, Ordering::Relaxed);
                    }
                }
            }
            Seen::List(list) => {
                let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
                list.extend(new_chunks);
            }
        }
    }

    /// Whether any was added twice.
    pub(super) fn has_shared(self) -> bool {
        match self.seen {
            Seen::Bits(_) => self.is_shared.into_inner(),
            Seen::List(list) => {
                let mut list = list.into_inner().unwrap_or_else(PoisonError::into_inner);
                list.sort_unstable();
                list.iter()
                    .zip(list.iter().skip(1))
                    .any(|(one, next)| one == next)
            }
        }
    }
}
