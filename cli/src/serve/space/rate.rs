//! How fast room is used up, and so for how long it lasts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The rate is that of the last half a minute, so that a pause between two requests is no rest ...
const WINDOW: Duration = Duration::from_secs(30);
/// ... or, where it is higher, that of the last seconds, so that a rest before is none either.
const BURST: Duration = Duration::from_secs(3);
/// What is closer together tells nothing of a rate.
const SHORTEST: Duration = Duration::from_millis(100);
/// How many moments are remembered: those of the window, a second apart.
const SAMPLES_MAX: usize = 32;

/// What was used at some moments, and now.
#[derive(Debug, Default)]
pub(super) struct Rate {
    past: VecDeque<(Instant, u64)>,
    now: Option<(Instant, u64)>,
}

impl Rate {
    /// Notes that `used_bytes` are used at `now`.
    pub(super) fn note(&mut self, now: Instant, used_bytes: u64) {
        self.now = Some((now, used_bytes));
        let last = self.past.back().map(|(at, _)| now.duration_since(*at));
        if last.is_none_or(|since| since >= Duration::from_millis(950)) {
            self.past.push_back((now, used_bytes));
        }
        while self.past.len() > SAMPLES_MAX
            || self
                .past
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.past.pop_front();
        }
    }

    /// For how many seconds `left_bytes` last; `None` where nothing is being used up.
    pub(super) fn seconds_left(&self, left_bytes: u64) -> Option<u64> {
        let per_second = self.over(WINDOW).max(self.over(BURST));
        // A rate of less than a byte a second is none.
        (per_second >= 1.0).then(|| whole_seconds(left_bytes, per_second))
    }

    /// Bytes a second over so much time until now, as far as it is known.
    fn over(&self, window: Duration) -> f64 {
        let Some((now, used_bytes)) = self.now else {
            return 0.0;
        };
        let mut past = self.past.iter();
        let oldest = past.find(|(at, _)| now.duration_since(*at) <= window);
        let Some((at, then_bytes)) = oldest else {
            return 0.0;
        };
        let time = now.duration_since(*at);
        if time < SHORTEST {
            return 0.0;
        }
        as_f64(used_bytes.saturating_sub(*then_bytes)) / time.as_secs_f64()
    }
}

fn whole_seconds(bytes: u64, per_second: f64) -> u64 {
    let seconds = as_f64(bytes) / per_second;
    Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |time| time.as_secs())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an estimate: 53 bits are enough"
)]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Notes a sample a second: used MiB after each.
    fn after(used_mib: impl IntoIterator<Item = u64>) -> Rate {
        let start = Instant::now();
        let mut rate = Rate::default();
        for (second, mib) in (0..).zip(used_mib) {
            rate.note(start + Duration::from_secs(second), mib * MIB);
        }
        rate
    }

    #[test]
    fn room_lasts_as_long_as_the_rate_says() {
        assert_eq!(after(0..10).seconds_left(100 * MIB), Some(100));
        assert_eq!(
            after((0..100).map(|s| s * 5)).seconds_left(100 * MIB),
            Some(20)
        );
        assert_eq!(after([0, 1]).seconds_left(0), Some(0));
    }

    #[test]
    fn at_rest_no_end_is_in_sight() {
        assert_eq!(Rate::default().seconds_left(1), None);
        assert_eq!(after([7]).seconds_left(1), None);
        assert_eq!(after([7; 50]).seconds_left(1), None);
        // A rest as long as the window ends it.
        assert_eq!(
            after((0..10).chain([9; 25])).seconds_left(10 * MIB),
            Some(60)
        );
        assert_eq!(after((0..10).chain([9; 35])).seconds_left(10 * MIB), None);
    }

    #[test]
    fn a_burst_after_a_rest_counts_at_once() {
        assert_eq!(
            after([0; 29].into_iter().chain([100, 200])).seconds_left(300 * MIB),
            Some(4)
        );
    }

    #[test]
    fn moments_between_the_samples_count_too() {
        let start = Instant::now();
        let mut rate = Rate::default();
        rate.note(start, 0);
        rate.note(start + Duration::from_millis(10), 10 * MIB);
        assert_eq!(rate.seconds_left(MIB), None, "too close together");
        rate.note(start + Duration::from_millis(500), 50 * MIB);
        assert_eq!(rate.seconds_left(200 * MIB), Some(2));
        assert!(rate.past.len() < 2 && SAMPLES_MAX > 30);
    }
}
