//! All histories of up to so many operations from an alphabet of nine; after each operation, and
//! before each flush of the device, the power goes.

use crate::alphabet::{ALPHABET, Letter, chunks_of_word};
use crate::case::{Case, Shape, Unused};
use crate::judge::{Effort, Judge};
use crate::player::{Cut, Player};
use crate::stream::Obedient;
use crate::workers::run;

/// What is done with each image of a history on the tiny store.
const CLOSE: Effort = Effort {
    images: u64::MAX,
    second_images: 1,
    operations: 3,
    kernel_cuts: 1,
};

/// The word with this number: all words of no letters, of one, of two, and so on.
fn word(mut number: u64) -> Vec<Letter> {
    let base = ALPHABET.len() as u64;
    let (mut len, mut count) = (0, 1);
    while number >= count {
        number -= count;
        len += 1;
        count *= base;
    }
    (0..len)
        .map(|_| {
            let letter = usize::try_from(number % base).expect("small");
            number /= base;
            ALPHABET[letter]
        })
        .collect()
}

/// How many words have at most `len` letters.
fn words_up_to(len: u32) -> u64 {
    (0..=len).map(|len| (ALPHABET.len() as u64).pow(len)).sum()
}

/// Plays a word and judges every cut during and after its last letter; those before belong to a
/// shorter word.
fn play(case: &Case, letters: &[Letter], effort: Effort, seed: u64) -> Result<u64, String> {
    let mut judge = Judge::new(case, effort, seed);
    let mut stream = Obedient;
    let (image, content) = (case.image.clone(), case.content()?);
    let mut on_cut = |cut: &Cut<'_>| match letters {
        [] => judge.first_cut(cut),
        _ => Ok(()),
    };
    let mut player = Player::open(case, image, content, false, &mut stream, &mut on_cut)?;
    for (place, letter) in letters.iter().enumerate() {
        let is_last = place + 1 == letters.len();
        let mut on_cut = |cut: &Cut<'_>| match is_last {
            true => judge.first_cut(cut),
            false => Ok(()),
        };
        player.step(letter.at(case, place), place as u64 + 1, &mut on_cut)?;
    }
    Ok(judge.images)
}

fn explore(name: &str, shape: Shape, len: u32, effort: Effort) -> u64 {
    let case = Case::new(shape);
    let total = run(name, "images", 0..words_up_to(len), u64::MAX, |number| {
        let letters = word(number);
        play(&case, &letters, effort, number).map_err(|e| format!("{shape:?}\n{letters:?}\n{e}"))
    });
    assert_eq!(total.jobs, words_up_to(len));
    total.count
}

fn shape(chunk_len: usize, exceptions: usize, letters: usize) -> Shape {
    Shape {
        chunk_len,
        exceptions,
        holes: false,
        junk: false,
        unused: Unused::Stale,
        history_chunks: chunks_of_word(letters),
        room: None,
    }
}

#[test]
fn every_image_of_every_history_of_four_operations() {
    // Two entries are left in the area, so that most words run over its border.
    explore("crash: 4 operations, 512", shape(512, 30, 4), 4, CLOSE);
}

#[test]
fn every_history_of_three_operations_on_other_stores() {
    // With chunks of more sectors there are too many images for all of them.
    let some = Effort {
        images: 32,
        ..CLOSE
    };
    let holes = Shape {
        holes: true,
        ..shape(512, 29, 3)
    };
    explore("crash: 3 operations, holes", holes, 3, some);
    let ahead = Shape {
        unused: Unused::Zeros,
        ..shape(512, 29, 3)
    };
    explore("crash: 3 operations, written ahead", ahead, 3, some);
    explore("crash: 3 operations, 1K", shape(1024, 62, 3), 3, some);
    // The first sector of the area is full with the second new entry.
    let junk = Shape {
        junk: true,
        ..shape(1024, 30, 3)
    };
    explore("crash: 3 operations, junk", junk, 3, some);
    explore(
        "crash: 2 operations, 4K",
        shape(4096, 254, 2),
        2,
        Effort { images: 8, ..CLOSE },
    );
}
