//! What outlives a process: data chunks, entries, the session on record, journal files.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::rules::{Room, Rules};

pub(crate) const OLD_CHUNKS: usize = 3;
pub(crate) const NEW_CHUNKS: usize = 6;
/// Entries of an area; each is a sector of its own here.
pub(crate) const PER_AREA: usize = 2;
pub(crate) const SLOTS_MAX: usize = 3;
pub(crate) const NONE: u8 = 0xff;
/// What nobody was ever told: stale bytes, zeros, somebody else's.
pub(crate) const FOREIGN: u8 = 7;

/// An old chunk and its new chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) new: u8,
    pub(crate) old: u8,
}

pub(crate) const NO_ENTRY: Entry = Entry {
    new: NONE,
    old: NONE,
};

/// A few entries, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct List {
    items: [Entry; NEW_CHUNKS],
    len: u8,
}

impl List {
    pub(crate) const EMPTY: Self = Self {
        items: [NO_ENTRY; NEW_CHUNKS],
        len: 0,
    };

    pub(crate) fn push(&mut self, entry: Entry) {
        self.items[usize::from(self.len)] = entry;
        self.len += 1;
    }

    pub(crate) fn get(&self) -> &[Entry] {
        &self.items[..usize::from(self.len)]
    }

    pub(crate) fn sorted(mut self) -> Self {
        self.items[..usize::from(self.len)].sort();
        self
    }

    /// In which order a batch's entries are written behind `committed` others: those of areas
    /// behind the current one first. Index into the batch, and into the entries of the store.
    pub(crate) fn order(&self, committed: u8) -> Vec<(usize, usize)> {
        let committed = usize::from(committed);
        let all = (0..self.get().len()).map(|n| (n, committed + n));
        let is_behind = |place: &(usize, usize)| place.1 / PER_AREA > committed / PER_AREA;
        let (mut behind, current): (Vec<_>, Vec<_>) = all.partition(is_behind);
        behind.extend(current);
        behind
    }
}

/// Two words: the second covers the first and, by the rules, when and where it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) content: Entry,
    pub(crate) check: u32,
}

/// Three words of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Checkpoint {
    pub(crate) sequence: u8,
    pub(crate) base: u8,
    /// Stored with the base.
    pub(crate) area_checksum: u32,
    pub(crate) epochs: [u8; 2],
    pub(crate) check: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JournalFile {
    /// Whose it is by its name; 0: there is no such file.
    pub(crate) name: u8,
    /// Whose it is by its header; 0: not begun.
    pub(crate) session: u8,
    pub(crate) slots: [[Slot; SLOTS_MAX]; 2],
    pub(crate) checkpoints: [Checkpoint; 2],
}

impl JournalFile {
    pub(crate) const EMPTY: Self = Self {
        name: 0,
        session: 0,
        slots: [[Slot {
            content: NO_ENTRY,
            check: 0,
        }; SLOTS_MAX]; 2],
        checkpoints: [Checkpoint {
            sequence: 0,
            base: 0,
            area_checksum: 0,
            epochs: [0; 2],
            check: 0,
        }; 2],
    };
}

fn sum(what: impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    u32::try_from(hasher.finish() >> 32).expect("half of it")
}

pub(crate) fn checkpoint_sum(rules: &Rules, session: u8, checkpoint: &Checkpoint) -> u32 {
    let session = if rules.crc_covers_session { session } else { 0 };
    let Checkpoint {
        sequence,
        base,
        area_checksum,
        epochs,
        check: _,
    } = *checkpoint;
    sum((session, sequence, base, area_checksum, epochs))
}

pub(crate) fn slot_sum(rules: &Rules, session: u8, epoch: u8, slot: usize, content: Entry) -> u32 {
    let session = if rules.crc_covers_session { session } else { 0 };
    let epoch = if rules.crc_covers_epoch { epoch } else { 0 };
    sum((session, epoch, slot, content))
}

