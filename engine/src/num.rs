//! Lengths in memory from lengths on devices.

use usnap_format::SECTOR_SIZE;

/// A sector's length as memory counts.
pub(crate) const SECTOR_LEN: usize = 512;
const _: () = assert!(SECTOR_LEN as u64 == SECTOR_SIZE);

/// A length or index as memory counts. One that memory can't hold becomes the largest there is,
/// which no slice has.
#[inline]
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
