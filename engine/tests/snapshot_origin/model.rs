//! Histories by chance: writes to the origin and to its snapshots, snapshots that come, go and run
//! full; after each step everything shows what plain vectors say, and at the end each store, opened
//! by itself over the origin, is its snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

use usnap_engine::snapshot_origin::WhenFull;

use crate::random::Random;
use crate::workers::{from_environment, run};
use crate::world::World;

const HISTORIES: u64 = 400;
const SNAPSHOTS_MAX: usize = 4;

fn play(seed: u64) -> (u64, u64) {
    let mut random = Random::new(seed);
    let when_full = match random.below(2) {
        0 => WhenFull::Drop,
        _ => WhenFull::Refuse,
    };
    let mut world = World::new(when_full);
    for step in 1..=60 {
        match random.below(16) {
            0..2 if world.snapshots.len() < SNAPSHOTS_MAX => world.add(&mut random),
            2 => world.remove(&mut random),
            3..8 => world.change_snapshot(&mut random, step),
            _ => world.change_origin(&mut random, step),
        }
        world.check();
    }
    let counts = (world.drops, world.refusals);
    world.close(&mut random);
    counts
}

#[test]
fn every_snapshot_keeps_its_moment() {
    let histories = from_environment("USNAP_ORIGIN_HISTORIES", HISTORIES);
    let first = from_environment("USNAP_ORIGIN_SEED", 0);
    let (drops, refusals) = (AtomicU64::new(0), AtomicU64::new(0));
    let jobs = first..first + histories;
    run("snapshot origin: model", "steps", jobs, u64::MAX, |seed| {
        let played = std::panic::catch_unwind(|| play(seed));
        let (dropped, refused) = played
            .map_err(|_| format!("again: USNAP_ORIGIN_SEED={seed} USNAP_ORIGIN_HISTORIES=1"))?;
        drops.fetch_add(dropped, Ordering::Relaxed);
        refusals.fetch_add(refused, Ordering::Relaxed);
        Ok(60)
    });
    if histories >= HISTORIES {
        let (drops, refusals) = (drops.into_inner(), refusals.into_inner());
        assert!(drops > 20 && refusals > 20, "{drops} {refusals}");
    }
}
