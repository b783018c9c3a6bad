//! The index: what a lookup and an insertion cost at 10^4, 10^6 and 10^7 exceptions, and how long
//! filling it in bulk takes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use usnap_engine::parts::Index;
use usnap_test_support::Rng;

use crate::exception_counts;
use crate::stores::{Order, new_chunk};

/// So many chunks are looked up in turn; a power of two.
const PICKS: usize = 1 << 16;

/// Runs of old chunk, new chunk and count, as opening a store puts them together.
type Runs = Vec<(u64, u64, u64)>;

pub(crate) fn all(c: &mut Criterion) {
    for order in Order::ALL {
        for exceptions in exception_counts(&[10_000, 1_000_000, 10_000_000]) {
            let old_chunks = order.old_chunks(exceptions);
            let runs = runs_of(&old_chunks);
            let chunk_count = order.chunk_count(exceptions);
            lookups(c, order, chunk_count, &old_chunks, &runs);
            inserts(c, order, chunk_count, &old_chunks, &runs);
            fills(c, order, chunk_count, exceptions, &runs);
        }
    }
}

fn runs_of(old_chunks: &[u64]) -> Runs {
    let mut runs = Runs::new();
    for (number, &old) in (0..).zip(old_chunks) {
        let new = new_chunk(number);
        match runs.last_mut() {
            Some((o, n, count)) if *o + *count == old && *n + *count == new => *count += 1,
            _ => runs.push((old, new, 1)),
        }
    }
    runs
}

fn filled(chunk_count: u64, runs: &Runs) -> Index {
    Index::filled(chunk_count, runs).expect("no chunk occurs twice")
}

fn lookups(c: &mut Criterion, order: Order, chunk_count: u64, old_chunks: &[u64], runs: &Runs) {
    let index = filled(chunk_count, runs);
    let exceptions = old_chunks.len() as u64;
    let mut rng = Rng::new(1);
    let mut pick = |any: bool| match (any, order) {
        (true, _) => rng.below(chunk_count),
        (false, Order::Sequential) => 0,
        (false, Order::Scattered) => {
            let number = rng.below(exceptions);
            old_chunks[usize::try_from(number).expect("an index of a vector")]
        }
    };
    let mut group = c.benchmark_group("index/lookup");
    group.throughput(Throughput::Elements(1));
    // Half of any chunks, or three of four, are not mapped.
    for (name, any) in [("mapped", false), ("any", true)] {
        let mut picks: Vec<u64> = (0..PICKS).map(|_| pick(any)).collect();
        if !any && order == Order::Sequential {
            picks = (0..PICKS as u64).map(|n| n % exceptions).collect();
        }
        let id = BenchmarkId::new(format!("{}, {name}", order.name()), exceptions);
        let mut at = 0;
        group.bench_function(id, |b| {
            b.iter(|| {
                at = (at + 1) % PICKS;
                index.lookup(black_box(picks[at]))
            });
        });
    }
    group.finish();
}

/// Insertions into an index with so many exceptions, until it has half as many more; then it is
/// filled anew, which does not count.
fn inserts(c: &mut Criterion, order: Order, chunk_count: u64, old_chunks: &[u64], runs: &Runs) {
    let exceptions = old_chunks.len() as u64;
    let fresh = fresh_chunks(order, chunk_count, old_chunks);
    let mut group = c.benchmark_group("index/insert");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    let id = BenchmarkId::new(order.name(), exceptions);
    let mut index = filled(chunk_count, runs);
    let mut used = 0;
    group.bench_function(id, |b| {
        b.iter_custom(|iterations| {
            let mut time = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                if used == fresh.len() {
                    index = filled(chunk_count, runs);
                    used = 0;
                }
                let room = fresh.len() - used;
                let count = usize::try_from(left).map_or(room, |left| left.min(room));
                let begun = Instant::now();
                for (number, &old) in (exceptions + used as u64..).zip(&fresh[used..used + count]) {
                    black_box(index.insert(old, new_chunk(number), 1));
                }
                time += begun.elapsed();
                used += count;
                left -= count as u64;
            }
            time
        });
    });
    group.finish();
}

/// Half as many chunks as are mapped, which are not.
fn fresh_chunks(order: Order, chunk_count: u64, old_chunks: &[u64]) -> Vec<u64> {
    let exceptions = old_chunks.len() as u64;
    let half = old_chunks.len() / 2;
    match order {
        Order::Sequential => (exceptions..exceptions + exceptions / 2).collect(),
        Order::Scattered => {
            // The neighbour of a mapped chunk, in the same group of four.
            let group = chunk_count / exceptions;
            let neighbour = |old: &u64| old / group * group + (old + 1) % group;
            old_chunks.iter().take(half).map(neighbour).collect()
        }
    }
}

fn fills(c: &mut Criterion, order: Order, chunk_count: u64, exceptions: u64, runs: &Runs) {
    let mut group = c.benchmark_group("index/fill");
    group
        .throughput(Throughput::Elements(exceptions))
        .sample_size(10);
    let id = BenchmarkId::new(order.name(), exceptions);
    group.bench_function(id, |b| {
        b.iter_with_large_drop(|| filled(chunk_count, runs));
    });
    group.finish();
}
