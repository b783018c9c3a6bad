//! Each rule left out, which must be seen: otherwise the model proves nothing.

use crate::explore::explore;
use crate::rules::{Room, Rules, Scenario};
use crate::{commits, few_slots, many_lives, writers};

/// Leaves a rule out and asserts that it is missed, in this way.
fn missed(name: &str, scenario: &Scenario, what: &[&str], leave_out: impl FnOnce(&mut Rules)) {
    let mut rules = Rules::all();
    leave_out(&mut rules);
    let explored = explore(scenario, &rules);
    let violation = explored.violation.unwrap_or_else(|| {
        panic!(
            "{name} is left out and nobody misses it in {} states",
            explored.states
        )
    });
    println!("{name}: after {} states, {violation}", explored.states);
    assert!(
        what.iter().any(|what| violation.starts_with(what)),
        "{violation}"
    );
}

const LOST: &str = "an acknowledged write is lost";
const FOREIGN: &str = "a chunk holds what nobody wrote to it";
// Refusing what nobody else touched is as bad: the writes are there, and are not to be had.
const TWICE: &str = "a chunk is named twice";
const NEVER: &str = "an entry was never noted";
const COUNT: &str = "the count is another";
const TORN: &str = "no checkpoint is whole";

#[test]
fn without_a_note_before_the_publication() {
    missed("note before publish", &writers(), &[LOST], |rules| {
        rules.note_before_publish = false;
    });
}

#[test]
fn without_the_data_before_its_note() {
    missed("data before note", &writers(), &[FOREIGN, TWICE], |rules| {
        rules.data_before_note = false;
    });
}

#[test]
fn without_a_credit_before_the_number() {
    let waits = "a writer waits for a credit and holds a number";
    missed("credit before number", &few_slots(), &[waits], |rules| {
        rules.credit_before_number = false;
    });
}

#[test]
fn without_credits() {
    missed("note needs credit", &few_slots(), &[LOST, NEVER], |rules| {
        rules.note_needs_credit = false;
    });
}

#[test]
fn without_a_seal_that_is_exactly_a_segment() {
    missed("seal is exact", &commits(), &[LOST, NEVER], |rules| {
        rules.seal_is_exact = false;
    });
}

#[test]
fn without_retiring_last() {
    missed("retire is last", &commits(), &[LOST, COUNT], |rules| {
        rules.retire_is_last = false;
    });
}

#[test]
fn without_keeping_the_segment_of_a_commit_that_found_no_space() {
    missed(
        "kept stays sealed",
        &few_slots(),
        &[LOST, NEVER, TWICE],
        |rules| {
            rules.kept_stays_sealed = false;
        },
    );
}

#[test]
fn without_a_second_checkpoint() {
    missed("two checkpoints", &commits(), &[TORN], |rules| {
        rules.two_checkpoints = false;
    });
}

#[test]
fn without_the_epoch_in_the_checksum() {
    missed(
        "crc covers epoch",
        &commits(),
        &[TWICE, FOREIGN, LOST],
        |rules| {
            rules.crc_covers_epoch = false;
        },
    );
}

#[test]
fn without_the_session_in_the_checksum() {
    let scenario = Scenario {
        room: Room::SameMemory,
        ..many_lives()
    };
    missed(
        "crc covers session",
        &scenario,
        &[TWICE, FOREIGN, LOST],
        |rules| {
            rules.crc_covers_session = false;
        },
    );
}

#[test]
fn without_the_lock_notes_take_two_more_rules() {
    let mut outside = Rules::all();
    outside.note_under_lock = false;
    let explored = explore(&writers(), &outside);
    assert_eq!(explored.violation, None, "with both rules it is as good");
    missed("seal waits for notes", &writers(), &[LOST], |rules| {
        *rules = outside.clone();
        rules.seal_waits_for_notes = false;
    });
    missed("skips bad slots", &writers(), &[LOST], |rules| {
        *rules = outside.clone();
        rules.skips_bad_slots = false;
    });
}

#[test]
fn without_believing_a_commit_cut_short() {
    missed("believes a superset", &commits(), &[COUNT], |rules| {
        rules.believes_superset = false;
    });
}

#[test]
fn without_looking_at_the_base_where_no_time_tells() {
    let scenario = Scenario {
        foreign_entries: 1,
        ..commits()
    };
    let over = "what somebody else changed is replayed over";
    missed("base checksum", &scenario, &[over], |rules| {
        rules.modification_time_fits = false;
        rules.base_checksum_fits = false;
    });
}

#[test]
fn without_looking_at_the_time() {
    let scenario = Scenario {
        foreign_writes: 1,
        ..commits()
    };
    let over = "what somebody else changed is replayed over";
    missed("modification time", &scenario, &[over], |rules| {
        rules.modification_time_fits = false;
    });
}

#[test]
fn without_proving_the_data() {
    let scenario = Scenario {
        lost_chunks: 1,
        ..commits()
    };
    missed("proves data", &scenario, &[FOREIGN], |rules| {
        rules.proves_data = false;
    });
}

#[test]
fn without_the_replay_before_the_new_session() {
    missed("session after replay", &many_lives(), &[LOST], |rules| {
        rules.session_after_replay = false;
    });
}

#[test]
fn without_removing_the_old_journal_last() {
    missed("old journal last", &many_lives(), &[LOST], |rules| {
        rules.old_journal_last = false;
    });
}

#[test]
fn without_the_header_last() {
    // A new file is named by nobody until it is whole; memory that is used again is.
    let scenario = Scenario {
        room: Room::SameMemory,
        ..many_lives()
    };
    missed("header last", &scenario, &[TORN], |rules| {
        rules.header_last = false;
    });
}
