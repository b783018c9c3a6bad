//! The journal file as 8-byte words in the machine's own byte order: it never leaves the boot that
//! wrote it.
//!
//! | words | what |
//! |---|---|
//! | 0 | magic; 0 while the journal is being made |
//! | 1 | version, slots of a segment in the upper half |
//! | 2..4 | session |
//! | 4..13 | witness: boot, device, inode, mount, superblock, disk sequence, size, flags |
//! | 13 | CRC-32 of words 0..13 |
//! | 16..20 | time stamps: last, previous, done; calls under way (`stamp.rs`) |
//! | 24..32, 32..40 | two checkpoints |
//! | 40.. | segment 0, then segment 1: slots of three words |
//!
//! A slot is old chunk, new chunk, and count with a CRC-32 in the upper half. The sum covers the
//! session, the segment's epoch and the slot's number too, so a slot of an earlier epoch, or one
//! that was half-way replaced, doesn't count.

use crc32fast::Hasher;

use super::memory::JournalMemory;
use super::witness::Witness;
use super::{Base, Run, Session};
use crate::num::to_usize;
use usnap_format::{NewChunk, OldChunk};

const MAGIC: u64 = u64::from_le_bytes(*b"usnapjnl");
const VERSION: u64 = 1;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 1;
const SESSION_AT: usize = 2;
const WITNESS_AT: usize = 4;
const HEADER_CRC_AT: usize = 13;
/// Words of the header.
pub(super) const HEADER_WORDS: usize = HEADER_CRC_AT + 1;
/// Words of the witness.
pub(super) const WITNESS_WORDS: usize = 9;

/// The time stamps (`stamp.rs`), in a cache line of their own.
pub(super) const LAST_STAMP_AT: usize = 16;
pub(super) const PREVIOUS_STAMP_AT: usize = 17;
pub(super) const DONE_STAMP_AT: usize = 18;
pub(super) const UNDER_WAY_AT: usize = 19;

const CHECKPOINTS_AT: [usize; 2] = [24, 32];
const SLOTS_AT: usize = 40;
const SLOT_WORDS: usize = 3;

const _: () = assert!(WITNESS_AT + WITNESS_WORDS == HEADER_CRC_AT);
const _: () = assert!(HEADER_CRC_AT < LAST_STAMP_AT && UNDER_WAY_AT < CHECKPOINTS_AT[0]);
const _: () = assert!(CHECKPOINTS_AT[1] + CHECKPOINT_WORDS <= SLOTS_AT);

/// More slots than this a segment never has: 12 MiB for both are enough for 100,000 first writes a
/// second over a commit interval of 2.6 s, and a writer that finds no slot commits.
pub(crate) const SLOTS_MAX: u64 = 1 << 18;

/// How many words a journal with so many slots in each segment needs.
pub(crate) fn words_for(slots: u64) -> usize {
    to_usize(slots)
        .saturating_mul(2 * SLOT_WORDS)
        .saturating_add(SLOTS_AT)
}

/// How many slots a segment has in a memory of so many words.
pub(super) fn slots_in(len_words: usize) -> u64 {
    let slots = len_words.saturating_sub(SLOTS_AT) / (2 * SLOT_WORDS);
    (slots as u64).min(SLOTS_MAX)
}

fn crc32<const N: usize>(words: [u64; N]) -> u32 {
    let mut hasher = Hasher::new();
    for word in words {
        hasher.update(&word.to_ne_bytes());
    }
    hasher.finalize()
}

fn high(word: u64) -> u32 {
    u32::try_from(word >> 32).unwrap_or(u32::MAX)
}

fn low(word: u64) -> u64 {
    word & u64::from(u32::MAX)
}

/// What a journal says about itself once, when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) session: Session,
    pub(super) witness: Witness,
    pub(super) slots: u64,
}

/// Why a header counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// The journal was never begun, so nothing was noted in it.
    NotBegun,
    /// It is no journal, or a damaged one.
    Damaged(&'static str),
}

impl Header {
    fn words(&self) -> [u64; HEADER_CRC_AT] {
        let [session_0, session_1] = self.session.words();
        let [w0, w1, w2, w3, w4, w5, w6, w7, w8] = self.witness.words();
        let version = VERSION | self.slots << 32;
        [
            MAGIC, version, session_0, session_1, w0, w1, w2, w3, w4, w5, w6, w7, w8,
        ]
    }

    /// Takes away the mark of a journal, so that nobody believes one half made.
    pub(super) fn clear(memory: &dyn JournalMemory) {
        memory.store(MAGIC_AT, 0);
    }

    /// Writes the header; the magic is its last word.
    pub(super) fn store(&self, memory: &dyn JournalMemory) {
        let words = self.words();
        for (at, word) in words.into_iter().enumerate().skip(1) {
            memory.store(at, word);
        }
        memory.store(HEADER_CRC_AT, u64::from(crc32(words)));
        memory.store(MAGIC_AT, MAGIC);
    }

