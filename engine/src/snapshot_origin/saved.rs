//! Which chunks of one snapshot are saved: a bit each, set once and never cleared, without a lock.
//! A bit that is not set says nothing: then somebody looks, and sets it.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::num::to_usize;

const WORD_CHUNKS: u64 = 64;
const PAGE_WORDS: usize = 512;
const PAGE_CHUNKS: u64 = WORD_CHUNKS * PAGE_WORDS as u64;

type Page = [AtomicU64; PAGE_WORDS];

/// A bit per chunk. Pages of 4 KiB are made when first needed.
pub(super) struct SavedChunks {
    pages: Box<[OnceLock<Box<Page>>]>,
}

/// A word that a range touches, and which of its bits.
struct Part {
    page: usize,
    word: usize,
    bits: u64,
}

fn parts(chunks: Range<u64>) -> impl Iterator<Item = Part> {
    let mut at = chunks.start;
    std::iter::from_fn(move || {
        if at >= chunks.end {
            return None;
        }
        let first = at % WORD_CHUNKS;
        let count = (WORD_CHUNKS - first).min(chunks.end - at);
        let part = Part {
            page: to_usize(at / PAGE_CHUNKS),
            word: to_usize(at % PAGE_CHUNKS / WORD_CHUNKS),
            bits: (u64::MAX >> (WORD_CHUNKS - count)) << first,
        };
        at += count;
        Some(part)
    })
}

impl SavedChunks {
    /// None of `chunk_count` chunks.
    pub(super) fn none_of(chunk_count: u64) -> Self {
        let pages = chunk_count.div_ceil(PAGE_CHUNKS);
        Self {
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Whether all of these are known to be saved.
    #[inline]
    pub(super) fn has_all(&self, chunks: &Range<u64>) -> bool {
        parts(chunks.clone()).all(|part| {
            let page = self.pages.get(part.page).and_then(OnceLock::get);
            page.and_then(|page| page.get(part.word))
                // Acquire: what was durable when the bit was set is so for whoever sees it.
                .is_some_and(|word| word.load(Ordering::Acquire) & part.bits == part.bits)
        })
    }

    /// All of these are saved.
    pub(super) fn add(&self, chunks: Range<u64>) {
        for part in parts(chunks) {
            let Some(page) = self.pages.get(part.page) else {
                return;
            };
            let page = page.get_or_init(|| Box::new([const { AtomicU64::new(0) }; PAGE_WORDS]));
            if let Some(word) = page.get(part.word) {
                word.fetch_or(part.bits, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE_CHUNKS, SavedChunks};

    #[test]
    fn a_range_is_saved_when_each_of_its_chunks_is() {
        let ranges = [
            0..1,
            63..65,
            5..200,
            0..64,
            64..128,
            32_760..32_780,
            127..129,
        ];
        for added in &ranges {
            let saved = SavedChunks::none_of(PAGE_CHUNKS + 100);
            saved.add(added.clone());
            for asked in &ranges {
                let inside = added.start <= asked.start && asked.end <= added.end;
                assert_eq!(saved.has_all(asked), inside, "{added:?} {asked:?}");
            }
            for chunk in added.start.saturating_sub(70)..added.end + 70 {
                let is_in = added.contains(&chunk);
                assert_eq!(
                    saved.has_all(&(chunk..chunk + 1)),
                    is_in,
                    "{added:?} {chunk}"
                );
            }
            assert!(saved.has_all(&(7..7)), "nothing to ask for");
        }
    }

    #[test]
    fn what_is_saved_stays_and_adds_up() {
        let saved = SavedChunks::none_of(300);
        for chunk in (0..300).rev() {
            assert!(!saved.has_all(&(0..300)));
            saved.add(chunk..chunk + 1);
        }
        assert!(saved.has_all(&(0..300)));
    }
}
