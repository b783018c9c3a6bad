//! The persistent store: exceptions kept in the kernel's format, committed in groups.
//!
//! An exception is *pending* (its number is taken, its data is being written), then *written*
//! (here, in `State::written`), then *committed* (durable in an area). A commit has one leader;
//! everyone who asks meanwhile waits for its result or for the next one:
//! - An epoch is one commit. Sealing takes all written exceptions and gives the epoch its number.
//!   What a commit took that found no space comes first in the next epoch, by itself (`lead.rs`).
//! - Whoever wants durability waits for the first epoch sealed *after* asking: only that one is
//!   known to cover all that was written before.
//! - An epoch that ends well makes every earlier one durable too, since a failed epoch's
//!   exceptions come first in the next one.
//!
//! Lock order: `area`, which the leader alone takes, then `state`; nothing is taken with `state`.
//! No lock that a reader or writer takes is held across I/O, but by writers that find the device
//! full, while one of them makes it longer (`room.rs`); that lock comes before `state`.

mod ahead;
mod allocate;
pub(crate) mod behind;
mod bulk;
pub(crate) mod commit;
pub(crate) mod create;
mod lead;
pub(crate) mod leftover;
pub(crate) mod open;
mod plan;
mod room;
mod rules;
mod settle;
pub(crate) mod walk;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use usnap_format::{AreaIndex, Exception, Layout, NewChunk, OldChunk, Usage};

use self::allocate::{Allocator, Take};
use self::commit::CurrentArea;
use self::open::Loaded;
use self::room::Room;
use super::{ExceptionCounts, ExceptionStore, NewRun};
use crate::device::{BlockDevice, LatchedDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journal;
use crate::space::{Space, SpaceAlarm};

/// So many exceptions wait for a commit at the most; the writer of the next one commits.
const UNCOMMITTED_MAX: usize = 1 << 18;
/// So many wait where commits find no space; then no chunk is taken before one succeeds.
const KEPT_AND_WRITTEN_MAX: usize = 2 * UNCOMMITTED_MAX;

/// The persistent store.
pub(crate) struct PersistentStore {
    device: Arc<LatchedDevice>,
    layout: Layout,
    state: Mutex<State>,
    epoch_done: Condvar,
    /// Chunks or exceptions were written that no seal has covered. True at open: what an earlier
    /// process wrote may be only in the page cache (DESIGN.md, "Flush and groups").
    dirty: AtomicBool,
    area: Mutex<CurrentArea>,
    /// What commits wrote so far; as the leader noted it.
    metadata_bytes: AtomicU64,
    /// Old chunks whose exceptions were not committed when the store was latched.
    lost: OnceLock<HashSet<u64>>,
    room: Room,
    /// Exceptions of a journal that a read-only open shows and does not commit.
    shown_uncommitted: u64,
}

struct State {
    allocator: Allocator,
    /// How often a look at the device's size changed what is known of it.
    looks: u64,
    /// Exceptions of a commit that found no space: first in the next one, in this order.
    kept: Vec<Exception>,
    written: Vec<Exception>,
    committed: u64,
    in_commit: u64,
    current_area: AreaIndex,
    next_epoch: u64,
    done_epoch: u64,
    durable_epoch: u64,
    is_committing: bool,
    failure: Option<(ErrorKind, String)>,
    /// Notes what is in `written` and in `kept`, or in a commit under way.
    journal: Option<Journal>,
}

/// What is to be durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The exceptions, with the data that they had when they were recorded.
    Exceptions,
    /// Those, and what was written to mapped chunks.
    Everything,
}