    pub(super) fn load(memory: &dyn JournalMemory) -> Result<Self, BadHeader> {
        match memory.load(MAGIC_AT) {
            MAGIC => {}
            0 => return Err(BadHeader::NotBegun),
            _ => return Err(BadHeader::Damaged("it does not begin as a journal does")),
        }
        let version = memory.load(VERSION_AT);
        if low(version) != VERSION {
            return Err(BadHeader::Damaged("it is of another version"));
        }
        let header = Self {
            session: Session::from_words([memory.load(SESSION_AT), memory.load(SESSION_AT + 1)]),
            witness: Witness::from_words(std::array::from_fn(|n| memory.load(WITNESS_AT + n))),
            slots: u64::from(high(version)),
        };
        if memory.load(HEADER_CRC_AT) != u64::from(crc32(header.words())) {
            return Err(BadHeader::Damaged("its header is damaged"));
        }
        if header.slots != slots_in(memory.len_words()) {
            return Err(BadHeader::Damaged("it is not as long as it says"));
        }
        Ok(header)
    }
}

/// Which slots count, and behind how many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// 1 and up; the newer one of two counts. It is written to place `sequence % 2`.
    pub(super) sequence: u64,
    pub(super) base: Base,
    /// The epoch of each segment's slots.
    pub(super) epochs: [u64; 2],
    pub(super) is_latched: bool,
}

const CHECKPOINT_WORDS: usize = 6;

impl Checkpoint {
    fn words(&self) -> [u64; CHECKPOINT_WORDS - 1] {
        let [epoch_0, epoch_1] = self.epochs;
        let crc_and_latch = u64::from(self.base.area_crc32) | u64::from(self.is_latched) << 32;
        [
            self.sequence,
            self.base.committed,
            crc_and_latch,
            epoch_0,
            epoch_1,
        ]
    }

    fn crc32(&self, session: Session) -> u32 {
        let [session_0, session_1] = session.words();
        let [w0, w1, w2, w3, w4] = self.words();
        crc32([session_0, session_1, w0, w1, w2, w3, w4])
    }

    /// Writes it, over the older one of the two.
    pub(super) fn store(&self, memory: &dyn JournalMemory, session: Session) {
        let [even, odd] = CHECKPOINTS_AT;
        let place = if self.sequence.is_multiple_of(2) {
            even
        } else {
            odd
        };
        for (n, word) in self.words().into_iter().enumerate() {
            memory.store(place + n, word);
        }
        let sum = u64::from(self.crc32(session));
        memory.store(place + CHECKPOINT_WORDS - 1, sum);
    }

    /// The newer one of the whole ones.
    pub(super) fn load(memory: &dyn JournalMemory, session: Session) -> Option<Self> {
        CHECKPOINTS_AT
            .into_iter()
            .filter_map(|place| Self::load_from(memory, session, place))
            .max_by_key(|checkpoint| checkpoint.sequence)
    }

    fn load_from(memory: &dyn JournalMemory, session: Session, place: usize) -> Option<Self> {
        let word = |n| memory.load(place + n);
        let crc_and_latch = word(2);
        let found = Self {
            sequence: word(0),
            base: Base {
                committed: word(1),
                area_crc32: u32::try_from(low(crc_and_latch)).unwrap_or(0),
            },
            epochs: [word(3), word(4)],
            is_latched: high(crc_and_latch) != 0,
        };
        (word(CHECKPOINT_WORDS - 1) == u64::from(found.crc32(session))).then_some(found)
    }
}

/// Where a note lies and when it was made: what its checksum covers besides the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotAddress {
    pub(super) session: Session,
    pub(super) epoch: u64,
    /// Counted over both segments.
    pub(super) slot: u64,
}

impl SlotAddress {
    fn crc32(self, run: Run) -> u32 {
        let [session_0, session_1] = self.session.words();
        crc32([
            session_0,
            session_1,
            self.epoch,
            self.slot,
            run.first_old.0,
            run.first_new.0,
            run.count,
        ])
    }

    fn first_word(self) -> usize {
        to_usize(self.slot)
            .saturating_mul(SLOT_WORDS)
            .saturating_add(SLOTS_AT)
    }

    /// Writes a note. The word with the checksum is the last.
    pub(super) fn store(self, memory: &dyn JournalMemory, run: Run) {
        let at = self.first_word();
        memory.store(at, run.first_old.0);
        memory.store(at + 1, run.first_new.0);
        memory.store(at + 2, run.count | u64::from(self.crc32(run)) << 32);
    }

    /// The note that lies here, if it was made in this session and epoch.
    pub(super) fn load(self, memory: &dyn JournalMemory) -> Option<Run> {
        let at = self.first_word();
        let last = memory.load(at.saturating_add(2));
        let run = Run {
            first_old: OldChunk(memory.load(at)),
            first_new: NewChunk(memory.load(at.saturating_add(1))),
            count: low(last),
        };
        (run.count > 0 && high(last) == self.crc32(run)).then_some(run)
    }
}
