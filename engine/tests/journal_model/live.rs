//! A process: writers and a committer, one atomic step at a time.

use crate::disk::{
    Checkpoint, Disk, Entry, FOREIGN, List, NEW_CHUNKS, NONE, OLD_CHUNKS, checkpoint_sum, slot_sum,
};
use crate::explore::{Expected, Step, Successors};
use crate::rules::{Rules, Scenario, Write};

pub(crate) const PENDING: u8 = 0xfe;
const COMMITTER: u8 = 0xf0;
const WRITERS_MAX: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum At {
    Lookup,
    Credit,
    Number,
    Data,
    /// Takes a slot: only where notes are filled outside the lock.
    TakeSlot,
    NoteContent,
    NoteCheck,
    /// The exception joins the written ones: only there.
    Record,
    Publish,
    Overwrite,
    Acknowledge,
    Abort,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Writer {
    at: At,
    new: u8,
    segment: u8,
    slot: u8,
    /// Values whose writes had been acknowledged when this one began.
    superseded: u8,
    /// It claimed its chunk.
    is_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Commit {
    Idle,
    /// Between taking the batch and the segment: only where that is two steps.
    Flip,
    /// So many of the batch's writes are done.
    Writing(u8),
    /// So many of the checkpoint's words are stored; then the rest is written, if any.
    Retiring(u8, bool),
}

/// A process's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Live {
    is_first: bool,
    table: [u8; OLD_CHUNKS],
    /// Numbers that are not free, a bit each.
    taken: u8,
    written: List,
    batch: List,
    is_kept: bool,
    committed: u8,
    file: u8,
    session: u8,
    active: u8,
    is_sealed: bool,
    used: [u8; 2],
    filling: [u8; 2],
    credits: u8,
    next_epoch: u8,
    checkpoint: Checkpoint,
    lock: u8,
    writers: [Writer; WRITERS_MAX],
    commit: Commit,
    commits_left: u8,
}

/// Bits of what may still go wrong are in the explorer's state: `Budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) failing_writes: u8,
    pub(crate) commits_without_space: u8,
    pub(crate) opens: u8,
    pub(crate) foreign_writes: u8,
    pub(crate) foreign_entries: u8,
    pub(crate) lost_chunks: u8,
}

impl Budget {
    /// The number of the next session: one for each open, never the same again.
    pub(crate) fn next_session(&self) -> u8 {
        100 - self.opens
    }
}

impl Live {
    /// A process that has just begun its journal in `file`.
    pub(crate) fn begin(scenario: &Scenario, disk: &Disk, file: u8, is_first: bool) -> Self {
        let journal = &disk.files[usize::from(file)];
        let committed = disk.committed();
        let table = disk.table();
        let largest = disk.entries[..usize::from(committed)]
            .iter()
            .map(|e| e.new)
            .max();
        let writer = Writer {
            at: At::Ended,
            new: NONE,
            segment: 0,
            slot: 0,
            superseded: 0,
            is_first: false,
        };
        let mut live = Self {
            is_first,
            table,
            // Holes below the largest number are not filled.
            taken: largest.map_or(0, |n| u8::MAX >> (7 - n)),
            written: List::EMPTY,
            batch: List::EMPTY,
            is_kept: false,
            committed,
            file,
            session: journal.session,
            active: 0,
            is_sealed: false,
            used: [0; 2],
            filling: [0; 2],
            credits: 0,
            next_epoch: 3,
            checkpoint: journal.checkpoints[1],
            lock: NONE,
            writers: [writer; WRITERS_MAX],
            commit: Commit::Idle,
            commits_left: if is_first {
                scenario.commits
            } else {
                scenario.commits_later
            },
        };
        for n in 0..live.program(scenario).len() {
            live.writers[n].at = At::Lookup;
        }
        live
    }

