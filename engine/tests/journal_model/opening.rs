//! Opening the store after a kill: judge, replay, a new journal and session, the old one removed.
//! Every step is one that a kill may follow.

use crate::disk::{Disk, FOREIGN, JournalFile, List, NEW_CHUNKS, NONE, Verdict, checkpoint_sum};
use crate::explore::{Expected, State, Successors, World};
use crate::live::{Budget, Live};
use crate::rules::{Room, Rules, Scenario};

/// An open under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Opening {
    missing: List,
    /// Entries before the replay.
    committed: u8,
    /// Entries written so far.
    written: u8,
    at: At,
    session: u8,
    old_file: u8,
    new_file: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    RemoveEarly,
    SessionEarly,
    Replay,
    Session,
    Make,
    Header,
    Checkpoint,
    Remove,
    Serve,
}

/// What can happen to a store that nobody serves.
pub(crate) fn after_a_kill(world: World, scenario: &Scenario, rules: &Rules, out: &mut Successors) {
    let (disk, expected, budget) = world;
    let committed = usize::from(disk.committed());
    let named = |number: usize| disk.entries.iter().any(|e| usize::from(e.new) == number);
    let with = |disk: Disk, budget: Budget| State::Dead((disk, expected, budget));
    if budget.foreign_writes > 0 {
        // As a kernel does that uses free chunks and merges them away again.
        let mut disk = disk;
        disk.modified_by_others = true;
        for number in (0..NEW_CHUNKS).filter(|number| !named(*number)) {
            disk.data[number] = FOREIGN;
        }
        let foreign_writes = budget.foreign_writes - 1;
        let budget = Budget {
            foreign_writes,
            ..budget
        };
        out.push("somebody else writes", with(disk, budget));
    }
    if budget.foreign_entries > 0 {
        let left = Budget {
            foreign_entries: budget.foreign_entries - 1,
            ..budget
        };
        let mut changed = disk;
        changed.modified_by_others = true;
        if committed < NEW_CHUNKS {
            let largest = disk.entries[..committed].iter().map(|e| e.new).max();
            let number = largest.map_or(0, |n| n + 1);
            // An old chunk that no writer here uses.
            let entry = crate::disk::Entry {
                new: number,
                old: 0x77,
            };
            if usize::from(number) < NEW_CHUNKS {
                let mut more = changed;
                more.entries[committed] = entry;
                more.data[usize::from(number)] = FOREIGN;
                out.push("somebody else adds an entry", with(more, left));
            }
        }
        if committed % crate::disk::PER_AREA > 0 {
            changed.entries[committed - 1].old = 0x77;
            out.push("somebody else changes an entry", with(changed, left));
        }
    }
    if budget.lost_chunks > 0 {
        for number in (0..NEW_CHUNKS).filter(|number| !named(*number)) {
            let mut disk = disk;
            disk.data[number] = FOREIGN;
            disk.has_lost = true;
            let lost_chunks = budget.lost_chunks - 1;
            let budget = Budget {
                lost_chunks,
                ..budget
            };
            out.push("a chunk is lost", with(disk, budget));
        }
    }
    if budget.opens > 0 {
        open(world, scenario, rules, out);
    }
}

fn open(world: World, scenario: &Scenario, rules: &Rules, out: &mut Successors) {
    let (disk, expected, budget) = world;
    let was_changed = disk.modified_by_others || disk.has_lost;
    let missing = match disk.judge(rules, scenario.room, scenario.slots) {
        Verdict::Missing(missing) if disk.has_lost && rules.proves_data => {
            if !missing.get().is_empty() {
                return;
            }
            missing
        }
        Verdict::Missing(missing) => missing,
        Verdict::Refused(why) => {
            if !was_changed {
                out.violation(why);
            }
            return;
        }
    };
    if disk.modified_by_others && !missing.get().is_empty() {
        out.violation("what somebody else changed is replayed over");
        return;
    }
    if disk.modified_by_others {
        // Served as it is, and theirs to answer for.
        return;
    }
    let old = disk.files.iter().position(|file| file.name == disk.session);
    let old_file = u8::try_from(old.unwrap_or(0)).expect("two");
    let new_file = match scenario.room {
        Room::NewFile => 1 - old_file,
        Room::SameMemory => 0,
    };
    let is_used = |session: u8| {
        let named = |file: &JournalFile| file.name == session || file.session == session;
        disk.session == session || disk.files.iter().any(named)
    };
    // Never one that was there before: slots may still have its sums.
    let session = budget.next_session();
    assert!(!is_used(session));
    let at = if !rules.session_after_replay {
        At::SessionEarly
    } else if rules.old_journal_last {
        At::Replay
    } else {
        At::RemoveEarly
    };
    let opening = Opening {
        missing,
        committed: disk.committed(),
        written: 0,
        at,
        session,
        old_file,
        new_file,
    };
    let budget = Budget {
        opens: budget.opens - 1,
        ..budget
    };
    out.opens += 1;
    out.push("opens", State::Opening(opening, (disk, expected, budget)));
}

