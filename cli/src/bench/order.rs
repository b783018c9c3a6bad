//! Which number comes next: at random, or each once in an order that looks random and takes no
//! memory.

/// Numbers that look random, the same for the same seed (xorshift64*).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Its one bad state is 0.
        Self(mixed(seed) | 1)
    }

    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One of `0..count`; 0 where that is empty.
    #[inline]
    pub(super) fn below(&mut self, count: u64) -> u64 {
        // The upper half of a product is spread evenly enough: it is off by count / 2^64.
        let product = u128::from(self.next()) * u128::from(count);
        u64::try_from(product >> 64).unwrap_or(0)
    }
}

/// All bits of `value`, each depending on all others (splitmix64's end).
#[inline]
pub(super) fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The numbers of `0..count` in another order: a Feistel network over the next power of four,
/// walked on from what lies outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    count: u64,
    half_bits: u32,
    seed: u64,
}

impl Permutation {
    pub(super) fn new(count: u64, seed: u64) -> Self {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Self {
            count,
            half_bits: bits.div_ceil(2).max(1),
            seed: mixed(seed),
        }
    }

    /// What stands at that place; `index` is less than the count.
    #[inline]
    pub(super) fn at(self, index: u64) -> u64 {
        let mut value = index;
        loop {
            value = self.step(value);
            // Less than four tries in the mean, since the power is less than four times the count.
            if value < self.count || self.count <= index {
                return value;
            }
        }
    }

    fn step(self, value: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..4_u64 {
            let scrambled = mixed(right ^ self.seed.wrapping_add(round << 56)) & mask;
            (left, right) = (right, left ^ scrambled);
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_comes_once_and_not_in_order() {
        for count in [1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097, 65_537] {
            let order = Permutation::new(count, 7);
            let mut seen: Vec<u64> = (0..count).map(|index| order.at(index)).collect();
            let ascending = seen
                .windows(2)
                .filter(|pair| pair[1] == pair[0] + 1)
                .count();
            assert!(
                count < 100 || ascending < 5,
                "{count}: {ascending} in order"
            );
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>(), "{count}");
        }
    }

    #[test]
    fn another_seed_is_another_order() {
        let order = |seed| {
            let order = Permutation::new(1000, seed);
            (0..1000).map(|index| order.at(index)).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn random_numbers_keep_below_and_reach_all() {
        let mut random = Random::new(0);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
        assert_eq!(random.below(0), 0);
    }
}