    fn program<'s>(&self, scenario: &'s Scenario) -> &'s [Write] {
        if self.is_first {
            &scenario.first_life
        } else {
            &scenario.later_lives
        }
    }

    /// Every step that this process can take next.
    pub(crate) fn steps(
        self,
        scenario: &Scenario,
        rules: &Rules,
        world: (Disk, Expected, Budget),
        out: &mut Successors,
    ) {
        for (n, write) in self.program(scenario).iter().enumerate() {
            let mut next = Step { live: self, world };
            next.writer(n, *write, scenario, rules, out);
        }
        let mut next = Step { live: self, world };
        next.committer(rules, out);
    }
}

impl Step {
    /// Whether the lock can be had; with it, other threads' steps that need it wait.
    fn may_lock(&self, who: u8) -> bool {
        self.live.lock == NONE || self.live.lock == who
    }

    fn go(&mut self, n: usize, at: At, name: &'static str, out: &mut Successors) {
        self.live.writers[n].at = at;
        out.live(name, n, self);
    }

    fn writer(
        &mut self,
        n: usize,
        write: Write,
        scenario: &Scenario,
        rules: &Rules,
        out: &mut Successors,
    ) {
        let me = u8::try_from(n).expect("few");
        let old = usize::from(write.old);
        let (disk, expected, budget) = &mut self.world;
        let live = &mut self.live;
        let writer = &mut live.writers[n];
        let has_room = |live: &Live| {
            let used = live.used[usize::from(live.active)];
            used + live.credits < scenario.slots || !rules.note_needs_credit
        };
        let first_step = if rules.credit_before_number {
            At::Credit
        } else {
            At::Number
        };
        match writer.at {
            At::Lookup => {
                if live.table[old] == PENDING {
                    return;
                }
                writer.superseded = expected.acknowledged[old];
                expected.allowed[old] |= 1 << write.value;
                if live.table[old] == NONE {
                    live.table[old] = PENDING;
                    writer.is_first = true;
                    self.go(n, first_step, "claims", out);
                } else {
                    writer.new = live.table[old];
                    self.go(n, At::Overwrite, "finds it mapped", out);
                }
            }
            At::Credit => {
                if !self.may_lock(me) {
                    return;
                }
                if !has_room(&self.live) {
                    if !rules.credit_before_number {
                        out.violation("a writer waits for a credit and holds a number");
                    }
                    return;
                }
                self.live.credits += 1;
                let next = match (rules.credit_before_number, rules.data_before_note) {
                    (false, _) => At::Data,
                    (true, _) => At::Number,
                };
                self.go(n, next, "takes a credit", out);
            }
            At::Number => {
                if !self.may_lock(me) {
                    return;
                }
                let number = self.live.taken.trailing_ones();
                assert!((number as usize) < NEW_CHUNKS, "the scenario is too long");
                self.live.taken |= 1 << number;
                self.live.writers[n].new = u8::try_from(number).expect("few");
                let next = match (rules.credit_before_number, rules.data_before_note) {
                    (false, _) => At::Credit,
                    (true, true) => At::Data,
                    (true, false) => note_step(rules),
                };
                self.go(n, next, "takes a number", out);
            }
            At::Data => {
                let new = usize::from(writer.new);
                let before = *disk;
                disk.data[new] = write.value;
                let after = match (rules.data_before_note, rules.note_before_publish) {
                    (false, _) | (true, false) => At::Publish,
                    (true, true) => note_step(rules),
                };
                if budget.failing_writes > 0 {
                    let mut failed = *self;
                    failed.world.0 = before;
                    failed.world.0.data[new] = FOREIGN;
                    failed.world.2.failing_writes -= 1;
                    failed.go(n, At::Abort, "fails to write its chunk", out);
                }
                self.go(n, after, "writes its chunk", out);
            }
            At::Abort => {
                if !self.may_lock(me) {
                    return;
                }
                self.live.taken &= !(1 << self.live.writers[n].new);
                self.live.credits = self.live.credits.saturating_sub(1);
                self.live.table[old] = NONE;
                self.go(n, At::Ended, "gives all back", out);
            }
            At::TakeSlot => {
                if self.may_lock(me) {
                    self.take_slot(n, scenario);
                    let segment = usize::from(self.live.writers[n].segment);
                    self.live.filling[segment] += 1;
                    self.go(n, At::NoteContent, "takes a slot", out);
                }
            }
            At::NoteContent => {
                if rules.note_under_lock {
                    if !self.may_lock(me) {
                        return;
                    }
                    self.live.lock = me;
                    self.take_slot(n, scenario);
                }
                let entry = self.entry(n, write);
                self.slot(n).content = entry;
                self.go(n, At::NoteCheck, "stores a note", out);
            }
            At::NoteCheck => {
                let entry = self.entry(n, write);
                let Writer { segment, slot, .. } = self.live.writers[n];
                let epoch = self.live.checkpoint.epochs[usize::from(segment)];
                let check = slot_sum(rules, self.live.session, epoch, usize::from(slot), entry);
                self.slot(n).check = check;
                let next = if rules.note_under_lock {
                    self.live.lock = NONE;
                    self.live.written.push(entry);
                    after_note(rules)
                } else {
                    At::Record
                };
                self.go(n, next, "completes its note", out);
            }
            At::Record => {
                if self.may_lock(me) {
                    let entry = self.entry(n, write);
                    self.live.written.push(entry);
                    let segment = usize::from(self.live.writers[n].segment);
                    self.live.filling[segment] -= 1;
                    self.go(n, after_note(rules), "records its exception", out);
                }
            }
            At::Publish => {
                live.table[old] = writer.new;
                self.go(n, At::Acknowledge, "publishes", out);
            }
            At::Overwrite => {
                disk.data[usize::from(writer.new)] = write.value;
                self.go(n, At::Acknowledge, "overwrites", out);
            }
            At::Acknowledge => {
                expected.allowed[old] &= !writer.superseded;
                expected.allowed[old] |= 1 << write.value;
                expected.acknowledged[old] |= 1 << write.value;
                let next = if rules.note_before_publish || !writer.is_first {
                    At::Ended
                } else {
                    note_step(rules)
                };
                self.go(n, next, "is acknowledged", out);
            }
            At::Ended => {}
        }
    }

