//! What a history is made of. Every value of these types is a history that can be played: numbers
//! are taken modulo what there is room for.

use usnap_engine::Discard;

/// Chunks of 512 bytes to 64 KiB.
const SHIFTS: [u32; 8] = [9, 10, 11, 12, 13, 14, 15, 16];
/// An origin has at most so many bytes, so that all of it can be compared after each step.
const ORIGIN_BYTES_MAX: u64 = 96 << 10;
/// With large chunks an origin may have this many of them all the same.
const ORIGIN_CHUNKS: u64 = 5;

/// Origin and COW device, as they are when the history begins.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Which chunk size.
    pub(crate) chunk: u8,
    /// How long the origin is.
    pub(crate) origin: u32,
    /// Which 4 KiB pages of the origin have data, from the lowest bit on; page 64 is like page 0.
    pub(crate) origin_pages: u64,
    /// How many chunks the COW device has beyond the two that it must have.
    pub(crate) cow_chunks: u16,
    /// A part of a chunk behind them.
    pub(crate) cow_tail: u16,
    /// Bytes of somebody else are on the COW device when the store is made.
    pub(crate) cow_garbage: bool,
    /// Commit before each reply.
    pub(crate) every_write: bool,
    /// What discards do.
    pub(crate) discard: Discard,
}

impl Shape {
    /// The chunk size in bytes.
    pub(crate) fn chunk_bytes(&self) -> u64 {
        1 << SHIFTS[usize::from(self.chunk) % SHIFTS.len()]
    }

    /// The origin's size in bytes: any but 0.
    pub(crate) fn origin_bytes(&self) -> u64 {
        let max = ORIGIN_BYTES_MAX.max(ORIGIN_CHUNKS * self.chunk_bytes());
        1 + u64::from(self.origin) % max
    }

    /// The COW device's size in bytes. At most about twice what the origin could need.
    pub(crate) fn cow_bytes(&self) -> u64 {
        let enough = 2 * self.origin_bytes().div_ceil(self.chunk_bytes()) + 4;
        let chunks = 2 + u64::from(self.cow_chunks) % enough;
        chunks * self.chunk_bytes() + u64::from(self.cow_tail) % self.chunk_bytes()
    }
}

/// How a span's ends lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Align {
    /// Anywhere.
    Byte,
    /// On sectors.
    Sector,
    /// On chunks.
    Chunk,
}

/// A range of the snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Where it begins.
    pub(crate) at: u32,
    /// How long it is; multiples of 16 may be as long as the snapshot.
    pub(crate) len: u32,
    /// How its ends lie.
    pub(crate) align: Align,
}

impl Span {
    /// Offset and length in bytes, inside a snapshot of `size_bytes`. May be empty.
    pub(crate) fn resolve(self, size_bytes: u64, chunk_bytes: u64) -> (u64, u64) {
        let unit = match self.align {
            Align::Byte => 1,
            Align::Sector => 512,
            Align::Chunk => chunk_bytes,
        };
        let at = u64::from(self.at) % size_bytes / unit * unit;
        let room = size_bytes - at;
        let limit = if self.len.is_multiple_of(16) {
            room
        } else {
            room.min(3 * chunk_bytes + 700)
        };
        let len = u64::from(self.len) % (limit + 1);
        (at, len.next_multiple_of(unit).min(room))
    }
}

/// One step of a history.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// Reads and compares.
    Read(Span),
    /// Writes bytes that no other step writes.
    Write(Span),
    /// Discards.
    Discard(Span),
    /// Zeroes, in one of four ways.
    Zero {
        /// Where.
        span: Span,
        /// Space is to be kept.
        no_hole: bool,
        /// Only if it is fast.
        fast: bool,
    },
    /// Flushes.
    Flush,
    /// What the commit timer does.
    Commit,
    /// Asks what the span is made of.
    Extents(Span),
    /// Flushes, closes, opens.
    Reopen,
    /// Drops it as a kill does, and opens: what was not committed is gone where there is no journal.
    Abandon,
    /// Makes the COW device longer by so many bytes, modulo a few chunks.
    Grow(u32),
}
