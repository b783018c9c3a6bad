//! The words of the index: what a region's head says, and what a word of its block says.

use crate::num::to_usize;

/// So many old chunks share a head and a block.
pub(super) const REGION_CHUNKS: u64 = 512;
/// A chunk's place in its region, from its number.
pub(super) const REGION_MASK: u64 = REGION_CHUNKS - 1;
pub(super) const REGION_SHIFT: u32 = REGION_CHUNKS.trailing_zeros();
/// Words of a block that has one for each chunk.
pub(super) const DENSE_WORDS: u64 = REGION_CHUNKS;
/// More runs than that make a block dense: two thirds of its size. Under Miri sooner, so that it is
/// seen to happen.
pub(super) const RUNS_MAX: u64 = if cfg!(miri) { 20 } else { 341 };
/// A bit of a region's presence word stands for so many chunks.
const PRESENCE_SHIFT: u32 = REGION_SHIFT - 6;

/// New chunk numbers from here on do not fit beside a run's start and length.
pub(super) const RUN_NEW_MAX: u64 = 1 << RUN_NEW_BITS;
const RUN_NEW_BITS: u32 = 64 - 2 * REGION_SHIFT;
const RUN_START_SHIFT: u32 = 64 - REGION_SHIFT;

const SEGMENT_BITS: u32 = 5;
const PLACE_BITS: u32 = 36;
const LEN_BITS: u32 = 9;
const GRANULES_BITS: u32 = 9;
const LEN_SHIFT: u32 = PLACE_BITS;
const GRANULES_SHIFT: u32 = LEN_SHIFT + LEN_BITS;
const VERSION_SHIFT: u32 = GRANULES_SHIFT + GRANULES_BITS;
const VERSION_ONE: u64 = 1 << VERSION_SHIFT;

/// Blocks are made of so many words at least, and of multiples of that.
pub(super) const GRANULE_WORDS: u64 = 2;
pub(super) const SEGMENTS: usize = 1 << SEGMENT_BITS;
/// How many words a segment of the arena has at the most.
pub(super) const SEGMENT_WORDS_MAX: u64 = GRANULE_WORDS << (PLACE_BITS - SEGMENT_BITS);

/// Where a block lies: segment of the arena, and granule in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    /// `word` is a multiple of a granule.
    pub(super) fn new(segment: usize, word: u64) -> Self {
        Self((word / GRANULE_WORDS) << SEGMENT_BITS | segment as u64)
    }

    #[inline]
    pub(super) fn segment(self) -> usize {
        to_usize(self.0 & ((1 << SEGMENT_BITS) - 1))
    }

    #[inline]
    pub(super) fn word(self) -> u64 {
        (self.0 >> SEGMENT_BITS) * GRANULE_WORDS
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << PLACE_BITS) - 1))
    }
}

/// What a region's head says of its block. The all-zero head has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head(pub(super) u64);

impl Head {
    /// A block of `capacity` words (a multiple of a granule, at most `DENSE_WORDS`), of which the
    /// first `len` count, after `before`.
    pub(super) fn after(before: Self, place: Place, capacity: u64, len: u64) -> Self {
        let version = (before.0 & !(VERSION_ONE - 1)).wrapping_add(VERSION_ONE);
        Self(version | (capacity / GRANULE_WORDS) << GRANULES_SHIFT | len << LEN_SHIFT | place.0)
    }

    /// No block, after `before`.
    pub(super) fn none_after(before: Self) -> Self {
        Self((before.0 & !(VERSION_ONE - 1)).wrapping_add(VERSION_ONE))
    }

    /// The same without its runs, while they are being changed in place.
    pub(super) fn busy(self) -> Self {
        Self(self.0 & !(((1 << LEN_BITS) - 1) << LEN_SHIFT))
    }

    /// Whether somebody is changing its runs in place.
    #[inline]
    pub(super) fn is_busy(self) -> bool {
        self.len() == 0 && self.has_block() && !self.is_dense()
    }

