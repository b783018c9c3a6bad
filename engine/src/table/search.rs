//! Looking for a chunk among a block's runs, which are sorted by where they begin.

use std::sync::atomic::{AtomicU64, Ordering};

use super::head::{REGION_SHIFT, RunWord};
use crate::num::to_usize;

/// Around a chunk's offset in its region.
pub(super) struct Around {
    /// The last run that begins at it or before it.
    pub(super) before: Option<RunWord>,
    /// The index behind that one's.
    pub(super) next: usize,
}

impl Around {
    /// The place before the run at `next`, which was found before.
    pub(super) fn at(words: &[AtomicU64], next: usize) -> Self {
        let before = next.checked_sub(1).and_then(|before| words.get(before));
        Self {
            before: before.map(|word| RunWord(word.load(Ordering::Relaxed))),
            next,
        }
    }
}

/// Runs are spread evenly more often than not: the index of the one that begins last before
/// `offset` among `len`, where they are.
#[inline]
pub(super) fn guess(len: u64, offset: u64) -> u64 {
    (len * offset) >> REGION_SHIFT
}

/// Each word is looked at as it is at that moment. Where somebody is changing the block the answer
/// may be wrong, and the head says so afterwards.
#[inline]
pub(super) fn around(words: &[AtomicU64], offset: u64) -> Around {
    let last = RunWord::last_of(offset);
    let begins_by = |index: usize| {
        let word = RunWord(words.get(index)?.load(Ordering::Relaxed));
        (word <= last).then_some(word)
    };
    // From the guess in steps that double.
    let guess = to_usize(guess(words.len() as u64, offset));
    let (mut low, mut high, mut before);
    let mut step = 1;
    if let Some(word) = begins_by(guess) {
        (low, before) = (guess, word);
        loop {
            high = low + step;
            let Some(word) = begins_by(high) else { break };
            (low, before) = (high, word);
            step *= 2;
        }
        high = high.min(words.len());
    } else {
        high = guess;
        loop {
            if high == 0 {
                return Around {
                    before: None,
                    next: 0,
                };
            }
            low = high.saturating_sub(step);
            if let Some(word) = begins_by(low) {
                before = word;
                break;
            }
            high = low;
            step *= 2;
        }
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match begins_by(middle) {
            Some(word) => (low, before) = (middle, word),
            None => high = middle,
        }
    }
    Around {
        before: Some(before),
        next: low + 1,
    }
}