impl PersistentStore {
    /// The store that was loaded from `device`; a writable one has been settled. `journal` begins
    /// behind what is committed now.
    pub(crate) fn new(
        device: Arc<LatchedDevice>,
        loaded: Loaded,
        read_only: bool,
        journal: Option<Journal>,
    ) -> Self {
        let layout = loaded.layout;
        let device_chunks = layout.chunk_size.whole_chunks(device.size_bytes());
        let mut allocator = Allocator::new(
            layout,
            loaded.next_free(),
            loaded.committed + loaded.uncommitted,
            device_chunks,
        );
        if device.needs_reservation() {
            allocator.reserve_ahead();
        }
        Self {
            layout,
            state: Mutex::new(State {
                allocator,
                looks: 0,
                kept: Vec::new(),
                written: Vec::new(),
                committed: loaded.committed,
                in_commit: 0,
                current_area: loaded.area.position.area,
                next_epoch: 1,
                done_epoch: 0,
                durable_epoch: 0,
                is_committing: false,
                failure: None,
                journal,
            }),
            epoch_done: Condvar::new(),
            dirty: AtomicBool::new(!read_only),
            area: Mutex::new(loaded.area),
            metadata_bytes: AtomicU64::new(0),
            lost: OnceLock::new(),
            room: Room::default(),
            shown_uncommitted: loaded.uncommitted,
            device,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the first epoch that covers what is wanted of now, leading it where nobody does.
    fn commit(&self, wanted: Wanted) -> Result<()> {
        if let Err(refusal) = self.device.refuse_if_latched() {
            let context = format!("cannot flush COW device {}", self.device.name());
            return Err(refusal.context(context));
        }
        let mut state = self.state();
        let is_dirty = (wanted == Wanted::Everything && self.dirty.load(Ordering::SeqCst))
            || !state.written.is_empty()
            || !state.kept.is_empty();
        let target = if is_dirty {
            state.next_epoch
        } else if state.is_committing {
            // All of ours is sealed in the commit under way.
            state.next_epoch - 1
        } else {
            return Ok(());
        };
        loop {
            if state.durable_epoch >= target {
                return Ok(());
            }
            if state.done_epoch >= target {
                let (kind, cause) = state
                    .failure
                    .clone()
                    .unwrap_or((ErrorKind::Io, "no reason is known".to_owned()));
                let context = format!("cannot flush COW device {}: {cause}", self.device.name());
                return Err(Error::new(kind, context));
            }
            state = if state.is_committing {
                self.epoch_done
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner)
            } else {
                self.lead(state)
            };
        }
    }

    /// Makes room for one more exception, in memory and in the journal, by a commit.
    #[cold]
    fn make_room(&self) -> Result<()> {
        self.flush()?;
        // Where every note is promised to a writer at work, there was nothing to commit.
        std::thread::yield_now();
        Ok(())
    }
}

impl ExceptionStore for PersistentStore {
    fn prepare_exceptions(&self, max_count: u64) -> Result<NewRun> {
        loop {
            let (taken, entries_taken, known_chunks) = {
                let mut state = self.state();
                // The room for the note comes first: a writer that waits for a commit holds no
                // number meanwhile (DESIGN.md, "The journal").
                let waiting = state.kept.len() + state.written.len();
                if waiting >= KEPT_AND_WRITTEN_MAX || !take_credit(&mut state) {
                    drop(state);
                    self.make_room()?;
                    continue;
                }
                let taken = state.allocator.take(max_count);
                if !matches!(taken, Take::Run(_)) {
                    give_back_credit(&mut state);
                }
                let allocator = &state.allocator;
                (taken, allocator.entries_taken(), allocator.device_chunks())
            };
            match taken {
                Take::Run(run) => {
                    self.room.alarm.taken(entries_taken);
                    return Ok(run);
                }
                other => self.find_room(other, known_chunks)?,
            }
        }
    }

    fn abort_exceptions(&self, run: NewRun) {
        let mut state = self.state();
        state.allocator.give_back(run);
        give_back_credit(&mut state);
    }

