//! The journal of a store in use. It lies behind the store's lock, so `&mut self` says that one
//! thread at a time is here; nothing here waits, allocates or calls the system.
//!
//! Invariants (DESIGN.md, "The journal"):
//! - Each exception that was noted and not retired is in a segment, in that segment's epoch.
//! - Slots in use and credits given out never exceed a segment.
//! - What is sealed is one whole segment; none of its slots is written until it is retired.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use usnap_format::OldChunk;

use super::layout::{Checkpoint, Header, SlotAddress, slots_in};
use super::memory::JournalMemory;
use super::stamp::Stamp;
use super::witness::Witness;
use super::{Base, Run, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::store::NewRun;

/// A segment that names so many chunks takes no more runs, whatever slots it has left: a replay
/// holds them all in memory.
pub(super) const SEGMENT_CHUNKS_MAX: u64 = 1 << 20;

/// The journal of a store in use.
pub(crate) struct Journal {
    memory: Arc<dyn JournalMemory>,
    stamp: Arc<Stamp>,
    session: Session,
    /// Slots of a segment.
    slots: u64,
    segments: [Segment; 2],
    /// The segment that notes go to; the other one is sealed or empty.
    active: Side,
    is_sealed: bool,
    /// Credits taken, neither used nor given back.
    credits: u64,
    next_epoch: u64,
    checkpoint: Checkpoint,
}

#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    used: u64,
    chunks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    First,
    Second,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    fn of<T>(self, pair: &mut [T; 2]) -> &mut T {
        let [first, second] = pair;
        match self {
            Self::First => first,
            Self::Second => second,
        }
    }
}

impl Journal {
    /// Formats `memory` and begins. The witness is to be taken behind the last modification of the
    /// COW file; from here on each one is stamped.
    ///
    /// # Errors
    /// `Usage` where the memory has no room for a note.
    pub(crate) fn begin(
        memory: Arc<dyn JournalMemory>,
        session: Session,
        witness: &Witness,
        base: Base,
    ) -> Result<Self> {
        let slots = slots_in(memory.len_words());
        if slots == 0 {
            let context = "cannot begin a journal: there is no room for a note";
            return Err(Error::new(ErrorKind::Usage, context));
        }
        Header::clear(&*memory);
        let modified_ns = witness.modified_ns.unwrap_or(0);
        let stamp = Arc::new(Stamp::begin(Arc::clone(&memory), modified_ns));
        let checkpoint = Checkpoint {
            sequence: 1,
            base,
            epochs: [1, 2],
            is_latched: false,
        };
        checkpoint.store(&*memory, session);
        let header = Header {
            session,
            witness: *witness,
            slots,
        };
        header.store(&*memory);
        Ok(Self {
            memory,
            stamp,
            session,
            slots,
            segments: [Segment::default(); 2],
            active: Side::First,
            is_sealed: false,
            credits: 0,
            next_epoch: 3,
            checkpoint,
        })
    }

    /// How many words a memory needs for so many slots in each segment.
    #[cfg(test)]
    pub(crate) fn words_for(slots: u64) -> usize {
        super::layout::words_for(slots)
    }

    /// Takes room for one note. False: commit first, then ask again.
    #[must_use]
    pub(crate) fn take_credit(&mut self) -> bool {
        let active = *self.active.of(&mut self.segments);
        let has_room =
            active.used + self.credits < self.slots && active.chunks < SEGMENT_CHUNKS_MAX;
        self.credits += u64::from(has_room);
        has_room
    }

    /// Gives back room that was taken and is not needed.
    pub(crate) fn give_back_credit(&mut self) {
        debug_assert!(self.credits > 0, "a credit was given back twice");
        self.credits = self.credits.saturating_sub(1);
    }

    /// Notes a run that is written, using up a credit. The note is complete when this returns, so
    /// the run may be published then.
    pub(crate) fn note(&mut self, first_old: OldChunk, run: NewRun) {
        let run = Run {
            first_old,
            first_new: run.first,
            count: run.count,
        };
        let epoch = *self.active.of(&mut self.checkpoint.epochs);
        let segment = self.active.of(&mut self.segments);
        if self.credits == 0 || segment.used >= self.slots || u32::try_from(run.count).is_err() {
            debug_assert!(false, "a run was noted without a credit, or it is too long");
            // A journal that misses a note is not to be believed.
            self.latch();
            return;
        }
        let first_slot = match self.active {
            Side::First => 0,
            Side::Second => self.slots,
        };
        let address = SlotAddress {
            session: self.session,
            epoch,
            slot: first_slot + segment.used,
        };
        segment.used += 1;
        segment.chunks += run.count;
        self.credits -= 1;
        address.store(&*self.memory, run);
        fence(Ordering::Release);
    }

    /// Makes what was noted so far a commit's batch; later notes go to the other segment. Does
    /// nothing while a batch is sealed: that one is committed first.
    pub(crate) fn seal(&mut self) {
        debug_assert!(!self.is_sealed, "sealed twice");
        if !self.is_sealed {
            self.is_sealed = true;
            self.active = self.active.other();
        }
    }

    /// Whether a batch is sealed and not retired.
    pub(crate) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// The sealed batch is durable, which makes `base` the new base: its slots count no more. Where
    /// nothing is sealed only the base changes.
    pub(crate) fn retire(&mut self, base: Base) {
        if self.is_sealed {
            let sealed = self.active.other();
            *sealed.of(&mut self.checkpoint.epochs) = self.next_epoch;
            *sealed.of(&mut self.segments) = Segment::default();
            self.next_epoch += 1;
            self.is_sealed = false;
        }
        self.checkpoint.base = base;
        self.write_checkpoint();
    }

    /// Poisons the journal: a sync has failed, and the page cache is not to be trusted any more.
    pub(crate) fn latch(&mut self) {
        self.checkpoint.is_latched = true;
        self.write_checkpoint();
    }

    /// The stamps, for the device.
    pub(crate) fn stamp(&self) -> Arc<Stamp> {
        Arc::clone(&self.stamp)
    }

    fn write_checkpoint(&mut self) {
        self.checkpoint.sequence += 1;
        self.checkpoint.store(&*self.memory, self.session);
        fence(Ordering::Release);
    }
}
