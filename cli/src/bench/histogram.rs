//! Latencies in buckets whose width grows with the value: bounded memory, an error below half a
//! percent.

use std::time::Duration;

/// Each power of two has 2^7 buckets; a value is told as the middle of its bucket.
const BITS: u32 = 7;
/// Longer latencies (18 minutes) count as this long.
const MAX_NS: u64 = (1 << 40) - 1;
const BUCKETS: usize = (41 - BITS as usize) << BITS;

/// How often which latency came.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    /// Counts one more.
    #[inline]
    pub(super) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).map_or(MAX_NS, |ns| ns.min(MAX_NS));
        if let Some(count) = self.counts.get_mut(bucket_of(ns)) {
            *count += 1;
        }
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds all of another one.
    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The latency that this share (0 to 1) of all does not exceed, in nanoseconds.
    pub(super) fn quantile_ns(&self, share: f64) -> u64 {
        // What is rounded away here is less than one of 2^53 requests.
        let rank = (share.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen as f64 >= rank {
                return middle_of(index).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The longest, in nanoseconds.
    pub(super) fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The mean, in nanoseconds.
    pub(super) fn mean_ns(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        self.sum_ns as f64 / self.count as f64
    }
}

#[inline]
fn bucket_of(ns: u64) -> usize {
    let shift = (u64::BITS - BITS - 1).saturating_sub(ns.leading_zeros());
    let index = (u64::from(shift) << BITS) + (ns >> shift);
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn middle_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> BITS).saturating_sub(1);
    let low = (bucket - (shift << BITS)) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_middle_and_buckets_follow_each_other() {
        let mut last = None;
        for ns in (0..100_000).chain((17..40).flat_map(|s| [(1 << s) - 1, 1 << s, (1 << s) + 1])) {
            let bucket = bucket_of(ns);
            assert!(bucket < BUCKETS, "{ns}");
            assert!(Some(bucket) >= last, "{ns}");
            assert_eq!(bucket_of(middle_of(bucket)), bucket, "{ns}");
            last = Some(bucket);
        }
        assert_eq!(bucket_of(MAX_NS), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_exact_to_half_a_percent() {
        let mut state = 1_u64;
        let mut exact = Vec::new();
        let mut parts = [Histogram::default(), Histogram::default()];
        for index in 0..50_000_usize {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // From some nanoseconds to some seconds.
            let ns = (state >> 33) >> (index % 28);
            exact.push(ns);
            parts[index % 2].record(Duration::from_nanos(ns));
        }
        exact.sort_unstable();
        let [mut all, other] = parts;
        all.add(&other);
        assert_eq!(all.count, 50_000);
        assert_eq!(all.max_ns(), *exact.last().unwrap());
        for (share, rank) in [
            (0.0, 1),
            (0.01, 500),
            (0.5, 25_000),
            (0.9, 45_000),
            (0.99, 49_500),
            (0.999, 49_950),
            (1.0, 50_000),
        ] {
            let truth = exact[rank - 1] as f64;
            let told = all.quantile_ns(share) as f64;
            assert!(
                (told - truth).abs() <= truth * 0.005 + 0.5,
                "{share}: {told} for {truth}"
            );
        }
        let mean = exact.iter().sum::<u64>() as f64 / 50_000.0;
        assert!((all.mean_ns() - mean).abs() < 1.0);
    }

    #[test]
    fn nothing_and_too_much_are_values_too() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile_ns(0.5), histogram.mean_ns()), (0, 0.0));
        histogram.record(Duration::MAX);
        assert_eq!(histogram.max_ns(), MAX_NS);
        assert!(histogram.quantile_ns(0.5) > MAX_NS / 1000 * 995);
    }
}
