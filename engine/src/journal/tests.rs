//! The journal by itself: whatever moment a process is killed at, what is found holds every note
//! that was complete and not retired, and nothing that was never noted.

use std::sync::{Arc, Mutex, PoisonError};

use usnap_format::{ChunkSize, Exception, Layout, NewChunk, OldChunk};

use super::{
    Base, Contradiction, Found, HeapMemory, Journal, JournalMemory, Run, SLOTS_MAX, Session, Stamp,
    StoreView, Unreadable, Witness,
};
use crate::store::NewRun;

const SESSION: Session = Session([7; 16]);

/// Keeps the memory as it was before each store.
struct Filmed {
    now: HeapMemory,
    before: Mutex<Vec<Vec<u64>>>,
}

impl Filmed {
    fn new(slots: u64) -> Arc<Self> {
        Arc::new(Self {
            now: HeapMemory::zeros(Journal::words_for(slots)),
            before: Mutex::default(),
        })
    }

    fn before(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u64>>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every memory that a kill since the last call could have left, the present one the last.
    fn kills(&self) -> Vec<Vec<u64>> {
        let mut kills = std::mem::take(&mut *self.before());
        kills.push(self.now.words());
        kills
    }
}

impl JournalMemory for Filmed {
    fn len_words(&self) -> usize {
        self.now.len_words()
    }

    fn load(&self, index: usize) -> u64 {
        self.now.load(index)
    }

    fn store(&self, index: usize, value: u64) {
        self.before().push(self.now.words());
        self.now.store(index, value);
    }

