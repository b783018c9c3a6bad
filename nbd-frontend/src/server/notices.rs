//! Warnings about what clients can bring about again and again: one at first, then one for a while
//! that says how often it was. An atomic for each, touched only where there is something to warn
//! of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::limits::{NO_SPACE_NOTICE, TURNED_AWAY_NOTICE};

/// The warnings that all connections of a server share.
#[derive(Debug)]
pub(super) struct Notices {
    no_space: Seldom,
    turned_away: Seldom,
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            no_space: Seldom::new(NO_SPACE_NOTICE),
            turned_away: Seldom::new(TURNED_AWAY_NOTICE),
        }
    }
}

impl Notices {
    /// The device has no room for something that a client wants written.
    #[cold]
    pub(super) fn no_space(&self, error: &usnap_engine::Error) {
        const HINT: &str =
            "make room on the filesystem of the COW file, or use a larger COW device";
        if let Some(count) = self.no_space.due() {
            let hint = error.hint().unwrap_or(HINT);
            tracing::warn!(
                count,
                ?error,
                hint,
                "the COW device is full, or the filesystem below it: writes that need more room \
                 fail, all others and reads go on"
            );
        }
    }

    /// A connection was closed because there are `limit` already.
    #[cold]
    pub(super) fn turned_away(&self, limit: usize) {
        if let Some(count) = self.turned_away.due() {
            tracing::warn!(
                count,
                limit,
                "turned connections away: as many as are allowed are there already (see \
                 --max-connections)"
            );
        }
    }
}

/// Something that happens, perhaps often, and is told seldom.
#[derive(Debug)]
struct Seldom {
    begin: Instant,
    every: Duration,
    /// When it may be told again, in milliseconds since `begin`.
    next_ms: AtomicU64,
    /// How often it happened since it was told.
    count: AtomicU64,
}

impl Seldom {
    fn new(every: Duration) -> Self {
        Self {
            begin: Instant::now(),
            every,
            next_ms: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }

    /// It happened. If it is to be told: how often since it was told last, this time included.
    fn due(&self) -> Option<u64> {
        self.due_after(self.begin.elapsed())
    }

    fn due_after(&self, elapsed: Duration) -> Option<u64> {
        let in_ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        let (now, next) = (in_ms(elapsed), self.next_ms.load(Ordering::Relaxed));
        let again = now.saturating_add(in_ms(self.every));
        let ours = now >= next
            && self
                .next_ms
                .compare_exchange(next, again, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        ours.then(|| self.count.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_told_at_once_and_then_seldom_with_its_number() {
        let seldom = Seldom::new(Duration::from_secs(10));
        let at = |seconds| seldom.due_after(Duration::from_secs(seconds));
        assert_eq!(at(3), Some(1));
        assert_eq!([at(3), at(5), at(12)], [None; 3]);
        assert_eq!(at(13), Some(4));
        assert_eq!(at(14), None);
        assert_eq!(at(1000), Some(2));
    }

    #[test]
    fn of_many_threads_one_tells() {
        let seldom = Seldom::new(Duration::from_secs(1000));
        let told: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1000).filter_map(|_| seldom.due()).count() as u64))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(told, 1);
    }
}
