//! Which ranges a chain changes.

use std::ops::Range;

use usnap_engine::chain::{Chain as Opened, Relative};
use usnap_engine::diff::Exact;

use crate::bench::{Chain, Random};
use crate::export::open;

fn exact(opened: &Opened, relative: Relative) -> Vec<Range<u64>> {
    let changes = opened.changes(relative);
    let mut exact = Exact::new(changes, opened.device(), opened.base(relative));
    let mut found = Vec::new();
    while let Some(range) = exact.next_range().unwrap() {
        found.push(range);
    }
    found
}

/// The sectors that differ, as ranges.
fn differing(one: &[u8], other: &[u8]) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for (index, (a, b)) in one.chunks(512).zip(other.chunks(512)).enumerate() {
        let start = index as u64 * 512;
        let end = start + a.len() as u64;
        if a == b {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => found.push(start..end),
        }
    }
    found
}

fn assert_sorted(ranges: &[Range<u64>], size: u64) {
    assert!(
        ranges
            .iter()
            .all(|range| range.start < range.end && range.end <= size)
    );
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
}

#[test]
fn the_changes_are_where_the_content_differs_and_exact_ones_nowhere_else() {
    for seed in 100..180 {
        let mut random = Random::new(seed);
        let depth = 1 + random.below(5);
        let chain = Chain::random(&mut random, depth);
        let opened = open(&chain, depth);
        let shown = &chain.shown[depth];
        for (relative, base) in [
            (Relative::ToOrigin, &chain.shown[0]),
            (Relative::ToLayers, &chain.shown[depth - 1]),
        ] {
            let changes: Vec<Range<u64>> = opened.changes(relative).collect();
            assert_sorted(&changes, shown.len() as u64);
            let expected = differing(shown, base);
            for range in &expected {
                let within = |c: &Range<u64>| c.start <= range.start && range.end <= c.end;
                assert!(changes.iter().any(within), "seed {seed}: {range:?}");
            }
            assert_eq!(exact(&opened, relative), expected, "seed {seed}");
        }
    }
}

#[test]
fn changes_are_whole_chunks_joined_and_clipped_at_the_end() {
    let mut chain = Chain::new(&[1; 20_000]);
    chain.push(4096, &[(100, vec![2; 10]), (8192, vec![2; 4096])]);
    chain.push(512, &[(4096, vec![3; 512]), (19_999, vec![3; 1])]);
    chain.push(4096, &[]);
    let opened = open(&chain, 2);
    let of = |relative| opened.changes(relative).collect::<Vec<_>>();
    assert_eq!(
        of(Relative::ToOrigin),
        [0..4608, 8192..12_288, 19_968..20_000]
    );
    assert_eq!(of(Relative::ToLayers), [4096..4608, 19_968..20_000]);
    assert_eq!(opened.device().size_bytes(), 20_000);
    let nothing = open(&chain, 3);
    assert_eq!(nothing.changes(Relative::ToLayers).count(), 0);
    assert_eq!(nothing.changes(Relative::ToOrigin).count(), 3);
}
