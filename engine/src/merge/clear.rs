//! Clearing the entries of a batch, as a value: what a unit test compares and one function executes.
//!
//! The order (DESIGN.md, "Merge"): the sectors of the lowest area, descending, a sync after each;
//! then the areas above it, which nothing reaches any more, whole, without a sync of their own.

use usnap_format::{AreaIndex, EXCEPTION_LEN, EXCEPTIONS_PER_SECTOR, Layout};

use super::walk::Batch;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::num::{SECTOR_LEN, to_usize};
use crate::store::persistent::commit::area_offset;

/// One step of a clearing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Writes one sector of an area, in which the first `kept` entries stay.
    ClearSector {
        area: AreaIndex,
        sector: u64,
        kept: u64,
    },
    /// Waits until all that was written so far is durable.
    Sync,
    /// Writes an area as zeros.
    ZeroArea { area: AreaIndex },
}

/// The steps that clear entries `first` to `end`, which are the last of their store.
pub(crate) fn plan(layout: Layout, first: u64, end: u64) -> Vec<Step> {
    let Some(last) = end.checked_sub(1).filter(|last| first <= *last) else {
        return Vec::new();
    };
    let (lowest, first_index) = layout.entry_position(first);
    let (highest, last_index) = layout.entry_position(last);
    let top = if lowest < highest {
        layout.chunk_size.exceptions_per_area() - 1
    } else {
        last_index
    };
    let first_sector = first_index / EXCEPTIONS_PER_SECTOR;
    let mut steps = Vec::new();
    for sector in (first_sector..=top / EXCEPTIONS_PER_SECTOR).rev() {
        let kept = first_index.saturating_sub(sector * EXCEPTIONS_PER_SECTOR);
        let area = lowest;
        steps.push(Step::ClearSector { area, sector, kept });
        steps.push(Step::Sync);
    }
    let above = (lowest.0 + 1..=highest.0).map(AreaIndex);
    steps.extend(above.map(|area| Step::ZeroArea { area }));
    steps
}

/// Clears the entries of `batch`, whose data is durable on the origin. The areas above the lowest
/// are durably zeros after the next sync.
///
/// # Errors
/// `Io`, `NoSpace`. Where it ends early the store is one of fewer entries, or as before.
pub(crate) fn clear(device: &dyn BlockDevice, layout: Layout, batch: &Batch) -> Result<()> {
    let zeros = vec![0; to_usize(layout.chunk_size.bytes())];
    for step in plan(layout, batch.first, batch.end) {
        match step {
            Step::ClearSector { area, sector, kept } => {
                let start = to_usize(sector) * SECTOR_LEN;
                let before = batch.lowest_area.get(start..).unwrap_or_default();
                let mut bytes = [0; SECTOR_LEN];
                let kept = to_usize(kept) * EXCEPTION_LEN;
                for (to, from) in bytes.iter_mut().zip(before).take(kept) {
                    *to = *from;
                }
                device.write_at(&bytes, area_offset(layout, area)? + start as u64)?;
            }
            Step::Sync => device.flush()?,
            Step::ZeroArea { area } => {
                device.write_at(&zeros, area_offset(layout, area)?)?;
            }
        }
    }
    Ok(())
}

/// Zeroes what a merge that was cut off may have left in the `areas` areas behind the current one:
/// entries that nothing reaches. They are zeros after the next sync.
///
/// # Errors
/// `Io`, `NoSpace`.
pub(crate) fn clear_behind(
    device: &dyn BlockDevice,
    layout: Layout,
    committed: u64,
    areas: u64,
) -> Result<()> {
    let chunk_bytes = layout.chunk_size.bytes();
    let device_chunks = layout.chunk_size.whole_chunks(device.size_bytes());
    let (current, _) = layout.entry_position(committed);
    let mut bytes = vec![0; to_usize(chunk_bytes)];
    for area in (current.0 + 1..=current.0.saturating_add(areas)).map(AreaIndex) {
        let location = layout.area_location(area);
        if location.is_none_or(|location| location.0 >= device_chunks) {
            return Ok(());
        }
        let offset = area_offset(layout, area)?;
        let extent = device.extent_at(offset, chunk_bytes)?;
        if extent.zero && extent.len == chunk_bytes {
            continue;
        }
        device.read_at(&mut bytes, offset)?;
        if bytes.iter().any(|&byte| byte != 0) {
            bytes.fill(0);
            device.write_at(&bytes, offset)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Step, plan};
    use usnap_format::{AreaIndex, ChunkSize, Layout};

    fn steps(sectors: u32, first: u64, end: u64) -> Vec<Step> {
        plan(
            Layout::new(ChunkSize::from_sectors(sectors).unwrap()),
            first,
            end,
        )
    }

    fn clear(area: u64, sector: u64, kept: u64) -> [Step; 2] {
        let area = AreaIndex(area);
        [Step::ClearSector { area, sector, kept }, Step::Sync]
    }

    fn zero(area: u64) -> Step {
        Step::ZeroArea {
            area: AreaIndex(area),
        }
    }

    #[test]
    fn nothing_to_clear_is_no_step() {
        assert_eq!(steps(8, 0, 0), []);
        assert_eq!(steps(8, 300, 300), []);
    }

    #[test]
    fn sectors_of_one_area_descend_with_a_sync_after_each() {
        let wanted = [clear(0, 3, 0), clear(0, 2, 0), clear(0, 1, 8)].concat();
        assert_eq!(steps(8, 40, 100), wanted);
        // A sector that ends where the store ends is written once.
        assert_eq!(steps(8, 64, 96), clear(0, 2, 0));
    }

    #[test]
    fn areas_above_the_lowest_are_zeroed_when_nothing_reaches_them() {
        // 32 entries an area.
        let mut wanted = clear(0, 0, 30).to_vec();
        wanted.extend([zero(1), zero(2)]);
        assert_eq!(steps(1, 30, 70), wanted);
    }

    #[test]
    fn the_whole_of_the_lowest_area_is_cleared_from_its_end() {
        let mut wanted = [clear(1, 1, 0), clear(1, 0, 0)].concat();
        wanted.push(zero(2));
        // 64 entries an area.
        assert_eq!(steps(2, 64, 129), wanted);
    }

    #[test]
    fn an_empty_area_behind_full_ones_is_left_alone() {
        assert_eq!(steps(1, 0, 32), clear(0, 0, 0));
    }
}