/// All that outlives a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) data: [u8; NEW_CHUNKS],
    pub(crate) entries: [Entry; NEW_CHUNKS],
    /// The session that the store names.
    pub(crate) session: u8,
    pub(crate) files: [JournalFile; 2],
    /// Somebody else wrote, so the modification time is not ours.
    pub(crate) modified_by_others: bool,
    /// A chunk was lost: the next sync says so.
    pub(crate) has_lost: bool,
}

/// What is missing in the store, or why it is not opened.
pub(crate) enum Verdict {
    Missing(List),
    Refused(&'static str),
}

impl Disk {
    /// How many entries a loader finds: it reads areas until one is not full.
    pub(crate) fn committed(&self) -> u8 {
        let first_none = self.entries.iter().position(|entry| *entry == NO_ENTRY);
        u8::try_from(first_none.unwrap_or(NEW_CHUNKS)).expect("few")
    }

    /// The checksum of the last area of the first `committed` entries.
    pub(crate) fn area_checksum(&self, committed: u8) -> u32 {
        let end = usize::from(committed);
        let start = end - end % PER_AREA;
        if start == end {
            0
        } else {
            sum(&self.entries[start..end])
        }
    }

    pub(crate) fn table(&self) -> [u8; OLD_CHUNKS] {
        let mut table = [NONE; OLD_CHUNKS];
        for entry in &self.entries[..usize::from(self.committed())] {
            if let Some(place) = table.get_mut(usize::from(entry.old)) {
                *place = entry.new;
            }
        }
        table
    }

    /// Finds the journal that the store names, and judges it.
    pub(crate) fn judge(&self, rules: &Rules, room: Room, slots: u8) -> Verdict {
        let found = match room {
            Room::NewFile => self.files.iter().find(|file| file.name == self.session),
            Room::SameMemory => self.files.first(),
        };
        let Some(file) = found.filter(|file| file.session == self.session) else {
            return Verdict::Missing(List::EMPTY);
        };
        let valid = |checkpoint: &&Checkpoint| {
            checkpoint.sequence > 0
                && checkpoint.check == checkpoint_sum(rules, file.session, checkpoint)
        };
        let whole = file.checkpoints.iter().filter(valid);
        let Some(checkpoint) = whole.max_by_key(|checkpoint| checkpoint.sequence) else {
            return Verdict::Refused("no checkpoint is whole");
        };
        let mut noted = Vec::new();
        for (segment, epoch) in file.slots.iter().zip(checkpoint.epochs) {
            for (n, slot) in segment.iter().enumerate().take(usize::from(slots)) {
                if slot.check == slot_sum(rules, file.session, epoch, n, slot.content) {
                    noted.push(slot.content);
                } else if !rules.skips_bad_slots {
                    break;
                }
            }
        }
        self.missing_of(rules, checkpoint, &noted)
    }

    fn missing_of(&self, rules: &Rules, checkpoint: &Checkpoint, noted: &[Entry]) -> Verdict {
        let committed = self.committed();
        if rules.modification_time_fits && self.modified_by_others {
            return Verdict::Refused("somebody else wrote");
        }
        if committed < checkpoint.base || !rules.believes_superset && committed != checkpoint.base {
            return Verdict::Refused("the count is another");
        }
        let checksum = self.area_checksum(checkpoint.base);
        if rules.base_checksum_fits && checksum != checkpoint.area_checksum {
            return Verdict::Refused("the base is another");
        }
        let entries = &self.entries[..usize::from(committed)];
        let behind = &entries[usize::from(checkpoint.base)..];
        if rules.base_checksum_fits && !behind.iter().all(|entry| noted.contains(entry)) {
            return Verdict::Refused("an entry was never noted");
        }
        let mut missing: Vec<Entry> = noted.to_vec();
        missing.retain(|entry| !behind.contains(entry));
        missing.sort();
        let mut list = List::EMPTY;
        for entry in missing {
            let has_old = |other: &&Entry| other.old == entry.old || other.new == entry.new;
            if entries
                .iter()
                .chain(list.get())
                .any(|other| has_old(&other))
            {
                return Verdict::Refused("a chunk is named twice");
            }
            list.push(entry);
        }
        Verdict::Missing(list)
    }
}
