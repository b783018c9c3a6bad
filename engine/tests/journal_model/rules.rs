//! What is explored, and by which rules.

/// One write of one writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) old: u8,
    /// 1 to 6; 0 is the origin's, 7 is nobody's.
    pub(crate) value: u8,
}

/// Where a new journal begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// In a new file; the old one is removed.
    NewFile,
    /// In the memory of the old one, which is not wiped.
    SameMemory,
}

/// Who does what, and how often things go wrong.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// The writers of the first life, one write each, all at once.
    pub(crate) first_life: Vec<Write>,
    /// Those of each life after a kill.
    pub(crate) later_lives: Vec<Write>,
    pub(crate) slots: u8,
    /// How many commits are begun in the first life, and in each later one.
    pub(crate) commits: u8,
    pub(crate) commits_later: u8,
    /// How many writes of a chunk fail, in all lives together.
    pub(crate) failing_writes: u8,
    /// How many writes of a commit find no space.
    pub(crate) commits_without_space: u8,
    /// How often the store is opened after a kill.
    pub(crate) opens: u8,
    /// How often somebody else writes between a kill and an open, leaving the entries alone.
    pub(crate) foreign_writes: u8,
    /// How often somebody else adds or changes an entry there.
    pub(crate) foreign_entries: u8,
    /// How often a chunk is lost between a kill and an open, as a failed writeback loses it.
    pub(crate) lost_chunks: u8,
    pub(crate) room: Room,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            first_life: vec![],
            later_lives: vec![],
            slots: 1,
            commits: 1,
            commits_later: 0,
            failing_writes: 0,
            commits_without_space: 0,
            opens: 1,
            foreign_writes: 0,
            foreign_entries: 0,
            lost_chunks: 0,
            room: Room::NewFile,
        }
    }
}

/// The rules. All of them: the design.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// An exception is noted before it is published and the write acknowledged.
    pub(crate) note_before_publish: bool,
    /// A chunk is written before it is noted.
    pub(crate) data_before_note: bool,
    /// A writer takes its credit before its number, so it never waits holding one.
    pub(crate) credit_before_number: bool,
    /// A note is made only with a credit; otherwise the oldest slot is used again.
    pub(crate) note_needs_credit: bool,
    /// The batch and the segment are sealed in one step.
    pub(crate) seal_is_exact: bool,
    /// A segment is retired behind the commit's last write.
    pub(crate) retire_is_last: bool,
    /// A commit that found no space keeps its segment sealed and comes first.
    pub(crate) kept_stays_sealed: bool,
    /// There are two checkpoints, written in turn.
    pub(crate) two_checkpoints: bool,
    pub(crate) crc_covers_epoch: bool,
    pub(crate) crc_covers_session: bool,
    /// Notes are stored behind the lock. If not, a slot is taken there and filled outside...
    pub(crate) note_under_lock: bool,
    /// ...and then a seal must wait until the slots are filled...
    pub(crate) seal_waits_for_notes: bool,
    /// ...and a reader must skip a slot that isn't.
    pub(crate) skips_bad_slots: bool,
    /// Entries behind the base are believed if each was noted, not only if there are none.
    pub(crate) believes_superset: bool,
    pub(crate) base_checksum_fits: bool,
    pub(crate) modification_time_fits: bool,
    /// The data is synced, and so proved, before it is replayed.
    pub(crate) proves_data: bool,
    /// The new session goes to the device behind the replay.
    pub(crate) session_after_replay: bool,
    /// The old journal is removed last.
    pub(crate) old_journal_last: bool,
    /// A header is the last that a new journal gets.
    pub(crate) header_last: bool,
}

impl Rules {
    pub(crate) fn all() -> Self {
        Self {
            note_before_publish: true,
            data_before_note: true,
            credit_before_number: true,
            note_needs_credit: true,
            seal_is_exact: true,
            retire_is_last: true,
            kept_stays_sealed: true,
            two_checkpoints: true,
            crc_covers_epoch: true,
            crc_covers_session: true,
            note_under_lock: true,
            seal_waits_for_notes: true,
            skips_bad_slots: true,
            believes_superset: true,
            base_checksum_fits: true,
            modification_time_fits: true,
            proves_data: true,
            session_after_replay: true,
            old_journal_last: true,
            header_last: true,
        }
    }
}
