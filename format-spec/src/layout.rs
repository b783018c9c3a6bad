//! Where things lie in a persistent store, how much fits, and when the next chunk may be taken.
//! SPEC.md sections 5 and 6. With `E` exceptions an area:
//!
//! - area `k` is chunk `1 + k * (E + 1)`;
//! - chunk `c` is metadata if `c == 0` or `c mod (E + 1) == 1`, else data;
//! - `n` exceptions need `2 + n + n / E` chunks, the empty area that the last may open included.

use crate::{AreaIndex, ChunkSize, NewChunk};

/// The chunk that the header has to itself.
pub const HEADER_CHUNK: NewChunk = NewChunk(0);

/// The first chunk that holds data: behind the header and area 0.
pub const FIRST_DATA_CHUNK: NewChunk = NewChunk(2);

/// The layout of a persistent store, which its chunk size alone decides.
///
/// Functions return `None` where a number would be no u64; no device is that large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// The chunk size.
    pub chunk_size: ChunkSize,
}

impl Layout {
    /// The layout of stores with this chunk size.
    #[inline]
    #[must_use]
    pub const fn new(chunk_size: ChunkSize) -> Self {
        Self { chunk_size }
    }

    /// The chunk in which `area` lies: `1 + k * (E + 1)`.
    #[inline]
    #[must_use]
    pub fn area_location(self, area: AreaIndex) -> Option<NewChunk> {
        area.0
            .checked_mul(self.chunk_size.stride())?
            .checked_add(1)
            .map(NewChunk)
    }

    /// Whether `chunk` is the header or an area.
    #[inline]
    #[must_use]
    pub fn is_metadata(self, chunk: NewChunk) -> bool {
        let stride = self.chunk_size.stride();
        chunk == HEADER_CHUNK || chunk.0.checked_rem(stride) == Some(1)
    }

    /// The `n`-th data chunk of the device, counted from 0: `2 + n + n / E`.
    #[inline]
    #[must_use]
    pub fn nth_data_chunk(self, n: u64) -> Option<NewChunk> {
        self.chunks_for(n).map(NewChunk)
    }

    /// The chunk to hand out next after `n` exceptions in a store without holes.
    #[inline]
    #[must_use]
    pub fn next_free_after(self, n: u64) -> Option<NewChunk> {
        self.nth_data_chunk(n)
    }

    /// The data chunk that follows `chunk`: the next one, or the next but one over an area.
    #[inline]
    #[must_use]
    pub fn following(self, chunk: NewChunk) -> Option<NewChunk> {
        let next = NewChunk(chunk.0.checked_add(1)?);
        if self.is_metadata(next) {
            next.0.checked_add(1).map(NewChunk)
        } else {
            Some(next)
        }
    }

    /// The chunk to hand out next in a store whose largest new chunk is `max_seen`: what the
    /// kernel's loader concludes. Holes below it are never filled.
    #[must_use]
    pub fn next_free_after_max(self, max_seen: Option<NewChunk>) -> Option<NewChunk> {
        self.following(max_seen.unwrap_or(HEADER_CHUNK))
    }

    /// Where entry `n` of the store lies, counted from 0: its area and its index there.
    #[inline]
    #[must_use]
    pub fn entry_position(self, n: u64) -> (AreaIndex, u64) {
        let in_area = self.exceptions_per_area_mask();
        (AreaIndex(n >> in_area.count_ones()), n & in_area)
    }

    /// How many chunks a store needs for `n` exceptions without holes: `2 + n + n / E`. The area
    /// that the last exception opens if it fills one is counted.
    #[inline]
    #[must_use]
    pub fn chunks_for(self, n: u64) -> Option<u64> {
        let (areas_filled, _) = self.entry_position(n);
        n.checked_add(areas_filled.0)?
            .checked_add(FIRST_DATA_CHUNK.0)
    }

    /// How many exceptions fit on a device of `device_chunks` whole chunks, without holes: the
    /// largest `n` with `2 + n + n / E <= device_chunks`, and 0 if not even an empty store fits.
    #[must_use]
    pub fn capacity(self, device_chunks: u64) -> u64 {
        let exceptions_per_area = self.chunk_size.exceptions_per_area();
        let stride = self.chunk_size.stride();
        let behind_area_0 = device_chunks.saturating_sub(FIRST_DATA_CHUNK.0);
        // Whole strides of data chunks and the area behind them, then what is left: a last data
        // chunk that would fill its area has no next area and is not used.
        let strides = behind_area_0.checked_div(stride).unwrap_or(0);
        let left = behind_area_0.checked_rem(stride).unwrap_or(0);
        strides
            .saturating_mul(exceptions_per_area)
            .saturating_add(left.min(self.exceptions_per_area_mask()))
    }

    /// How many chunks a store needs so that it can never be full: room for every chunk of an
    /// origin of `origin_bytes`.
    #[must_use]
    pub fn never_full_chunks(self, origin_bytes: u64) -> Option<u64> {
        self.chunks_for(self.chunk_size.chunks_to_hold(origin_bytes))
    }

    /// [`Self::never_full_chunks`] in bytes.
    #[must_use]
    pub fn never_full_bytes(self, origin_bytes: u64) -> Option<u64> {
        self.never_full_chunks(origin_bytes)?
            .checked_mul(self.chunk_size.bytes())
    }

    /// Whether a device of `device_chunks` whole chunks has room for one more exception: the data
    /// chunk `next_free`, and the next area if entry number `entry` (counted from 0 over the whole
    /// store, pending ones included) fills its own. Right for stores with holes too.
    #[inline]
    #[must_use]
    pub fn can_allocate(self, next_free: NewChunk, entry: u64, device_chunks: u64) -> bool {
        if next_free.0 >= device_chunks {
            return false;
        }
        let (area, index) = self.entry_position(entry);
        if index != self.exceptions_per_area_mask() {
            return true;
        }
        let next_area = area.0.checked_add(1).map(AreaIndex);
        let location = next_area.and_then(|next_area| self.area_location(next_area));
        location.is_some_and(|location| location.0 < device_chunks)
    }

    /// Whether a kernel that fills a device of `device_chunks` whole chunks destroys the store: the
    /// last data chunk fits, the area that its entry opens does not. This code never uses it.
    #[must_use]
    pub fn kernel_poisoned(self, device_chunks: u64) -> bool {
        device_chunks > 1 && self.is_metadata(NewChunk(device_chunks))
    }

    /// `E - 1`: the exceptions an area holds are a power of two.
    #[inline]
    fn exceptions_per_area_mask(self) -> u64 {
        self.chunk_size.exceptions_per_area().saturating_sub(1)
    }
}
