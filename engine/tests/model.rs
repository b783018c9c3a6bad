//! The model test: random histories of everything a client may do, played on the engine and on
//! plain vectors, compared after every step and every reopen; at the end an independent loader
//! puts origin and store together and must find the same.
//!
//! `USNAP_MODEL_HISTORIES` says how many (10,000 together), `USNAP_MODEL_SEED` which. What fails
//! is shrunk before it is printed.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use usnap_engine::Discard;

#[cfg(test)]
#[path = "support/history/mod.rs"]
mod history;

use history::{Align, Operation, Shape, Span, Where, play};

const HISTORIES: u32 = 10_000;

fn from_environment(name: &str, otherwise: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => otherwise,
    }
}

fn shape(chunks: std::ops::Range<u8>) -> impl Strategy<Value = Shape> {
    (
        chunks,
        any::<u32>(),
        any::<u64>(),
        any::<u16>(),
        any::<u16>(),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::sample::select(vec![Discard::Punch, Discard::Zeroes, Discard::Ignore]),
    )
        .prop_map(
            |(
                chunk,
                origin,
                origin_pages,
                cow_chunks,
                cow_tail,
                cow_garbage,
                every_write,
                discard,
            )| Shape {
                chunk,
                origin,
                origin_pages,
                cow_chunks,
                cow_tail,
                cow_garbage,
                every_write,
                discard,
            },
        )
}

fn span() -> impl Strategy<Value = Span> {
    let align = prop_oneof![
        Just(Align::Byte),
        Just(Align::Sector),
        Just(Align::Chunk),
        Just(Align::Chunk)
    ];
    (any::<u32>(), any::<u32>(), align).prop_map(|(at, len, align)| Span { at, len, align })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => span().prop_map(Operation::Read),
        12 => span().prop_map(Operation::Write),
        3 => span().prop_map(Operation::Discard),
        4 => (span(), any::<bool>(), any::<bool>())
            .prop_map(|(span, no_hole, fast)| Operation::Zero { span, no_hole, fast }),
        3 => Just(Operation::Flush),
        1 => Just(Operation::Commit),
        2 => span().prop_map(Operation::Extents),
        2 => Just(Operation::Reopen),
        1 => Just(Operation::Abandon),
        1 => any::<u32>().prop_map(Operation::Grow),
    ]
}

/// Plays so many histories; which ones depends on the seed and on `stream` alone.
fn play_many(stream: u8, count: u32, chunks: std::ops::Range<u8>, place: Where) {
    let seed = from_environment("USNAP_MODEL_SEED", 1);
    let mut bytes = [stream; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: count,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let histories = (shape(chunks), prop::collection::vec(operation(), 1..40));
    let result = TestRunner::new_with_rng(config, rng).run(&histories, |(shape, operations)| {
        play(&shape, &operations, place).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("USNAP_MODEL_SEED={seed}: {error}");
    }
}

fn share(percent: u32) -> u32 {
    (from_environment("USNAP_MODEL_HISTORIES", HISTORIES) * percent).div_ceil(100)
}

#[test]
fn a_snapshot_with_small_chunks_is_a_plain_vector_to_its_client() {
    play_many(1, share(60), 0..4, Where::Memory);
}

#[test]
fn a_snapshot_with_large_chunks_is_a_plain_vector_to_its_client() {
    play_many(2, share(30), 4..8, Where::Memory);
}

#[test]
fn a_snapshot_on_snapshots_is_a_plain_vector_to_its_client() {
    play_many(4, share(7), 0..8, Where::Snapshots);
}

#[test]
fn a_snapshot_on_files_is_a_plain_vector_to_its_client() {
    play_many(3, share(3), 0..8, Where::Files);
}
