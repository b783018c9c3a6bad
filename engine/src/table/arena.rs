//! Who has which words of the segments. A block that grew out of its place, or that nobody needs
//! any more, is given back here and becomes another region's; a reader may still look at it then,
//! and finds out from the head afterwards (DESIGN.md, "The exception index").

use std::alloc::{Layout, handle_alloc_error};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::buddies::Buddies;
use super::head::{DENSE_WORDS, GRANULE_WORDS, Place, SEGMENT_WORDS_MAX, SEGMENTS};
use super::segments::Segments;

/// The first segment of a table that was not loaded: 512 KiB, touched as it is needed.
const FIRST_WORDS: u64 = if cfg!(miri) { 1 << 10 } else { 1 << 16 };

/// The words of all blocks.
pub(super) struct Arena {
    segments: Segments,
    room: Mutex<Room>,
}

/// What is free.
struct Room {
    /// How many segments there are, and how many words in all.
    segments: usize,
    total: u64,
    /// Of the last one: how many words were ever handed out, and its length.
    used: u64,
    len: u64,
    /// How long the next one is at least.
    next_len: u64,
    buddies: Buddies,
}

impl Arena {
    /// Room for `expected` words at once, and for more later. Nothing is made before it is needed.
    pub(super) fn new(expected: u64) -> Self {
        Self {
            segments: Segments::new(),
            room: Mutex::new(Room {
                segments: 0,
                total: 0,
                used: 0,
                len: 0,
                next_len: if expected == 0 { FIRST_WORDS } else { expected },
                buddies: Buddies::default(),
            }),
        }
    }

    /// The words of a block; none where there is no such block.
    #[inline]
    pub(super) fn words(&self, place: Place, len: u64) -> &[AtomicU64] {
        self.segments.words(place, len)
    }

    /// One word of a block.
    #[inline]
    pub(super) fn word(&self, place: Place, index: u64) -> Option<&AtomicU64> {
        self.segments.word(place, index)
    }

    /// A block of `len` words, whole granules and at most `DENSE_WORDS`. They hold anything.
    pub(super) fn take(&self, len: u64) -> Place {
        let mut room = self.room();
        // Whoever still reads what was here finds the head changed once it sees a word that is
        // written from here on. The same in `give_back`, which writes links.
        fence(Ordering::Release);
        let order = len.next_power_of_two().trailing_zeros();
        let (place, has) = match room.buddies.take(&self.segments, order) {
            Some((place, order)) => (place, 1 << order),
            None => (self.fresh(&mut room, len), len),
        };
        if has > len {
            let rest = Place::new(place.segment(), place.word() + len);
            room.buddies.free(&self.segments, rest, has - len);
        }
        place
    }

    /// As `take`, but close behind what was taken before: for a table that is being filled.
    pub(super) fn take_next(&self, len: u64) -> Place {
        self.fresh(&mut self.room(), len)
    }

    /// Gives back a block, or some whole granules of one, after the head says so.
    pub(super) fn give_back(&self, place: Place, len: u64) {
        let mut room = self.room();
        fence(Ordering::Release);
        room.buddies.free(&self.segments, place, len);
    }

    /// Words that were never used.
    fn fresh(&self, room: &mut Room, len: u64) -> Place {
        if room.len - room.used < len {
            let rest = room.len - room.used;
            if let Some(last) = room.segments.checked_sub(1) {
                let place = Place::new(last, room.used);
                room.buddies.free(&self.segments, place, rest);
            }
            self.grow(room);
        }
        let place = Place::new(room.segments.saturating_sub(1), room.used);
        room.used += len;
        place
    }

    fn grow(&self, room: &mut Room) {
        let len = room.next_len.next_multiple_of(DENSE_WORDS);
        let len = len.min(SEGMENT_WORDS_MAX);
        if room.segments >= SEGMENTS {
            // A tebibyte of exceptions: no memory is left, as when any allocation fails.
            handle_alloc_error(Layout::new::<AtomicU64>());
        }
        self.segments.make(room.segments, len);
        room.buddies.add_segment(len);
        room.segments += 1;
        room.total += len;
        room.used = 0;
        room.len = len;
        room.next_len = room.total.max(FIRST_WORDS);
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes were ever handed out; the system has touched no more than that.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> u64 {
        let room = self.room();
        (room.total - room.len + room.used) * size_of::<AtomicU64>() as u64
    }

    /// How many bytes were asked for, touched or not.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.bytes()
    }
}

/// How many words a block of `len` runs gets when it has grown: a quarter more at the most, so that
/// growing is rare and what is not used stays small.
pub(super) fn grown(len: u64) -> u64 {
    let step = (len.next_power_of_two() / 8).max(GRANULE_WORDS);
    len.next_multiple_of(step)
}