    fn add(&self, index: usize, change: i64) {
        self.before().push(self.now.words());
        self.now.add(index, change);
    }
}

fn base(committed: u64) -> Base {
    Base {
        committed,
        area_crc32: 0,
    }
}

fn begin(memory: Arc<dyn JournalMemory>) -> Journal {
    Journal::begin(memory, SESSION, &Witness::neutral(), base(0)).unwrap()
}

fn read(words: Vec<u64>) -> Result<Found, Unreadable> {
    Found::read(Arc::new(HeapMemory::from_words(words)))
}

fn note(journal: &mut Journal, old: u64, new: u64, count: u64) {
    assert!(journal.take_credit());
    let run = NewRun {
        first: NewChunk(new),
        count,
    };
    journal.note(OldChunk(old), run);
}

fn run(old: u64, new: u64, count: u64) -> Run {
    Run {
        first_old: OldChunk(old),
        first_new: NewChunk(new),
        count,
    }
}

#[test]
fn a_journal_killed_while_it_begins_was_not_begun() {
    let memory = Filmed::new(2);
    // What was there before, whole, is gone with the first word.
    let other = Session([8; 16]);
    let mut before = Journal::begin(memory.clone(), other, &Witness::neutral(), base(0)).unwrap();
    note(&mut before, 1, 2, 1);
    memory.kills();
    let _journal = begin(memory.clone());
    let kills = memory.kills();
    let count = kills.len();
    for (n, words) in kills.into_iter().enumerate() {
        let found = read(words);
        if n == 0 {
            assert_eq!(found.unwrap().runs, [run(1, 2, 1)]);
        } else if n + 1 == count {
            assert_eq!(found.unwrap().runs, []);
        } else {
            assert_eq!(found.err(), Some(Unreadable::NotBegun), "kill {n}");
        }
    }
}

#[test]
fn a_note_counts_with_its_last_word_and_not_before() {
    let memory = Filmed::new(2);
    let mut journal = begin(memory.clone());
    note(&mut journal, 5, 2, 3);
    memory.kills();
    note(&mut journal, 9, 6, 1);
    let kills = memory.kills();
    assert_eq!(kills.len(), 4, "three words are stored");
    for (n, words) in kills.into_iter().enumerate() {
        let mut expected = vec![run(5, 2, 3)];
        expected.extend((n == 3).then_some(run(9, 6, 1)));
        assert_eq!(read(words).unwrap().runs, expected, "kill {n}");
    }
}

#[test]
fn a_batch_counts_until_it_is_retired_and_the_other_segment_all_the_time() {
    let memory = Filmed::new(2);
    let mut journal = begin(memory.clone());
    note(&mut journal, 1, 2, 1);
    journal.seal();
    note(&mut journal, 2, 3, 1);
    memory.kills();
    journal.retire(base(1));
    let kills = memory.kills();
    assert_eq!(kills.len(), 7, "six words are stored");
    for (n, words) in kills.into_iter().enumerate() {
        let found = read(words).unwrap();
        if n == 6 {
            assert_eq!((found.runs, found.base), (vec![run(2, 3, 1)], base(1)));
        } else {
            let both = vec![run(1, 2, 1), run(2, 3, 1)];
            assert_eq!((found.runs, found.base), (both, base(0)), "kill {n}");
        }
    }
}

#[test]
fn slots_that_are_used_again_never_show_what_was_there_before() {
    let memory = Filmed::new(2);
    let mut journal = begin(memory.clone());
    memory.kills();
    for round in 0..6 {
        note(&mut journal, 10 * round, 2 + 2 * round, 1);
        note(&mut journal, 10 * round + 1, 3 + 2 * round, 1);
        assert!(!journal.take_credit(), "a segment has two slots");
        for words in memory.kills() {
            for run in read(words).unwrap().runs {
                assert_eq!(run.first_old.0 / 10, round, "of another epoch");
                assert_eq!(run.first_new.0, 2 + 2 * round + run.first_old.0 % 10);
            }
        }
        journal.seal();
        assert!(journal.is_sealed());
        journal.retire(base(2 * round + 2));
        assert!(!journal.is_sealed());
        memory.kills();
    }
}

#[test]
fn credits_and_notes_together_fill_a_segment_and_no_more() {
    let mut journal = begin(Filmed::new(3));
    assert!(journal.take_credit() && journal.take_credit() && journal.take_credit());
    assert!(!journal.take_credit());
    journal.give_back_credit();
    assert!(journal.take_credit());
    let one = NewRun {
        first: NewChunk(2),
        count: 1,
    };
    journal.note(OldChunk(0), one);
    assert!(!journal.take_credit());
    journal.seal();
    assert!(journal.take_credit(), "two credits are out, three slots");
    assert!(!journal.take_credit());
}

#[test]
fn a_segment_that_names_very_many_chunks_takes_no_more() {
    let mut journal = begin(Filmed::new(3));
    note(&mut journal, 0, 1 << 30, super::live::SEGMENT_CHUNKS_MAX);
    assert!(!journal.take_credit());
    journal.seal();
    assert!(journal.take_credit());
}

#[test]
fn a_latch_is_found_with_all_that_was_noted() {
    let memory = Filmed::new(2);
    let mut journal = begin(memory.clone());
    note(&mut journal, 1, 2, 1);
    memory.kills();
    journal.latch();
    let kills = memory.kills();
    let last = kills.len() - 1;
    for (n, words) in kills.into_iter().enumerate() {
        let found = read(words).unwrap();
        assert_eq!(found.is_latched, n == last);
        assert_eq!(found.runs, [run(1, 2, 1)]);
    }
}

#[test]
fn any_damage_is_found_or_takes_away_what_it_touches() {
    let memory = Filmed::new(2);
    let mut journal = begin(memory.clone());
    note(&mut journal, 1, 2, 1);
    note(&mut journal, 2, 3, 4);
    journal.seal();
    note(&mut journal, 3, 7, 1);
    let words = memory.now.words();
    let runs = [run(1, 2, 1), run(2, 3, 4), run(3, 7, 1)];
    assert_eq!(read(words.clone()).unwrap().runs, runs);
    for at in 0..words.len() {
        for bit in 0..64 {
            let mut damaged = words.clone();
            damaged[at] ^= 1 << bit;
            if let Ok(found) = read(damaged) {
                assert_eq!((found.session, found.base), (SESSION, base(0)));
                assert_eq!(found.witness, Witness::neutral());
                assert!(found.runs.iter().all(|found| runs.contains(found)));
            }
        }
    }
    for cut in 0..words.len() {
        assert!(read(words[..cut].to_vec()).is_err(), "cut to {cut} words");
    }
}

#[test]
fn a_note_that_turns_up_in_another_slot_does_not_count() {
    let memory = Filmed::new(3);
    let mut journal = begin(memory.clone());
    note(&mut journal, 1, 2, 1);
    let first_slot = Journal::words_for(0);
    for slot in 1..6 {
        let mut words = memory.now.words();
        words.copy_within(first_slot..first_slot + 3, first_slot + 3 * slot);
        assert_eq!(read(words).unwrap().runs, [run(1, 2, 1)], "slot {slot}");
    }
}

#[test]
fn a_bad_slot_hides_none_behind_it() {
    let memory = Filmed::new(3);
    let mut journal = begin(memory.clone());
    for n in 0..3 {
        note(&mut journal, n, 2 + n, 1);
    }
    let second_slot = Journal::words_for(0) + 3;
    memory.now.store(second_slot, 99);
    let found = read(memory.now.words()).unwrap();
    assert_eq!(found.runs, [run(0, 2, 1), run(2, 4, 1)]);
}

#[test]
fn memory_without_room_for_a_note_is_refused() {
    for words in 0..Journal::words_for(1) {
        let memory = Arc::new(HeapMemory::zeros(words));
        let result = Journal::begin(memory, SESSION, &Witness::neutral(), base(0));
        assert!(result.is_err(), "{words} words");
    }
    begin(Arc::new(HeapMemory::zeros(Journal::words_for(1))));
}

#[test]
fn a_journal_is_at_most_twelve_mebibytes_and_a_little() {
    let largest = 8 * Journal::words_for(SLOTS_MAX);
    assert!((12 << 20..13 << 20).contains(&largest), "{largest}");
}

#[test]
fn the_stamps_of_a_journal_go_on_when_it_is_found() {
    let memory: Arc<dyn JournalMemory> = Filmed::new(2);
    let journal = begin(memory.clone());
    let modified = |ms: u64| Witness {
        modified_ns: Some(ms * 1_000_000),
        ..Witness::neutral()
    };
    let start = std::time::SystemTime::UNIX_EPOCH;
    let now = start.elapsed().unwrap().as_millis().try_into().unwrap();
    let doubts = |ms: u64| Found::read(memory.clone()).unwrap().doubts(&modified(ms));
    assert_eq!(doubts(now).len(), 1);
    let stamp: Arc<Stamp> = journal.stamp();
    stamp.now();
    assert_eq!(doubts(now), [""; 0]);
    assert_eq!(doubts(now + 1000).len(), 1);
    let found = Found::read(memory.clone()).unwrap();
    let failed: Result<(), ()> = found.stamp().during_write(|| {
        assert_eq!(doubts(now + 1000), [""; 0], "a call is under way");
        Err(())
    });
    assert!(failed.is_err());
    assert_eq!(doubts(now), [""; 0]);
    assert_eq!(doubts(now + 1000).len(), 1);
}

#[test]
fn sessions_differ() {
    let (one, other) = (Session::random().unwrap(), Session::random().unwrap());
    assert_ne!(one, other);
    assert_eq!(Session::from_words(one.words()), one);
}

/// A store with these entries, of which the first `base` are behind the journal's base.
struct Store {
    entries: Vec<(u64, u64)>,
    base: usize,
    device_chunks: u64,
}

impl Store {
    fn missing_of(&self, runs: &[Run]) -> Result<Vec<(u64, u64)>, Contradiction> {
        let memory: Arc<dyn JournalMemory> = Filmed::new(8);
        let journal_base = base(self.base as u64);
        let mut journal =
            Journal::begin(memory.clone(), SESSION, &Witness::neutral(), journal_base).unwrap();
        for run in runs {
            note(&mut journal, run.first_old.0, run.first_new.0, run.count);
        }
        let behind: Vec<Exception> = self
            .entries
            .iter()
            .skip(self.base)
            .map(|&(old, new)| Exception {
                old_chunk: OldChunk(old),
                new_chunk: NewChunk(new),
            })
            .collect();
        let find = |wanted: OldChunk| {
            let found = self.entries.iter().find(|(old, _)| *old == wanted.0);
            found.map(|(_, new)| NewChunk(*new))
        };
        let missing = Found::read(memory).unwrap().missing(&StoreView {
            layout: Layout::new(ChunkSize::from_sectors(1).unwrap()),
            device_chunks: self.device_chunks,
            old_chunks: 100,
            committed: self.entries.len() as u64,
            base_area_crc32: (self.entries.len() >= self.base).then_some(0),
            entries_behind_base: &behind,
            lookup: &find,
            is_new_chunk_taken: &|new| self.entries.iter().any(|(_, taken)| *taken == new.0),
        })?;
        let pairs = missing.iter().map(|e| (e.old_chunk.0, e.new_chunk.0));
        Ok(pairs.collect())
    }
}

fn store(entries: &[(u64, u64)], base: usize) -> Store {
    Store {
        entries: entries.to_vec(),
        base,
        device_chunks: 40,
    }
}

#[test]
fn what_is_noted_and_not_in_the_store_is_missing_in_the_order_of_the_new_chunks() {
    let notes = [run(9, 6, 2), run(3, 3, 1), run(7, 4, 1)];
    let all = store(&[(1, 2)], 1).missing_of(&notes);
    assert_eq!(all.unwrap(), [(3, 3), (7, 4), (9, 6), (10, 7)]);
    // A commit that was cut short, and one that was not.
    let some = store(&[(1, 2), (3, 3), (7, 4)], 1).missing_of(&notes);
    assert_eq!(some.unwrap(), [(9, 6), (10, 7)]);
    let entries = [(1, 2), (3, 3), (7, 4), (9, 6), (10, 7)];
    assert_eq!(store(&entries, 1).missing_of(&notes).unwrap(), []);
}

#[test]
fn what_contradicts_the_store_is_not_replayed() {
    let why = |store: &Store, notes: &[Run]| store.missing_of(notes).unwrap_err().0;
    let fresh = store(&[(1, 2)], 1);
    assert!(why(&store(&[], 1), &[run(5, 3, 1)]).starts_with("counts 1 committed entries"));
    let knows_nothing = why(&store(&[(1, 2)], 0), &[run(5, 3, 1)]);
    assert!(knows_nothing.starts_with("knows nothing of the entry for chunk 1"));
    assert!(why(&store(&[(1, 2)], 0), &[run(2, 2, 1)]).contains("as another chunk's"));
    assert!(why(&fresh, &[run(5, 2, 1)]).ends_with("which is another's"));
    assert!(why(&fresh, &[run(1, 3, 1)]).ends_with("the store has it at 2"));
    assert!(why(&fresh, &[run(5, 3, 1), run(5, 4, 1)]).starts_with("names chunk 5 twice"));
    assert!(why(&fresh, &[run(5, 3, 2), run(8, 4, 1)]).starts_with("names new chunk 4 twice"));
    assert!(why(&fresh, &[run(5, 33, 2)]).ends_with("which is metadata"));
    assert!(why(&fresh, &[run(5, 0, 1)]).ends_with("which is metadata"));
    assert!(why(&fresh, &[run(5, 39, 2)]).ends_with("behind a device's end"));
    assert!(why(&fresh, &[run(99, 3, 2)]).ends_with("behind a device's end"));
    assert!(why(&fresh, &[run(5, u64::MAX, 2)]).starts_with("names chunks that no device has"));
    assert!(why(&fresh, &[run(5, 3, u64::from(u32::MAX))]).starts_with("names more chunks"));
    let small = Store {
        device_chunks: 34,
        ..store(&[], 0)
    };
    assert_eq!(small.missing_of(&[run(0, 2, 31)]).unwrap().len(), 31);
    assert!(why(&small, &[run(0, 2, 32)]).ends_with("has room for"));
}

#[test]
fn where_all_that_is_noted_is_in_the_store_nothing_else_matters() {
    let more = [(1, 2), (3, 3), (8, 9)];
    for (entries, base) in [(&more[..], 0), (&more[..], 1), (&more[1..2], 2)] {
        assert_eq!(store(entries, base).missing_of(&[run(3, 3, 1)]), Ok(vec![]));
        assert!(store(entries, base).missing_of(&[run(3, 4, 1)]).is_err());
    }
}

#[test]
fn another_checksum_of_the_base_is_a_contradiction() {
    let memory: Arc<dyn JournalMemory> = Filmed::new(2);
    let mut journal = begin(memory.clone());
    journal.retire(Base {
        committed: 1,
        area_crc32: 5,
    });
    note(&mut journal, 7, 3, 1);
    let found = Found::read(memory).unwrap();
    let view = |base_area_crc32| StoreView {
        layout: Layout::new(ChunkSize::from_sectors(1).unwrap()),
        device_chunks: 40,
        old_chunks: 100,
        committed: 1,
        base_area_crc32,
        entries_behind_base: &[],
        lookup: &|_| None,
        is_new_chunk_taken: &|_| false,
    };
    assert_eq!(found.missing(&view(Some(5))).unwrap().len(), 1);
    assert!(found.missing(&view(Some(6))).is_err());
    assert!(found.missing(&view(None)).is_err());
}

#[test]
fn each_circumstance_gives_its_own_doubt() {
    let then = Witness {
        boot_id: [1; 16],
        started_s: 1 << 40,
        device: 2,
        inode: 3,
        mount_id: 4,
        superblock: 10,
        disk_sequence: 5,
        size_bytes: 6,
        is_block: false,
        modified_ns: Some(7_000_000_000),
    };
    let memory: Arc<dyn JournalMemory> = Filmed::new(2);
    let _journal = Journal::begin(memory.clone(), SESSION, &then, base(0)).unwrap();
    let found = Found::read(memory).unwrap();
    assert_eq!(found.doubts(&then), [""; 0]);
    assert!(found.is_of_boot(&then));
    let grown_and_elsewhere_unknown = Witness {
        size_bytes: 600,
        mount_id: 0,
        superblock: 0,
        disk_sequence: 0,
        ..then
    };
    assert_eq!(found.doubts(&grown_and_elsewhere_unknown), [""; 0]);
    let in_another_namespace = Witness {
        mount_id: 9,
        ..then
    };
    assert_eq!(found.doubts(&in_another_namespace), [""; 0]);
    let mut others = vec![then; 8];
    others[0].boot_id = [2; 16];
    others[1].device = 9;
    others[2].inode = 9;
    others[3].superblock = 9;
    others[4].disk_sequence = 9;
    others[5].size_bytes = 5;
    others[6].modified_ns = Some(8_000_000_000);
    (others[7].mount_id, others[7].superblock) = (9, 0);
    for other in others {
        assert_eq!(found.doubts(&other).len(), 1, "{other:?}");
    }
    let block = Witness {
        is_block: true,
        ..then
    };
    assert_eq!(found.doubts(&block).len(), 2, "another device, and no time");
}
