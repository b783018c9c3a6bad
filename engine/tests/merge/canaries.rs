//! What a merge did is bent so that it breaks one rule, each of which the judge must notice.

use usnap_engine::sim::Event;

use crate::cuts::{Judge, SHAPE};
use crate::film::{Film, Which, batches, merge};
use crate::stores_of::{Pair, Shape};

/// Bends what a merge in batches of `chunks` chunks did; the judge's complaint.
fn complaint(shape: Shape, chunks: usize, bend: impl Fn(Film) -> Film) -> String {
    let pair = Pair::new(shape, 3);
    let options = batches(shape.chunk_len, chunks);
    let film = merge(&pair.cow, &pair.origin, &options).unwrap().film;
    Judge::new(&pair, options)
        .play(&film)
        .expect("without the canary it is sound");
    Judge::new(&pair, options)
        .play(&bend(film))
        .expect_err("the canary lives")
}

fn is_flush_of(which: Which, event: &(Which, Event)) -> bool {
    matches!(event, (w, Event::Flush { .. }) if *w == which)
}

fn is_area(shape: Shape, event: &(Which, Event)) -> bool {
    let (Which::Cow, Event::Write { offset, .. }) = event else {
        return false;
    };
    let chunk = usize::try_from(*offset).unwrap() / shape.chunk_len;
    chunk % (shape.chunk_len / 16 + 1) == 1
}

#[test]
fn entries_that_are_cleared_before_the_origin_is_flushed_are_caught() {
    let said = complaint(SHAPE, 40, |film| {
        film.into_iter()
            .filter(|event| !is_flush_of(Which::Origin, event))
            .collect()
    });
    assert!(said.contains("shows something else"), "{said}");
}

#[test]
fn a_missing_flag_is_caught() {
    let is_flag =
        |event: &(Which, Event)| matches!(event, (Which::Cow, Event::Write { offset: 16, .. }));
    let said = complaint(SHAPE, 40, |film| {
        let first = film.iter().position(is_flag).unwrap();
        let numbered = film.into_iter().enumerate();
        numbered
            .filter(|(n, _)| *n != first)
            .map(|(_, event)| event)
            .collect()
    });
    assert!(said.contains("the origin is changing"), "{said}");
}

#[test]
fn sectors_that_are_cleared_in_one_piece_are_caught() {
    // Four sectors of one area, without the syncs between them.
    let shape = Shape {
        chunk_len: 1024,
        exceptions: 64,
        ..SHAPE
    };
    let said = complaint(shape, 64, |film| {
        let mut bent = Film::new();
        for (n, event) in film.iter().enumerate() {
            let next_is_area = film.get(n + 1).is_some_and(|next| is_area(shape, next));
            let is_between = n > 0 && is_area(shape, &film[n - 1]) && next_is_area;
            if !(is_between && is_flush_of(Which::Cow, event)) {
                bent.push(event.clone());
            }
        }
        bent
    });
    assert!(
        said.contains("kernel writes on") || said.contains("shows something else"),
        "{said}"
    );
}

#[test]
fn sectors_that_are_cleared_from_the_beginning_are_caught() {
    let shape = Shape {
        chunk_len: 1024,
        exceptions: 64,
        ..SHAPE
    };
    let said = complaint(shape, 64, |mut film| {
        let areas: Vec<usize> = (0..film.len())
            .filter(|n| is_area(shape, &film[*n]))
            .collect();
        let [first, .., last] = areas[..] else {
            panic!("one sector")
        };
        film.swap(first, last);
        film
    });
    assert!(said.contains("kernel writes on"), "{said}");
}

#[test]
fn areas_that_are_zeroed_while_they_are_reached_are_caught() {
    // The areas above the lowest are zeroed before it, in one piece with the sectors of another.
    let shape = Shape {
        chunk_len: 1024,
        exceptions: 130,
        ..SHAPE
    };
    let said = complaint(shape, 200, |film| {
        let mut film = film;
        let is_whole = |event: &(Which, Event)| {
            is_area(shape, event)
                && matches!(&event.1, Event::Write { data, .. } if data.len() == 1024)
        };
        let at = film.iter().position(is_whole).unwrap();
        let event = film.remove(at);
        let first = film.iter().position(|e| is_area(shape, e)).unwrap();
        film.insert(first, event);
        film
    });
    assert!(said.contains("kernel writes on"), "{said}");
}
