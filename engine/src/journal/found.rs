//! A journal that a process left behind.

use std::sync::Arc;

use super::layout::{BadHeader, Checkpoint, Header, SlotAddress};
use super::memory::JournalMemory;
use super::stamp::{Stamp, Stamped};
use super::witness::Witness;
use super::{Base, Run, Session};

/// A journal that was found and is whole: header and a checkpoint.
pub(crate) struct Found {
    memory: Arc<dyn JournalMemory>,
    pub(super) witness: Witness,
    pub(super) stamped: Stamped,
    /// The session that wrote it.
    pub(crate) session: Session,
    /// What was committed when its notes began.
    pub(crate) base: Base,
    /// What was noted and not retired, in the order of the slots.
    pub(crate) runs: Vec<Run>,
    /// A sync had failed: the page cache is not to be trusted.
    pub(crate) is_latched: bool,
}

/// What of a journal the store is compared with.
#[derive(Clone, Copy)]
pub(crate) struct Notes<'a> {
    /// How many entries were committed when its notes began.
    pub(crate) base: u64,
    /// What was noted and not retired.
    pub(crate) runs: &'a [Run],
}

/// Why a journal can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It was being made: nothing was ever noted in it, nothing is lost with it.
    NotBegun,
    /// A sentence without its beginning: `it ...`.
    Damaged(String),
}

impl Found {
    /// Reads a journal. A slot that is not whole is skipped: its run was never published.
    ///
    /// # Errors
    /// Says why it can't be read.
    pub(crate) fn read(memory: Arc<dyn JournalMemory>) -> Result<Self, Unreadable> {
        let header = Header::load(&*memory).map_err(|bad| match bad {
            BadHeader::NotBegun => Unreadable::NotBegun,
            BadHeader::Damaged(why) => Unreadable::Damaged(why.to_owned()),
        })?;
        let session = header.session;
        let Some(checkpoint) = Checkpoint::load(&*memory, session) else {
            return Err(Unreadable::Damaged(
                "it has no checkpoint that is whole".to_owned(),
            ));
        };
        let mut runs = Vec::new();
        for (epoch, first_slot) in checkpoint.epochs.into_iter().zip([0, header.slots]) {
            for slot in first_slot..first_slot + header.slots {
                let address = SlotAddress {
                    session,
                    epoch,
                    slot,
                };
                runs.extend(address.load(&*memory));
            }
        }
        Ok(Self {
            witness: header.witness,
            stamped: Stamped::load(&*memory),
            session,
            base: checkpoint.base,
            runs,
            is_latched: checkpoint.is_latched,
            memory,
        })
    }

    /// What the store is compared with.
    pub(crate) fn notes(&self) -> Notes<'_> {
        Notes {
            base: self.base.committed,
            runs: &self.runs,
        }
    }

    /// The stamps, to go on with while this journal still counts.
    pub(crate) fn stamp(&self) -> Arc<Stamp> {
        Arc::new(Stamp::resume(Arc::clone(&self.memory)))
    }

    /// Whether it was written for this very COW device, and not for one that this is a copy of.
    pub(crate) fn is_for(&self, now: &Witness) -> bool {
        let of = |witness: &Witness| (witness.device, witness.inode, witness.is_block);
        of(&self.witness) == of(now)
    }

    /// Whether it is of the running system, though under another boot id.
    pub(crate) fn is_of_same_start(&self, now: &Witness) -> bool {
        now.is_of_same_start(&self.witness)
    }

    /// Whether only this COW device can have left it behind, in whatever boot: nobody uses it.
    pub(crate) fn is_left_by(&self, now: &Witness) -> bool {
        now.has_left(&self.witness)
    }

    /// How many exceptions it has, committed since or not.
    pub(crate) fn exceptions_noted(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Poisons it: a sync failed when what it notes was to be proved.
    pub(crate) fn latch(&self) {
        if let Some(mut checkpoint) = Checkpoint::load(&*self.memory, self.session) {
            checkpoint.sequence = checkpoint.sequence.saturating_add(1);
            checkpoint.is_latched = true;
            checkpoint.store(&*self.memory, self.session);
        }
    }
}
