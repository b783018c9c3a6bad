//! What is known of each block: whether the COW has it, and what was written to it last.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Nobody knows what is there.
const UNKNOWN: u8 = 0;
/// Zeros were written; what lies below is the number of a write.
const ZEROED: u8 = 127;
/// A request is on its way.
const BUSY: u8 = 128;
/// Above this many blocks nothing is verified: a byte each.
pub(super) const VERIFIED_BLOCKS_MAX: u64 = 1 << 32;

/// What is known of the blocks of a range.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    /// A bit a block: it lies in the COW itself. `None` where nobody told.
    mapped: Option<Vec<AtomicU64>>,
    /// A byte a block; empty where nothing is verified.
    written: Vec<AtomicU8>,
}

/// What a block that was read must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Anything,
    Zeros,
    /// The content of that generation.
    Generation(u8),
}

impl Tracker {
    /// Of so many blocks, about none of which anything is known.
    pub(super) fn new(blocks: u64, verify: bool) -> Self {
        let written = if verify { blocks } else { 0 };
        Self {
            mapped: None,
            written: (0..written).map(|_| AtomicU8::new(UNKNOWN)).collect(),
        }
    }

    pub(super) fn verifies(&self) -> bool {
        !self.written.is_empty()
    }

    /// Takes note of which blocks the COW has; `None` where nobody tells.
    pub(super) fn set_mapped(&mut self, blocks: u64, mapped: Option<impl Iterator<Item = u64>>) {
        self.mapped = mapped.map(|mapped| {
            let words: Vec<AtomicU64> = (0..blocks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect();
            for block in mapped {
                if let Some(word) = words.get(word_of(block)) {
                    word.fetch_or(1 << (block % 64), Ordering::Relaxed);
                }
            }
            words
        });
    }

    /// Whether it is known what lies in the COW.
    pub(super) fn knows_mapped(&self) -> bool {
        self.mapped.is_some()
    }

    /// Whether the COW has the block, which it will have if it is written now.
    #[inline]
    pub(super) fn hit(&self, block: u64, is_write: bool) -> bool {
        let word = self
            .mapped
            .as_ref()
            .and_then(|words| words.get(word_of(block)));
        let Some(word) = word else { return false };
        let bit = 1 << (block % 64);
        let before = if is_write {
            word.fetch_or(bit, Ordering::Relaxed)
        } else {
            word.load(Ordering::Relaxed)
        };
        before & bit != 0
    }

    /// Takes a block for a request: what it holds. `None` where another request has it. Where
    /// nothing is verified every block may be taken.
    pub(super) fn take(&self, block: u64) -> Option<Expected> {
        let Some(state) = self.state(block) else {
            return Some(Expected::Anything);
        };
        match state.fetch_or(BUSY, Ordering::Acquire) {
            busy if busy & BUSY != 0 => None,
            UNKNOWN => Some(Expected::Anything),
            ZEROED => Some(Expected::Zeros),
            generation => Some(Expected::Generation(generation)),
        }
    }

    /// The generation that a write to a block with this content is.
    pub(super) fn next(expected: Expected) -> u8 {
        match expected {
            Expected::Generation(last) if last + 1 < ZEROED => last + 1,
            _ => 1,
        }
    }

    /// Gives a block back, whose content is what was told now.
    pub(super) fn give_back(&self, block: u64, content: Expected) {
        if let Some(state) = self.state(block) {
            let content = match content {
                Expected::Anything => UNKNOWN,
                Expected::Zeros => ZEROED,
                Expected::Generation(generation) => generation,
            };
            state.store(content, Ordering::Release);
        }
    }

    fn state(&self, block: u64) -> Option<&AtomicU8> {
        self.written.get(usize::try_from(block).ok()?)
    }
}

fn word_of(block: u64) -> usize {
    usize::try_from(block / 64).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_belongs_to_one_request_at_a_time_and_keeps_what_was_written() {
        let tracker = Tracker::new(10, true);
        let before = tracker.take(3).unwrap();
        assert_eq!(before, Expected::Anything);
        assert_eq!(tracker.take(3), None, "it is on its way");
        assert_eq!(tracker.take(4), Some(Expected::Anything));
        let generation = Tracker::next(before);
        tracker.give_back(3, Expected::Generation(generation));
        assert_eq!(tracker.take(3), Some(Expected::Generation(1)));
        tracker.give_back(3, Expected::Zeros);
        assert_eq!(tracker.take(3), Some(Expected::Zeros));
        let mut last = Expected::Anything;
        for _ in 0..1000 {
            let next = Expected::Generation(Tracker::next(last));
            assert_ne!(next, last);
            last = next;
        }
    }

    #[test]
    fn what_is_not_verified_is_nobodys() {
        let tracker = Tracker::new(10, false);
        assert_eq!(tracker.take(3), Some(Expected::Anything));
        assert_eq!(tracker.take(3), Some(Expected::Anything));
    }

    #[test]
    fn a_hit_is_a_block_that_the_cow_has_and_a_write_makes_one() {
        let mut tracker = Tracker::new(200, false);
        assert!(!tracker.hit(5, true) && !tracker.knows_mapped());
        tracker.set_mapped(200, Some([5, 64, 199, 5000].into_iter()));
        assert!(tracker.hit(5, false) && tracker.hit(64, true) && tracker.hit(199, false));
        assert!(!tracker.hit(6, false) && !tracker.hit(6, false));
        assert!(
            !tracker.hit(6, true) && tracker.hit(6, true),
            "it has it now"
        );
    }
}