impl Opening {
    pub(crate) fn steps(
        mut self,
        scenario: &Scenario,
        rules: &Rules,
        world: World,
        out: &mut Successors,
    ) {
        let (mut disk, mut expected, budget) = world;
        let new_file = usize::from(self.new_file);
        let name = match self.at {
            At::RemoveEarly => {
                disk.files[usize::from(self.old_file)].name = 0;
                self.at = At::Replay;
                "removes the old journal, too early"
            }
            At::SessionEarly => {
                disk.session = self.session;
                self.at = At::Replay;
                "writes the new session, too early"
            }
            At::Replay => {
                let order = self.missing.order(self.committed);
                if let Some(&(n, place)) = order.get(usize::from(self.written)) {
                    disk.entries[place] = self.missing.get()[n];
                    self.written += 1;
                    "replays an entry"
                } else {
                    // In the old one's memory the new journal ends the old one, so the device must
                    // name it no more.
                    self.at = match scenario.room {
                        Room::NewFile => At::Make,
                        Room::SameMemory => At::Session,
                    };
                    "has replayed"
                }
            }
            At::Session => {
                disk.session = self.session;
                self.at = match scenario.room {
                    Room::NewFile => At::Remove,
                    Room::SameMemory => At::Make,
                };
                "writes the new session"
            }
            At::Make => {
                if scenario.room == Room::NewFile {
                    disk.files[new_file] = JournalFile::EMPTY;
                }
                disk.files[new_file].name = self.session;
                disk.files[new_file].session = 0;
                self.at = At::Checkpoint;
                if !rules.header_last {
                    disk.files[new_file].session = self.session;
                }
                "makes a journal"
            }
            At::Checkpoint => {
                first_checkpoint(rules, &mut disk, new_file, self.session);
                self.at = At::Header;
                "stores the first checkpoint"
            }
            At::Header => {
                disk.files[new_file].session = self.session;
                self.at = match scenario.room {
                    Room::NewFile => At::Session,
                    Room::SameMemory => At::Remove,
                };
                "stores the header"
            }
            At::Remove => {
                if self.old_file != self.new_file {
                    disk.files[usize::from(self.old_file)] = JournalFile::EMPTY;
                }
                self.at = At::Serve;
                "removes the old journal"
            }
            At::Serve => {
                if let Err(what) = look(&disk, &mut expected) {
                    out.violation(what);
                    return;
                }
                if budget.opens == 0 {
                    return;
                }
                let live = Live::begin(scenario, &disk, self.new_file, false);
                out.push("serves", State::Live(live, (disk, expected, budget)));
                return;
            }
        };
        out.push(name, State::Opening(self, (disk, expected, budget)));
    }
}

/// What a new journal begins with, behind the entries that there are.
pub(crate) fn first_checkpoint(rules: &Rules, disk: &mut Disk, file: usize, session: u8) {
    let base = disk.committed();
    let area_checksum = disk.area_checksum(base);
    let checkpoint = &mut disk.files[file].checkpoints[1];
    checkpoint.sequence = 1;
    checkpoint.base = base;
    checkpoint.area_checksum = area_checksum;
    checkpoint.epochs = [1, 2];
    checkpoint.check = checkpoint_sum(rules, session, checkpoint);
}

/// Reads every chunk. What was read once is the chunk's value from now on.
fn look(disk: &Disk, expected: &mut Expected) -> Result<(), &'static str> {
    for (old, new) in disk.table().into_iter().enumerate() {
        let value = match new {
            NONE => 0,
            new => disk.data[usize::from(new)],
        };
        let seen = 1 << value;
        if value == FOREIGN {
            return Err("a chunk holds what nobody wrote to it");
        }
        if expected.allowed[old] & seen == 0 {
            return Err("an acknowledged write is lost");
        }
        expected.allowed[old] = seen;
        expected.acknowledged[old] = seen;
    }
    Ok(())
}