    fn entry(&self, n: usize, write: Write) -> Entry {
        Entry {
            new: self.live.writers[n].new,
            old: write.old,
        }
    }

    fn take_slot(&mut self, n: usize, scenario: &Scenario) {
        let active = usize::from(self.live.active);
        let writer = &mut self.live.writers[n];
        writer.segment = self.live.active;
        writer.slot = self.live.used[active] % scenario.slots;
        self.live.used[active] += 1;
        self.live.credits = self.live.credits.saturating_sub(1);
    }

    fn slot(&mut self, n: usize) -> &mut crate::disk::Slot {
        let Writer { segment, slot, .. } = self.live.writers[n];
        let file = &mut self.world.0.files[usize::from(self.live.file)];
        &mut file.slots[usize::from(segment)][usize::from(slot)]
    }

    fn commit_to(&mut self, commit: Commit, name: &'static str, out: &mut Successors) {
        self.live.commit = commit;
        out.live(name, usize::from(COMMITTER), self);
    }

    fn committer(&mut self, rules: &Rules, out: &mut Successors) {
        match self.live.commit {
            Commit::Idle => self.begin_commit(rules, out),
            Commit::Flip => {
                if self.may_lock(COMMITTER) {
                    self.flip();
                    self.commit_to(Commit::Writing(0), "seals the segment", out);
                }
            }
            Commit::Writing(done) => {
                let order = self.live.batch.order(self.live.committed);
                let early = !rules.retire_is_last;
                let Some(&(n, place)) = order.get(usize::from(done)) else {
                    if early && !order.is_empty() {
                        self.finish(rules, out);
                    } else {
                        self.retire(rules, 0, false, out);
                    }
                    return;
                };
                if early && usize::from(done) + 1 == order.len() && self.live.is_sealed {
                    self.retire(rules, 0, true, out);
                    return;
                }
                if self.world.2.commits_without_space > 0 {
                    let mut failed = *self;
                    failed.world.2.commits_without_space -= 1;
                    failed.live.is_kept = true;
                    if !rules.kept_stays_sealed {
                        failed.live.is_sealed = false;
                    }
                    failed.commit_to(Commit::Idle, "finds no space", out);
                }
                self.world.0.entries[place] = self.live.batch.get()[n];
                self.commit_to(Commit::Writing(done + 1), "writes an entry", out);
            }
            Commit::Retiring(stored, early) => self.retire(rules, stored, early, out),
        }
    }

