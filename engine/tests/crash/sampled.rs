//! Long histories on stores of all kinds, by chance.

use crate::case::{Case, Shape, Unused};
use crate::judge::{Effort, Judge};
use crate::operation::any_operation;
use crate::player::{Cut, Player};
use crate::random::Random;
use crate::stream::Obedient;
use crate::workers::{from_environment, run};

const IMAGES: u64 = 100_000;

/// A store of any kind, near the border of a sector or an area more often than not.
fn any_shape(chunk_len: usize, random: &mut Random) -> Shape {
    let mut below = |end: usize| usize::try_from(random.below(end as u64)).expect("small");
    let entries = chunk_len / 16;
    let exceptions = match below(8) {
        0 => 0,
        1 => below(2 * entries),
        // Just before a sector of entries is full,
        2..4 => 32 * (1 + below(entries / 32)) - 1 - below(4),
        // or an area,
        4..7 => entries - 1 - below(6),
        // or the second one.
        _ => 2 * entries - 1 - below(4),
    };
    Shape {
        chunk_len,
        exceptions,
        holes: below(4) == 0,
        junk: below(4) == 0,
        unused: if below(4) == 0 {
            Unused::Zeros
        } else {
            Unused::Stale
        },
        history_chunks: 48,
        room: (below(8) == 0).then(|| 1 + below(20)),
    }
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
    let (image, content) = (case.image.clone(), case.content()?);
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
    let total = run("crash: sampled", "images", first..u64::MAX, wanted, play);
    assert!(total.count >= wanted);
}
