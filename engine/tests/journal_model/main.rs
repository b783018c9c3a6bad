//! The kill -9 journal as a model, every interleaving of it: writers, a committer, SIGKILL at any
//! step, an open that replays and may be killed at any step too, and so on for several lives.
//!
//! The property: whatever was acknowledged is there after each open, with its own bytes; what was
//! not is old or new; what was once read stays; and no open is refused unless somebody else changed
//! the store or its data is lost. `rules.rs` names the rules that make it so; each left out breaks it
//! (`canaries.rs`), which shows that the model can see.
//!
//! The model is of the design (DESIGN.md, "The journal"), not of the code: `journal_kill` holds
//! the code to it. Nothing here is about power cuts, where the journal is worth nothing.
//!
//! `USNAP_TEST_SCALE=full` explores more threads and lives.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod canaries;
mod disk;
mod explore;
mod live;
mod opening;
mod rules;

use explore::{Explored, explore};
use rules::{Room, Rules, Scenario, Write};

fn say(name: &str, explored: &Explored) {
    println!(
        "{name}: {} states, {} kills, {} opens, {} steps deep",
        explored.states, explored.kills, explored.opens, explored.depth
    );
}

fn holds(name: &str, scenario: &Scenario) {
    let explored = explore(scenario, &Rules::all());
    say(name, &explored);
    if let Some(violation) = &explored.violation {
        panic!("{name}: {violation}");
    }
    assert!(explored.states > 1000 && explored.kills > 100 && explored.opens > 100);
}

fn is_full() -> bool {
    std::env::var("USNAP_TEST_SCALE").is_ok_and(|scale| scale == "full")
}

const fn write(old: u8, value: u8) -> Write {
    Write { old, value }
}

/// Two writers, or all of them at full scale.
fn some_of(writers: &[Write]) -> Vec<Write> {
    let count = if is_full() { writers.len() } else { 2 };
    writers[..count].to_vec()
}

/// Two writers of one chunk and one of another, which may fail.
fn writers() -> Scenario {
    Scenario {
        first_life: vec![write(0, 1), write(0, 2), write(1, 3)],
        later_lives: vec![write(2, 4)],
        slots: 2,
        commits: 1,
        commits_later: 1,
        failing_writes: 1,
        opens: 2,
        ..Scenario::default()
    }
}

/// Commits one after the other, of which one finds no space, over areas of two entries.
fn commits() -> Scenario {
    Scenario {
        first_life: some_of(&[write(0, 1), write(1, 2), write(2, 3)]),
        later_lives: vec![write(2, 4)],
        slots: 2,
        commits: if is_full() { 3 } else { 2 },
        commits_later: 1,
        commits_without_space: 1,
        opens: 2,
        ..Scenario::default()
    }
}

/// One slot a segment: nearly every write waits for a commit.
fn few_slots() -> Scenario {
    Scenario {
        first_life: vec![write(0, 1), write(1, 2), write(2, 3)],
        slots: 1,
        commits: 3,
        failing_writes: 1,
        commits_without_space: 1,
        later_lives: vec![],
        commits_later: 0,
        ..commits()
    }
}

/// Killed over and over, most of all while it is opened.
fn many_lives() -> Scenario {
    Scenario {
        first_life: some_of(&[write(0, 1), write(1, 2), write(2, 3)]),
        later_lives: vec![write(1, 4)],
        slots: 3,
        commits: 1,
        commits_later: 1,
        opens: if is_full() { 4 } else { 3 },
        ..Scenario::default()
    }
}

#[test]
fn nothing_acknowledged_is_lost_among_writers_that_fail() {
    holds("writers", &writers());
}

#[test]
fn nothing_acknowledged_is_lost_among_commits_that_find_no_space() {
    holds("commits", &commits());
}

#[test]
fn nothing_acknowledged_is_lost_where_slots_run_out() {
    holds("few slots", &few_slots());
}

#[test]
fn nothing_acknowledged_is_lost_over_many_lives() {
    holds("many lives", &many_lives());
}

#[test]
fn a_journal_begun_over_an_old_one_is_as_good_as_a_new_file() {
    let scenario = Scenario {
        room: Room::SameMemory,
        ..many_lives()
    };
    holds("same memory", &scenario);
}

#[test]
fn nothing_is_replayed_over_what_somebody_else_did() {
    let scenario = Scenario {
        foreign_writes: 1,
        ..commits()
    };
    holds("foreign writes", &scenario);
    // Without modification times, as on block devices, told to replay: entries still tell.
    let mut rules = Rules::all();
    rules.modification_time_fits = false;
    let scenario = Scenario {
        foreign_entries: 1,
        foreign_writes: 0,
        ..scenario
    };
    let explored = explore(&scenario, &rules);
    say("foreign entries", &explored);
    assert_eq!(explored.violation, None);
}

#[test]
fn nothing_is_replayed_whose_data_is_lost() {
    let scenario = Scenario {
        lost_chunks: 1,
        ..commits()
    };
    holds("lost chunks", &scenario);
}

#[test]
fn nothing_is_lost_where_everything_goes_wrong_at_once() {
    if !is_full() {
        println!("skipped: USNAP_TEST_SCALE is not full");
        return;
    }
    let scenario = Scenario {
        commits: 2,
        commits_without_space: 1,
        opens: 3,
        later_lives: vec![write(0, 4)],
        ..writers()
    };
    holds("all at once", &scenario);
}