    fn commit_exceptions(&self, first: OldChunk, run: NewRun) -> Result<()> {
        let mut state = self.state();
        self.device.refuse_if_latched()?;
        if let Some(journal) = &mut state.journal {
            journal.note(first, run);
        }
        state.written.extend((0..run.count).map(|i| Exception {
            old_chunk: OldChunk(first.0 + i),
            new_chunk: NewChunk(run.first.0 + i),
        }));
        let too_many = state.written.len() >= UNCOMMITTED_MAX;
        drop(state);
        self.mark_dirty();
        if too_many {
            // The write itself is done; whoever flushes hears of a failure.
            let _for_flush = self.flush();
        }
        Ok(())
    }

    #[inline]
    fn mark_dirty(&self) {
        // A load first: the flag is nearly always set, and a store would take the cache line from
        // the other threads. SeqCst pairs with the seal: if this load is before it, the write that
        // came before this call is covered by the commit's first sync.
        if !self.dirty.load(Ordering::SeqCst) {
            self.dirty.store(true, Ordering::SeqCst);
        }
    }

    fn flush(&self) -> Result<()> {
        self.commit(Wanted::Everything)
    }

    fn commit_recorded(&self) -> Result<()> {
        self.commit(Wanted::Exceptions)
    }

    fn shut(&self, cause: &Error) {
        self.device.latch(cause);
    }

    fn commit_pending(&self) -> Result<bool> {
        self.look_at_size();
        let pending = {
            let state = self.state();
            !state.written.is_empty() || !state.kept.is_empty()
        };
        if pending {
            self.flush()?;
        }
        Ok(pending)
    }

    fn close(&self) -> Result<()> {
        let state = self.state();
        if state.written.is_empty() && state.kept.is_empty() && !state.is_committing {
            // Under the lock, so that no exception is taken between the look and the end.
            self.device.close();
            return Ok(());
        }
        let context = format!(
            "cannot close COW device {}: it is still written to",
            self.device.name()
        );
        Err(Error::new(ErrorKind::Io, context))
    }

    fn device(&self) -> &dyn BlockDevice {
        &*self.device
    }

    fn usage(&self) -> Usage {
        let device_bytes = self.device.size_bytes();
        let state = self.state();
        Usage::persistent(
            self.layout,
            state.allocator.next_free(),
            state.current_area,
            device_bytes,
        )
    }

    fn counts(&self) -> ExceptionCounts {
        let limit_chunks = self.limit_chunks(self.look_at_size());
        let state = self.state();
        ExceptionCounts {
            committed: state.committed,
            uncommitted: (state.kept.len() + state.written.len()) as u64
                + state.in_commit
                + self.shown_uncommitted,
            free: state.allocator.free_within(limit_chunks),
        }
    }

    fn metadata_bytes(&self) -> u64 {
        self.metadata_bytes.load(Ordering::Relaxed)
    }

    fn latched(&self) -> Option<String> {
        self.device.latched().map(str::to_owned)
    }

    fn space(&self) -> Space {
        self.space_now()
    }

    fn alarm(&self) -> &Arc<SpaceAlarm> {
        &self.room.alarm
    }

    #[inline]
    fn is_gone(&self, offset: u64, len: u64) -> bool {
        self.room.is_gone(offset, len)
    }

    #[inline]
    fn is_lost(&self, old_chunk: OldChunk) -> bool {
        self.lost
            .get()
            .is_some_and(|lost| lost.contains(&old_chunk.0))
    }
}

/// Whether one more run may be noted; always, where there is no journal.
fn take_credit(state: &mut State) -> bool {
    state.journal.as_mut().is_none_or(Journal::take_credit)
}

fn give_back_credit(state: &mut State) {
    state.journal.iter_mut().for_each(Journal::give_back_credit);
}

/// How many exceptions fit behind `committed` entries and below the device's end.
pub(crate) fn free_behind(
    layout: Layout,
    next_free: NewChunk,
    committed: u64,
    device_chunks: u64,
) -> u64 {
    Allocator::new(layout, next_free, committed, device_chunks).free_within(device_chunks)
}
