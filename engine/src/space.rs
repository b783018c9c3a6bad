//! How much room is left for new chunks, and a bell for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use usnap_format::Layout;

use crate::device::RoomBelow;

/// What runs out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceLimit {
    /// The COW device: its size, or what its file may grow to.
    Cow,
    /// The filesystem that the COW file lies on.
    Filesystem,
    /// The memory that changes may take.
    Memory,
}

/// The room of this moment. What is used and what is left together are what is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the chunks that are taken.
    pub used_bytes: u64,
    /// Bytes of the chunks that can still be taken.
    pub left_bytes: u64,
    /// What ends them.
    pub limit: SpaceLimit,
}

impl Space {
    /// Room for `left` more chunks, limited by `limit`, where `used` are taken.
    pub(crate) fn of_chunks(chunk_bytes: u64, used: u64, left: u64, limit: SpaceLimit) -> Self {
        Self {
            used_bytes: used.saturating_mul(chunk_bytes),
            left_bytes: left.saturating_mul(chunk_bytes),
            limit,
        }
    }

    /// The same, or less where the filesystem has less: chunks below `reach_chunks` may have been
    /// written, what is allocated beyond that many is there for new ones.
    pub(crate) fn within(self, room: Option<RoomBelow>, layout: Layout, reach_chunks: u64) -> Self {
        let Some(room) = room else {
            return self;
        };
        let chunk_bytes = layout.chunk_size.bytes();
        let reach_bytes = reach_chunks.saturating_mul(chunk_bytes);
        let unwritten = room.allocated_bytes.saturating_sub(reach_bytes);
        let chunks = room.free_bytes.saturating_add(unwritten) / chunk_bytes;
        // Of a stride of chunks one is an area.
        let areas = chunks.div_ceil(layout.chunk_size.stride());
        let left_bytes = (chunks - areas).saturating_mul(chunk_bytes);
        if left_bytes >= self.left_bytes {
            return self;
        }
        Self {
            left_bytes,
            limit: SpaceLimit::Filesystem,
            ..self
        }
    }

    /// The share that is used, in hundredths, rounded down; 100 only where nothing is left.
    #[must_use]
    pub fn percent_used(&self) -> u64 {
        let available = u128::from(self.used_bytes) + u128::from(self.left_bytes);
        let percent = (u128::from(self.used_bytes) * 100).checked_div(available);
        percent.map_or(100, |percent| u64::try_from(percent).unwrap_or(100))
    }

    /// How many bytes will be used when `percent` hundredths of what is available are.
    #[must_use]
    pub fn bytes_at(&self, percent: u64) -> u64 {
        let available = u128::from(self.used_bytes) + u128::from(self.left_bytes);
        let bytes = (available * u128::from(percent)).div_ceil(100);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Rings when so many chunks are taken as were asked for, or when one is refused. A watcher waits
/// for it; for writers it is one load.
#[derive(Debug)]
pub struct SpaceAlarm {
    at_chunks: AtomicU64,
    rings: Mutex<bool>,
    rung: Condvar,
}

impl Default for SpaceAlarm {
    fn default() -> Self {
        Self {
            at_chunks: AtomicU64::new(u64::MAX),
            rings: Mutex::new(false),
            rung: Condvar::new(),
        }
    }
}

impl SpaceAlarm {
    /// Asks for it to ring, once, when `chunks` are taken.
    pub fn set(&self, chunks: u64) {
        self.at_chunks.store(chunks, Ordering::Relaxed);
    }

    /// Rings.
    #[cold]
    pub fn ring(&self) {
        self.at_chunks.store(u64::MAX, Ordering::Relaxed);
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.rung.notify_all();
    }

    /// Waits until it rings, `limit` at the most; whether it rang.
    pub fn wait(&self, limit: Duration) -> bool {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rings, _) = self
            .rung
            .wait_timeout_while(rings, limit, |rings| !*rings)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rings)
    }

    /// Says how many chunks are taken now.
    #[inline]
    pub(crate) fn taken(&self, chunks: u64) {
        if chunks >= self.at_chunks.load(Ordering::Relaxed) {
            self.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use usnap_format::ChunkSize;

    fn space(used: u64, left: u64) -> Space {
        Space::of_chunks(4096, used, left, SpaceLimit::Cow)
    }

    #[test]
    fn the_share_that_is_used_is_100_only_where_nothing_is_left() {
        assert_eq!(space(0, 10).percent_used(), 0);
        assert_eq!(space(7, 3).percent_used(), 70);
        assert_eq!(space(6_999, 3_001).percent_used(), 69);
        assert_eq!(space(1_000_000, 1).percent_used(), 99);
        assert_eq!(space(5, 0).percent_used(), 100);
        assert_eq!(space(0, 0).percent_used(), 100, "nothing to be had at all");
        assert_eq!(space(u64::MAX / 4096, u64::MAX / 4096).percent_used(), 50);
    }

    #[test]
    fn a_share_is_reached_with_exactly_its_bytes() {
        for (used, left) in [(0, 1000), (3, 7), (1, 2), (999, 1)] {
            for percent in [1, 50, 70, 95, 100] {
                let at = space(used, left).bytes_at(percent);
                let available = (used + left) * 4096;
                let then = |used_bytes| Space {
                    used_bytes,
                    left_bytes: available - used_bytes,
                    limit: SpaceLimit::Cow,
                };
                assert!(
                    then(at).percent_used() >= percent,
                    "{used} {left} {percent}"
                );
                assert!(
                    then(at - 1).percent_used() < percent,
                    "{used} {left} {percent}"
                );
            }
        }
    }

    #[test]
    fn the_filesystem_counts_where_it_has_less_and_only_for_what_is_not_allocated() {
        let layout = Layout::new(ChunkSize::default());
        let within = |free_chunks: u64, allocated_chunks: u64| {
            let room = RoomBelow {
                free_bytes: free_chunks * 4096,
                allocated_bytes: allocated_chunks * 4096,
            };
            let space = space(100, 1000).within(Some(room), layout, 102);
            (space.left_bytes / 4096, space.limit)
        };
        assert_eq!(within(5000, 102), (1000, SpaceLimit::Cow));
        // 4 KiB chunks: every 257th is an area.
        assert_eq!(within(514, 102), (512, SpaceLimit::Filesystem));
        assert_eq!(within(0, 102), (0, SpaceLimit::Filesystem));
        assert_eq!(within(0, 1202), (1000, SpaceLimit::Cow), "allocated whole");
        assert_eq!(within(257, 50), (256, SpaceLimit::Filesystem), "punched");
        assert_eq!(space(1, 2).within(None, layout, 3), space(1, 2));
    }

    #[test]
    fn the_alarm_rings_once_at_its_number_and_at_a_refusal() {
        let alarm = SpaceAlarm::default();
        let now = Duration::ZERO;
        alarm.taken(1_000_000);
        assert!(!alarm.wait(now), "nothing was asked for");
        alarm.set(10);
        alarm.taken(9);
        assert!(!alarm.wait(now));
        alarm.taken(10);
        assert!(alarm.wait(now));
        alarm.taken(11);
        assert!(!alarm.wait(now), "once");
        alarm.ring();
        assert!(alarm.wait(now));
    }
}
