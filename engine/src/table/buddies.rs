//! The free words of the arena, as buddies: pieces of 2, 4, .. 512 words, each at a multiple of its
//! own length in its segment. Two halves that are both free are one piece, so what many small
//! blocks leave becomes room for larger ones.
//!
//! A piece that is free is linked into the list of its length by its own first two words. Whether
//! one begins at a granule a bit says, since words of blocks may look like anything.

use std::sync::atomic::Ordering;

use super::head::{DENSE_WORDS, GRANULE_WORDS, Place};
use super::segments::Segments;
use crate::num::to_usize;

const ORDER_MIN: u32 = GRANULE_WORDS.trailing_zeros();
pub(super) const ORDER_MAX: u32 = DENSE_WORDS.trailing_zeros();
const ORDERS: usize = (ORDER_MAX + 1) as usize;

/// The first word of a free piece holds its order above the link.
const ORDER_SHIFT: u32 = 56;
const LINK_MASK: u64 = (1 << ORDER_SHIFT) - 1;

/// The lists of free pieces. Whoever has it makes changes under one lock.
#[derive(Default)]
pub(super) struct Buddies {
    first: [Option<Place>; ORDERS],
    /// By segment: a bit for each granule, set where a free piece begins.
    begins: Vec<Vec<u64>>,
}

impl Buddies {
    /// The next segment has `len` words, none of them free yet.
    pub(super) fn add_segment(&mut self, len: u64) {
        let bits = to_usize(len / GRANULE_WORDS);
        self.begins.push(vec![0; bits.div_ceil(64)]);
    }

    /// Takes a piece of `1 << order` words, or of the next larger length that is there; the order
    /// that it has.
    pub(super) fn take(&mut self, segments: &Segments, order: u32) -> Option<(Place, u32)> {
        (order.max(ORDER_MIN)..=ORDER_MAX).find_map(|order| {
            let place = (*self.first.get(order as usize)?)?;
            self.unlink(segments, place, order);
            Some((place, order))
        })
    }

    /// Words that nobody uses any more, whole granules of one segment.
    pub(super) fn free(&mut self, segments: &Segments, place: Place, mut len: u64) {
        let mut word = place.word();
        while len >= GRANULE_WORDS {
            let order = word.trailing_zeros().min(len.ilog2()).min(ORDER_MAX);
            self.free_piece(segments, place.segment(), word, order);
            word += 1 << order;
            len -= 1 << order;
        }
    }

    fn free_piece(&mut self, segments: &Segments, segment: usize, mut word: u64, mut order: u32) {
        while order < ORDER_MAX {
            let buddy = Place::new(segment, word ^ (1 << order));
            if !self.is_free(segments, buddy, order) {
                break;
            }
            self.unlink(segments, buddy, order);
            word &= !(1 << order);
            order += 1;
        }
        self.link(segments, Place::new(segment, word), order);
    }

    fn is_free(&self, segments: &Segments, place: Place, order: u32) -> bool {
        let (index, bit) = bit_of(place);
        let begins = self.begins.get(place.segment());
        begins
            .and_then(|bits| bits.get(index))
            .is_some_and(|bits| bits & bit != 0)
            && load(segments, place, 0) >> ORDER_SHIFT == u64::from(order)
    }

    fn link(&mut self, segments: &Segments, place: Place, order: u32) {
        let Some(first) = self.first.get_mut(order as usize) else {
            return;
        };
        store(
            segments,
            place,
            0,
            u64::from(order) << ORDER_SHIFT | link(*first),
        );
        store(segments, place, 1, link(None));
        if let Some(next) = first.replace(place) {
            store(segments, next, 1, link(Some(place)));
        }
        self.flip(place);
    }

    fn unlink(&mut self, segments: &Segments, place: Place, order: u32) {
        let next = linked(load(segments, place, 0) & LINK_MASK);
        let previous = linked(load(segments, place, 1));
        if let Some(next) = next {
            store(segments, next, 1, link(previous));
        }
        match previous {
            Some(previous) => {
                let word = u64::from(order) << ORDER_SHIFT | link(next);
                store(segments, previous, 0, word);
            }
            None => {
                if let Some(first) = self.first.get_mut(order as usize) {
                    *first = next;
                }
            }
        }
        self.flip(place);
    }

    fn flip(&mut self, place: Place) {
        let (index, bit) = bit_of(place);
        let begins = self.begins.get_mut(place.segment());
        if let Some(bits) = begins.and_then(|bits| bits.get_mut(index)) {
            *bits ^= bit;
        }
    }
}

fn bit_of(place: Place) -> (usize, u64) {
    let granule = place.word() / GRANULE_WORDS;
    (to_usize(granule / 64), 1 << (granule % 64))
}

fn link(place: Option<Place>) -> u64 {
    place.map_or(0, |place| place.bits() + 1)
}

fn linked(word: u64) -> Option<Place> {
    word.checked_sub(1).map(Place::from_bits)
}

fn load(segments: &Segments, place: Place, index: usize) -> u64 {
    let words = segments.words(place, GRANULE_WORDS);
    words
        .get(index)
        .map_or(0, |word| word.load(Ordering::Relaxed))
}

fn store(segments: &Segments, place: Place, index: usize, value: u64) {
    if let Some(word) = segments.words(place, GRANULE_WORDS).get(index) {
        word.store(value, Ordering::Relaxed);
    }
}
