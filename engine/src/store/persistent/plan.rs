//! A commit's order of writes, as a value: what a unit test compares and one function executes.
//!
//! The order (DESIGN.md, "Commit"): areas behind the current one, which nothing reaches yet, whole;
//! one sync for data and areas; then the current area's sectors, ascending, a sync after each. The
//! sector that fills the current area is the last, and makes the areas behind it reachable.

use std::ops::Range;

use usnap_format::{AreaIndex, EXCEPTIONS_PER_SECTOR, Layout};

/// Where the next entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The area that has room.
    pub(super) area: AreaIndex,
    /// How many entries it holds, less than an area's worth.
    pub(super) committed: u64,
}

/// One step of a commit. Ranges count exceptions of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Writes an area behind the current one whole: these exceptions, then zeros (or only zeros).
    WriteArea {
        area: AreaIndex,
        exceptions: Range<u64>,
    },
    /// Waits until all that was written so far is durable.
    Sync,
    /// Writes one 512-byte sector of the current area, with the batch's entries in it.
    WriteSector { sector: u64 },
}

/// A commit of `batch_len` exceptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// How many of the batch go to the current area: the first ones.
    pub(super) in_current: u64,
    pub(super) after: Position,
}

impl Plan {
    /// The plan for `batch_len` exceptions at `position`. An empty batch is one sync.
    pub(super) fn new(layout: Layout, position: Position, batch_len: u64) -> Self {
        let per_area = layout.chunk_size.exceptions_per_area();
        let room = per_area - position.committed;
        let in_current = batch_len.min(room);
        let total = position.committed + batch_len;
        let after = Position {
            area: AreaIndex(position.area.0 + total / per_area),
            committed: total % per_area,
        };
        let mut steps = Vec::new();
        let mut start = in_current;
        for area in position.area.0 + 1..=after.area.0 {
            let end = batch_len.min(start + per_area);
            steps.push(Step::WriteArea {
                area: AreaIndex(area),
                exceptions: start..end,
            });
            start = end;
        }
        steps.push(Step::Sync);
        if in_current > 0 {
            let per_sector = EXCEPTIONS_PER_SECTOR;
            let first = position.committed / per_sector;
            let last = (position.committed + in_current - 1) / per_sector;
            for sector in first..=last {
                steps.push(Step::WriteSector { sector });
                steps.push(Step::Sync);
            }
        }
        Self {
            steps,
            in_current,
            after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, Position, Step};
    use usnap_format::{AreaIndex, ChunkSize, Layout};

    fn plan(sectors: u32, area: u64, committed: u64, batch_len: u64) -> Plan {
        let layout = Layout::new(ChunkSize::from_sectors(sectors).unwrap());
        Plan::new(
            layout,
            Position {
                area: AreaIndex(area),
                committed,
            },
            batch_len,
        )
    }

    fn write_area(area: u64, exceptions: std::ops::Range<u64>) -> Step {
        Step::WriteArea {
            area: AreaIndex(area),
            exceptions,
        }
    }

    #[test]
    fn one_exception_costs_two_syncs_and_one_sector() {
        let plan = plan(8, 0, 0, 1);
        let steps = [Step::Sync, Step::WriteSector { sector: 0 }, Step::Sync];
        assert_eq!(plan.steps, steps);
        assert_eq!(
            plan.after,
            Position {
                area: AreaIndex(0),
                committed: 1
            }
        );
    }

    #[test]
    fn nothing_to_commit_is_one_sync() {
        assert_eq!(plan(8, 3, 17, 0).steps, [Step::Sync]);
    }

    #[test]
    fn sectors_of_the_current_area_ascend_with_a_sync_after_each() {
        let steps = [
            Step::Sync,
            Step::WriteSector { sector: 1 },
            Step::Sync,
            Step::WriteSector { sector: 2 },
            Step::Sync,
            Step::WriteSector { sector: 3 },
            Step::Sync,
        ];
        assert_eq!(plan(8, 0, 40, 60).steps, steps);
    }

    #[test]
    fn filling_an_area_zeroes_the_next_before_the_first_sync() {
        let plan = plan(1, 2, 31, 1);
        let steps = [
            write_area(3, 1..1),
            Step::Sync,
            Step::WriteSector { sector: 0 },
            Step::Sync,
        ];
        assert_eq!(plan.steps, steps);
        assert_eq!(
            plan.after,
            Position {
                area: AreaIndex(3),
                committed: 0
            }
        );
    }

    #[test]
    fn areas_behind_the_current_one_are_written_whole_before_it() {
        let plan = plan(1, 0, 30, 2 + 32 + 5);
        let steps = [
            write_area(1, 2..34),
            write_area(2, 34..39),
            Step::Sync,
            Step::WriteSector { sector: 0 },
            Step::Sync,
        ];
        assert_eq!(plan.steps, steps);
        assert_eq!((plan.in_current, plan.after.committed), (2, 5));
    }

    #[test]
    fn a_batch_that_ends_with_a_full_area_zeroes_the_one_behind_it() {
        let plan = plan(1, 0, 0, 64);
        assert_eq!(plan.steps.first(), Some(&write_area(1, 32..64)));
        assert_eq!(plan.steps.get(1), Some(&write_area(2, 64..64)));
    }
}
