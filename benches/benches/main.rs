//! The parts, one by one: the index, the codecs, the paths of a read and of a write, opening and
//! merging. The time that each takes alone, without sockets, mostly without system calls.
//! ../README.md has the question of each.
#![expect(
    clippy::expect_used,
    reason = "a bench that can not be carried out ends here"
)]

mod codec;
mod index;
mod merge;
mod open;
mod paths;
mod stores;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// Short: there are many, and criterion says how sure it is.
fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

/// Whether times are taken. If not, each bench runs once to show that it works, and small ones do.
fn is_measured() -> bool {
    let mut arguments = std::env::args();
    arguments.any(|argument| argument == "--bench") && std::env::args().all(|it| it != "--test")
}

/// The numbers of exceptions to measure with.
fn exception_counts(counts: &[u64]) -> Vec<u64> {
    let scale = if is_measured() { 1 } else { 100 };
    counts.iter().map(|count| count / scale).collect()
}

criterion_group! {
    name = parts;
    config = short();
    targets = index::all, codec::all, paths::all, open::all, merge::all
}
criterion_main!(parts);
