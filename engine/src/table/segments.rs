//! The memory of all blocks: a few arrays of atomic words that are made zeroed by the system, and
//! neither moved nor given back before the table is dropped.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use super::head::{Place, SEGMENTS};
use crate::num::to_usize;

/// The arrays.
pub(super) struct Segments([OnceLock<Box<[AtomicU64]>>; SEGMENTS]);

impl Segments {
    pub(super) const fn new() -> Self {
        Self([const { OnceLock::new() }; SEGMENTS])
    }

    /// Makes one of `len` words; nothing is touched yet. Once for each.
    pub(super) fn make(&self, segment: usize, len: u64) {
        if let Some(place) = self.0.get(segment) {
            place.get_or_init(|| bytemuck::allocation::zeroed_slice_box(to_usize(len)));
        }
    }

    /// The words of a block; none where there is no such block.
    #[inline]
    pub(super) fn words(&self, place: Place, len: u64) -> &[AtomicU64] {
        let begin = to_usize(place.word());
        self.0
            .get(place.segment())
            .and_then(OnceLock::get)
            .and_then(|segment| segment.get(begin..begin + to_usize(len)))
            .unwrap_or_default()
    }

    /// One word of a block.
    #[inline]
    pub(super) fn word(&self, place: Place, index: u64) -> Option<&AtomicU64> {
        let segment = self.0.get(place.segment()).and_then(OnceLock::get)?;
        segment.get(to_usize(place.word() + index))
    }

    /// How many bytes they have that were asked for, touched or not.
    pub(super) fn bytes(&self) -> u64 {
        let segments = self.0.iter().filter_map(OnceLock::get);
        segments.map(|segment| size_of_val(&**segment) as u64).sum()
    }
}
