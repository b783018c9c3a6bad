//! Real threads, killed at random moments: each event is on film in the order in which it was done,
//! so any beginning of the film is what a kill could have left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::film::Film;
use crate::play::{Expected, Operation};
use crate::random::Random;
use crate::{first_expected, first_left, is_full, open};

const WRITERS: usize = 3;
const WRITES: usize = 6;

/// When a write began and when it was acknowledged, as positions in the film.
struct Done {
    operation: Operation,
    step: usize,
    began: usize,
    acknowledged: usize,
}

#[test]
fn threads_killed_at_any_moment_lose_nothing_acknowledged() {
    let rounds = if is_full() { 2000 } else { 100 };
    let mut opens = 0;
    for round in 0..rounds {
        opens += play_round(round);
    }
    println!("{rounds} rounds of {WRITERS} threads, {opens} opens");
    assert!(opens > 10 * rounds);
}

/// Each writer has chunks of its own, so what may be read depends on its own writes alone.
fn play_round(round: u64) -> u64 {
    let film = Film::new(first_left());
    let snapshot = open(&film).unwrap();
    film.take_log();
    let before = film.left();
    let done = Mutex::new(Vec::new());
    let ended = AtomicUsize::new(0);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (film, snapshot, done, ended) = (&film, &snapshot, &done, &ended);
            scope.spawn(move || {
                let mut random = Random::new(round * 10 + writer as u64);
                for n in 0..WRITES {
                    let chunk = 30 + 4 * writer + usize::try_from(random.below(4)).unwrap();
                    let operation = match random.below(4) {
                        0 => Operation::Part { chunk },
                        1 => Operation::Zero { chunk, count: 1 },
                        _ => Operation::Whole { chunk, count: 1 },
                    };
                    let step = 10 * writer + n;
                    let began = film.log_len();
                    operation.carry_out(snapshot, step).unwrap();
                    let acknowledged = film.log_len();
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push(Done {
                        operation,
                        step,
                        began,
                        acknowledged,
                    });
                }
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            while ended.load(Ordering::SeqCst) < WRITERS {
                Operation::Flush.carry_out(&snapshot, 0).unwrap();
                thread::yield_now();
            }
        });
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|write| write.step);
    let log = film.take_log();
    let mut random = Random::new(round);
    let mut position = 0;
    let mut opens = 0;
    let every = 1 + log.len() as u64 / 20;
    for (n, event) in log.iter().enumerate() {
        position += 1;
        let is_end = n + 1 == log.len();
        if random.below(every) > 0 && !is_end {
            continue;
        }
        let mut left = before.clone();
        let mut last = None;
        left = {
            left.after_each(&log[..position], |left| last = Some(left.clone()));
            last.unwrap_or_else(|| before.clone())
        };
        let expected = expected_at(&done, position);
        let film = Film::new(left);
        let snapshot = open(&film).unwrap_or_else(|e| panic!("round {round}, {event:?}: {e:?}"));
        if let Err(e) = expected.read(&snapshot) {
            panic!("round {round}, killed behind event {position} ({event:?}): {e}");
        }
        opens += 1;
    }
    opens
}

/// What may be read if the film ends at this position.
fn expected_at(done: &[Done], position: usize) -> Expected {
    let mut expected = first_expected();
    for write in done {
        if write.acknowledged <= position {
            expected = expected.after(write.operation, write.step);
        } else if write.began <= position {
            expected = expected.while_in(write.operation, write.step);
        }
    }
    expected
}
