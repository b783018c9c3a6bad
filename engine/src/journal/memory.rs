//! The words that a journal is made of, wherever they lie.

use std::sync::atomic::{AtomicU64, Ordering};

/// Words that outlive the process, or in tests seem to. Reaching behind the end does nothing.
pub trait JournalMemory: Send + Sync {
    /// How many words there are.
    fn len_words(&self) -> usize;

    /// A word; 0 behind the end. What is read later is not older (acquire).
    fn load(&self, index: usize) -> u64;

    /// Sets a word; nothing behind the end. What was written before is not newer (release): a
    /// process that is killed leaves a beginning of what each of its threads stored.
    fn store(&self, index: usize, value: u64);

    /// Adds to a word in one step, wrapping; nothing behind the end.
    fn add(&self, index: usize, change: i64);
}

/// A journal in plain memory, for tests.
#[derive(Debug, Default)]
pub struct HeapMemory(Vec<AtomicU64>);

impl HeapMemory {
    /// A memory that holds these words.
    #[must_use]
    pub fn from_words(words: impl IntoIterator<Item = u64>) -> Self {
        Self(words.into_iter().map(AtomicU64::new).collect())
    }

    /// A memory of so many zeros.
    #[must_use]
    pub fn zeros(len_words: usize) -> Self {
        Self::from_words(std::iter::repeat_n(0, len_words))
    }

    /// What it holds.
    #[must_use]
    pub fn words(&self) -> Vec<u64> {
        let load = |word: &AtomicU64| word.load(Ordering::Acquire);
        self.0.iter().map(load).collect()
    }
}

impl JournalMemory for HeapMemory {
    fn len_words(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        self.0
            .get(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            word.store(value, Ordering::Release);
        }
    }

    #[inline]
    fn add(&self, index: usize, change: i64) {
        if let Some(word) = self.0.get(index) {
            word.fetch_add(change.cast_unsigned(), Ordering::AcqRel);
        }
    }
}
