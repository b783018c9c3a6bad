//! Long histories on stores of all kinds, by chance.

use crate::case::{Case, Shape};
use crate::judge::{Effort, Judge};
use crate::operation::{any_operation, any_shape};
use crate::plain_loader::compose;
use crate::player::{Cut, Player};
use crate::random::Random;
use crate::stream::Obedient;
use crate::workers::run;

const IMAGES: u64 = 100_000;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => otherwise,
    }
}

/// What a case shows before anything is done.
pub(crate) fn content(case: &Case) -> Result<Vec<u8>, String> {
    compose(&case.origin_bytes, &case.image)
}

/// One history: its store, its operations and its cuts follow from the seed.
fn play(seed: u64) -> Result<u64, String> {
    let mut random = Random::new(seed);
    // Larger chunks make larger images: fewer of them.
    let chunk_len = match random.below(32) {
        0 => 4096,
        1..12 => 1024,
        _ => 512,
    };
    let shape = any_shape(chunk_len, &mut random);
    play_on(shape, seed, &mut random)
        .map_err(|e| format!("{shape:?}\n{e}\nagain: USNAP_CRASH_SEED={seed} USNAP_CRASH_IMAGES=1"))
}

fn play_on(shape: Shape, seed: u64, random: &mut Random) -> Result<u64, String> {
    let case = Case::new(shape);
    let effort = Effort {
        images: 3,
        second_images: 2,
        operations: 4,
        kernel_cuts: 2,
    };
    let mut judge = Judge::new(&case, effort, seed);
    let count = 4 + random.below(28);
    let every_write = random.below(8) == 0;
    let mut stream = Obedient;
    let (image, content) = (case.image.clone(), content(&case)?);
    // Of the many cuts in a long history a share is looked at.
    let mut chance = Random::new(random.next());
    let mut look = |cut: &Cut<'_>, judge: &mut Judge<'_>| match chance.below(4) {
        0 => judge.first_cut(cut),
        _ => Ok(()),
    };
    let mut done = Vec::new();
    let mut on_cut = |cut: &Cut<'_>| look(cut, &mut judge);
    let mut player = Player::open(&case, image, content, every_write, &mut stream, &mut on_cut)?;
    for number in 0..count {
        let operation = any_operation(&case, random);
        done.push(operation);
        let stepped = player.step(operation, number + 1, &mut on_cut);
        stepped.map_err(|e| format!("{done:?}\n{e}"))?;
    }
    Ok(judge.images)
}

#[test]
fn long_histories_by_chance() {
    let wanted = from_environment("USNAP_CRASH_IMAGES", IMAGES);
    let first = from_environment("USNAP_CRASH_SEED", 0);
    let total = run("sampled", first..u64::MAX, wanted, play);
    assert!(total.images >= wanted);
}