    #[inline]
    pub(super) fn has_block(self) -> bool {
        self.capacity() != 0
    }

    /// Whether the block has one word for each chunk. Else it has runs, or there is none.
    #[inline]
    pub(super) fn is_dense(self) -> bool {
        self.capacity() == DENSE_WORDS
    }

    #[inline]
    pub(super) fn place(self) -> Place {
        Place::from_bits(self.0)
    }

    /// How many runs there are, in a block of runs.
    #[inline]
    pub(super) fn len(self) -> u64 {
        self.0 >> LEN_SHIFT & ((1 << LEN_BITS) - 1)
    }

    /// How many words its block has.
    #[inline]
    pub(super) fn capacity(self) -> u64 {
        (self.0 >> GRANULES_SHIFT & ((1 << GRANULES_BITS) - 1)) * GRANULE_WORDS
    }
}

/// The bits of a region's presence word for `count` (> 0) chunks from `offset` on.
#[inline]
pub(super) fn presence(offset: u64, count: u64) -> u64 {
    let (first, last) = (
        offset >> PRESENCE_SHIFT,
        (offset + count - 1) >> PRESENCE_SHIFT,
    );
    u64::MAX << first & u64::MAX >> (63 - last)
}

/// Whether the presence word says that a chunk is unmapped.
#[inline]
pub(super) fn is_absent(presence: u64, offset: u64) -> bool {
    presence >> (offset >> PRESENCE_SHIFT) & 1 == 0
}

/// How many chunks from `offset` on the presence word says to be unmapped, up to the region's end.
/// Of the others nothing is known.
#[inline]
pub(super) fn absent(presence: u64, offset: u64) -> u64 {
    let cell = offset >> PRESENCE_SHIFT;
    let cells = u64::from((presence >> cell).trailing_zeros()).min(64 - cell);
    ((cell + cells) << PRESENCE_SHIFT).saturating_sub(offset)
}

/// Consecutive chunks of a region that are mapped to consecutive new chunks, in one word. Sorted as
/// words they are sorted by their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunWord(pub(super) u64);

impl RunWord {
    /// `count` > 0 chunks of one region, `new` below `RUN_NEW_MAX`.
    #[inline]
    pub(super) fn new(start: u64, count: u64, new: u64) -> Self {
        Self(start << RUN_START_SHIFT | (count - 1) << RUN_NEW_BITS | new)
    }

    /// The largest word of a run that begins at `start`.
    #[inline]
    pub(super) fn last_of(start: u64) -> Self {
        Self(start << RUN_START_SHIFT | ((1 << RUN_START_SHIFT) - 1))
    }

    #[inline]
    pub(super) fn start(self) -> u64 {
        self.0 >> RUN_START_SHIFT
    }

    #[inline]
    pub(super) fn count(self) -> u64 {
        (self.0 >> RUN_NEW_BITS & REGION_MASK) + 1
    }

    #[inline]
    pub(super) fn end(self) -> u64 {
        self.start() + self.count()
    }

    #[inline]
    pub(super) fn holds(self, offset: u64) -> bool {
        offset.wrapping_sub(self.start()) < self.count()
    }

    #[inline]
    pub(super) fn new_chunk(self) -> u64 {
        self.0 & (RUN_NEW_MAX - 1)
    }

    /// Where a chunk is that it holds.
    #[inline]
    pub(super) fn new_chunk_at(self, offset: u64) -> u64 {
        self.new_chunk() + offset.wrapping_sub(self.start())
    }

    /// Both as one, if `next` goes on where this ends.
    pub(super) fn joined(self, next: Self) -> Option<Self> {
        let goes_on =
            self.end() == next.start() && self.new_chunk() + self.count() == next.new_chunk();
        goes_on.then(|| Self::new(self.start(), self.count() + next.count(), self.new_chunk()))
    }
}

/// A word of a dense block.
#[inline]
pub(super) fn dense_word(new_chunk: u64) -> u64 {
    new_chunk.saturating_add(1)
}