    fn begin_commit(&mut self, rules: &Rules, out: &mut Successors) {
        let live = &mut self.live;
        if live.commits_left == 0 || live.lock != NONE {
            return;
        }
        if live.is_kept && rules.kept_stays_sealed {
            live.commits_left -= 1;
            live.is_kept = false;
            self.commit_to(Commit::Writing(0), "repeats its batch", out);
            return;
        }
        if rules.seal_waits_for_notes && live.filling[usize::from(live.active)] > 0 {
            return;
        }
        live.commits_left -= 1;
        let mut batch = if live.is_kept {
            live.batch
        } else {
            List::EMPTY
        };
        live.is_kept = false;
        for entry in live.written.sorted().get() {
            batch.push(*entry);
        }
        live.batch = batch;
        live.written = List::EMPTY;
        if rules.seal_is_exact {
            self.flip();
            self.commit_to(Commit::Writing(0), "seals", out);
        } else {
            self.commit_to(Commit::Flip, "takes the batch", out);
        }
    }

    fn flip(&mut self) {
        self.live.is_sealed = true;
        self.live.active = 1 - self.live.active;
        // What is active must be empty; it is not where a rule is left out.
        if self.live.used[usize::from(self.live.active)] > 0 {
            self.live.used[usize::from(self.live.active)] = 0;
        }
    }

    /// Stores a checkpoint, a word at a time, holding the lock.
    fn retire(&mut self, rules: &Rules, stored: u8, early: bool, out: &mut Successors) {
        if !self.may_lock(COMMITTER) {
            return;
        }
        self.live.lock = COMMITTER;
        let live = &mut self.live;
        if stored == 0 {
            let len = u8::try_from(live.batch.get().len()).expect("few");
            let base = live.committed + len;
            let mut disk = self.world.0;
            for (n, place) in live.batch.order(live.committed) {
                disk.entries[place] = live.batch.get()[n];
            }
            live.checkpoint.sequence += 1;
            live.checkpoint.base = base;
            live.checkpoint.area_checksum = disk.area_checksum(base);
            live.checkpoint.epochs[usize::from(1 - live.active)] = live.next_epoch;
            live.checkpoint.check = checkpoint_sum(rules, live.session, &live.checkpoint);
            live.next_epoch += 1;
        }
        let new = live.checkpoint;
        let place = if rules.two_checkpoints {
            usize::from(new.sequence % 2)
        } else {
            1
        };
        let on_disk = &mut self.world.0.files[usize::from(live.file)].checkpoints[place];
        match stored {
            0 => on_disk.sequence = new.sequence,
            1 => {
                on_disk.base = new.base;
                on_disk.area_checksum = new.area_checksum;
            }
            2 => on_disk.epochs = new.epochs,
            _ => on_disk.check = new.check,
        }
        if stored < 3 {
            self.commit_to(
                Commit::Retiring(stored + 1, early),
                "stores a checkpoint",
                out,
            );
            return;
        }
        live.lock = NONE;
        live.used[usize::from(1 - live.active)] = 0;
        live.is_sealed = false;
        if early {
            let last = u8::try_from(live.batch.get().len() - 1).expect("few");
            self.commit_to(Commit::Writing(last), "completes it, too early", out);
        } else {
            self.finish(rules, out);
        }
    }

    fn finish(&mut self, _rules: &Rules, out: &mut Successors) {
        self.live.committed += u8::try_from(self.live.batch.get().len()).expect("few");
        self.live.batch = List::EMPTY;
        self.commit_to(Commit::Idle, "ends its commit", out);
    }
}

fn note_step(rules: &Rules) -> At {
    if rules.note_under_lock {
        At::NoteContent
    } else {
        At::TakeSlot
    }
}

fn after_note(rules: &Rules) -> At {
    if !rules.data_before_note {
        At::Data
    } else if rules.note_before_publish {
        At::Publish
    } else {
        At::Ended
    }
}
