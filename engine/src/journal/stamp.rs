//! When the COW file was last written by us, so that its modification time tells of others.
//!
//! Before a call that changes the file the time goes to `last` (and what was there to
//! `previous`); when a write has succeeded, `done` is the time at which it began. So a file that
//! nobody else wrote was modified between `done` and `last`. `under way` counts the calls that had
//! not returned: they may modify the file even after the process was killed, when they get the
//! file's lock at last.
//!
//! All of this costs a clock read without a system call and, per tick of that clock, a few stores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use super::layout::{DONE_STAMP_AT, LAST_STAMP_AT, PREVIOUS_STAMP_AT, UNDER_WAY_AT};
use super::memory::JournalMemory;

/// A clock that goes back by less is another thread that read it earlier; by more, somebody set it.
const CLOCK_SET_NS: u64 = 1_000_000_000;

/// The stamps of a journal, shared with the device.
pub(crate) struct Stamp {
    memory: Arc<dyn JournalMemory>,
    last: AtomicU64,
    done: AtomicU64,
    change: Mutex<()>,
}

impl Stamp {
    /// Stamps of a journal that begins: the file was last modified at `modified_ns`.
    pub(super) fn begin(memory: Arc<dyn JournalMemory>, modified_ns: u64) -> Self {
        memory.store(LAST_STAMP_AT, modified_ns);
        memory.store(PREVIOUS_STAMP_AT, modified_ns);
        memory.store(DONE_STAMP_AT, 0);
        memory.store(UNDER_WAY_AT, 0);
        Self::resume(memory)
    }

    /// Stamps of a journal that was found. Calls of the process before count as under way for good.
    pub(super) fn resume(memory: Arc<dyn JournalMemory>) -> Self {
        Self {
            last: AtomicU64::new(memory.load(LAST_STAMP_AT)),
            done: AtomicU64::new(memory.load(DONE_STAMP_AT)),
            change: Mutex::new(()),
            memory,
        }
    }

    /// Says that the COW file is about to be modified. Better: [`Self::during_write`].
    #[cfg(test)]
    pub(crate) fn now(&self) {
        self.begin_call(clock_ns());
    }

    /// Stamps around a call that writes to the COW file: if it succeeds, the file was modified.
    #[inline]
    pub(crate) fn during_write<T, E>(&self, call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.around(|now| {
            let result = call();
            if result.is_ok() && self.done.load(Ordering::Relaxed) != now {
                self.change(&self.done, now, |_| self.memory.store(DONE_STAMP_AT, now));
            }
            result
        })
    }

    /// Stamps around a call that may modify the COW file: punching holes and allocating succeed
    /// without, depending on the filesystem and on what is there.
    #[inline]
    pub(crate) fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        self.around(|_| call())
    }

    #[inline]
    fn around<T>(&self, call: impl FnOnce(u64) -> T) -> T {
        let now = clock_ns();
        // Counted in the journal itself: a copy of a count kept elsewhere could be an older one.
        self.memory.add(UNDER_WAY_AT, 1);
        self.begin_call(now);
        let result = call(now);
        self.memory.add(UNDER_WAY_AT, -1);
        result
    }

    #[inline]
    fn begin_call(&self, now: u64) {
        if self.last.load(Ordering::Relaxed) != now {
            self.change(&self.last, now, |before| {
                self.memory.store(PREVIOUS_STAMP_AT, before);
                self.memory.store(LAST_STAMP_AT, now);
            });
        }
    }

    #[cold]
    fn change(&self, stamp: &AtomicU64, now: u64, store: impl FnOnce(u64)) {
        let _one_at_a_time = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let before = stamp.load(Ordering::Relaxed);
        if now > before || before - now > CLOCK_SET_NS {
            store(before);
            stamp.store(now, Ordering::Relaxed);
        }
    }
}

/// The clock that files are stamped with, in nanoseconds.
#[inline]
fn clock_ns() -> u64 {
    let time = clock_gettime(ClockId::RealtimeCoarse);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// The stamps as they were left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamped {
    last_ns: u64,
    previous_ns: u64,
    done_ns: u64,
    was_under_way: bool,
}

/// The file's clock may be that much behind the one we read (another CPU's tick; 4.5 ms at the most
/// were measured on ext4 and tmpfs).
const BEHIND_NS: u64 = 20_000_000;
/// A call may be that much later than its stamp: it is scheduled, it waits for the file's lock.
const AHEAD_NS: u64 = 250_000_000;
/// Calls that were under way when the process was killed get the file's lock one after the other,
/// and each may be held up by the kernel for a fifth of a second where pages are written too fast.
const AHEAD_UNDER_WAY_NS: u64 = 5_000_000_000;
/// Some filesystems keep whole seconds (ext4 with inodes of 128 bytes), or even ones (vfat): the
/// file was modified at most so long after what they say.
const GRAIN_NS: u64 = 2_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

impl Stamped {
    pub(super) fn load(memory: &dyn JournalMemory) -> Self {
        Self {
            last_ns: memory.load(LAST_STAMP_AT),
            previous_ns: memory.load(PREVIOUS_STAMP_AT),
            done_ns: memory.load(DONE_STAMP_AT),
            was_under_way: memory.load(UNDER_WAY_AT) != 0,
        }
    }

    /// Whether a file modified at `modified_ns` may have been modified by us alone.
    pub(super) fn fits(self, modified_ns: u64) -> bool {
        let ahead = if self.was_under_way {
            AHEAD_UNDER_WAY_NS
        } else {
            AHEAD_NS
        };
        let grain = if modified_ns.is_multiple_of(SECOND_NS) {
            GRAIN_NS
        } else {
            0
        };
        let latest_ns = modified_ns.saturating_add(grain);
        let near = |from: u64, to: u64, ahead: u64| {
            from.saturating_sub(BEHIND_NS) <= latest_ns && modified_ns <= to.saturating_add(ahead)
        };
        let from = if self.done_ns == 0 {
            self.last_ns
        } else {
            self.done_ns.min(self.last_ns)
        };
        near(from, self.last_ns, ahead) || near(self.previous_ns, self.previous_ns, AHEAD_NS)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::{Stamp, Stamped, UNDER_WAY_AT, clock_ns};
    use crate::journal::memory::{HeapMemory, JournalMemory};

    const MS: u64 = 1_000_000;

    fn stamped(previous_ms: u64, done_ms: u64, last_ms: u64, was_under_way: bool) -> Stamped {
        Stamped {
            last_ns: last_ms * MS,
            previous_ns: previous_ms * MS,
            done_ns: done_ms * MS,
            was_under_way,
        }
    }

    #[test]
    fn a_file_is_ours_if_it_was_modified_between_what_is_done_and_what_was_begun() {
        let fits = |at_ms: u64| stamped(9001, 9001, 10_001, false).fits(at_ms * MS);
        assert!([8982, 9001, 9500, 10_001, 10_250].into_iter().all(fits));
        assert!(![0, 8980, 10_252, 20_000].into_iter().any(fits));
    }

    #[test]
    fn without_a_call_that_is_done_only_the_two_stamps_count() {
        let fits = |at_ms: u64| stamped(9000, 0, 10_000, false).fits(at_ms * MS);
        assert!([8981, 9000, 9249, 9981, 10_249].into_iter().all(fits));
        assert!(![8979, 9251, 9979, 10_251].into_iter().any(fits));
    }

    #[test]
    fn what_was_under_way_may_come_later_but_not_at_any_time() {
        let fits = |at_ms: u64| stamped(9000, 9000, 10_000, true).fits(at_ms * MS);
        assert!([9000, 10_251, 14_999].into_iter().all(fits));
        assert!(![8979, 15_001].into_iter().any(fits));
    }

    #[test]
    fn a_call_is_stamped_before_and_after_and_a_failed_one_only_before() {
        let memory: Arc<dyn JournalMemory> = Arc::new(HeapMemory::zeros(40));
        let stamp = Stamp::begin(Arc::clone(&memory), 5);
        let seen = Stamped::load(&*memory);
        assert!(seen.fits(5) && !seen.fits(clock_ns()));
        let from = clock_ns();
        let inside: Result<Stamped, ()> = stamp.during_write(|| Ok(Stamped::load(&*memory)));
        let inside = inside.unwrap();
        assert!(inside.was_under_way && inside.last_ns >= from);
        assert_eq!((inside.previous_ns, inside.done_ns), (5, 0));
        let after = Stamped::load(&*memory);
        assert!(!after.was_under_way);
        assert_eq!(after.done_ns, after.last_ns);
        while clock_ns() == after.last_ns {
            std::hint::spin_loop();
        }
        let failed: Result<(), ()> = stamp.during_write(|| Err(()));
        assert!(failed.is_err());
        let last = Stamped::load(&*memory);
        assert_eq!(last.done_ns, after.done_ns);
        assert_eq!(last.previous_ns, after.last_ns);
        assert!(last.last_ns > after.last_ns);
    }

    #[test]
    fn what_may_have_changed_nothing_moves_only_the_end() {
        let memory: Arc<dyn JournalMemory> = Arc::new(HeapMemory::zeros(40));
        let stamp = Stamp::begin(Arc::clone(&memory), 0);
        let written: Result<(), ()> = stamp.during_write(|| Ok(()));
        assert!(written.is_ok());
        let at = Stamped::load(&*memory).done_ns;
        // TRIM on a filesystem without holes.
        for _ in 0..30 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            stamp.during(|| ());
        }
        let left = Stamped::load(&*memory);
        assert!(left.previous_ns > at + super::AHEAD_NS);
        assert!(left.fits(at + 1));
        assert!(!left.fits(at - super::BEHIND_NS - 2_000_000_000));
    }

    #[test]
    fn a_filesystem_of_whole_seconds_is_told_from_somebody_else() {
        let fits = |at_ms: u64| stamped(10_900, 10_900, 10_950, false).fits(at_ms * MS);
        assert!([10_000, 9000, 11_000].into_iter().all(fits));
        assert!(![8000, 10_001, 10_879, 12_000].into_iter().any(fits));
    }

    /// Begins another call at the moment when the last one is about to say that none is under way.
    struct Overlapping {
        words: HeapMemory,
        other: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    }

    impl Overlapping {
        fn begin_other(&self) {
            let other = self.other.lock().unwrap().take();
            other.into_iter().for_each(|begin| begin());
        }
    }

    impl JournalMemory for Overlapping {
        fn len_words(&self) -> usize {
            self.words.len_words()
        }

        fn load(&self, index: usize) -> u64 {
            self.words.load(index)
        }

        fn store(&self, index: usize, value: u64) {
            if index == UNDER_WAY_AT && value == 0 {
                self.begin_other();
            }
            self.words.store(index, value);
        }

        fn add(&self, index: usize, change: i64) {
            if change < 0 {
                self.begin_other();
            }
            self.words.add(index, change);
        }
    }

    #[test]
    fn a_call_that_begins_as_the_last_one_ends_is_under_way() {
        let memory = Arc::new(Overlapping {
            words: HeapMemory::zeros(40),
            other: Mutex::default(),
        });
        let stamp = Arc::new(Stamp::begin(
            Arc::clone(&memory) as Arc<dyn JournalMemory>,
            0,
        ));
        let (end, ends) = mpsc::channel::<()>();
        let other_stamp = Arc::clone(&stamp);
        let begin = move || {
            let (begin, begins) = mpsc::channel();
            std::thread::spawn(move || {
                other_stamp.during(|| {
                    begin.send(()).unwrap();
                    let _until_dropped = ends.recv();
                });
            });
            begins.recv().unwrap();
        };
        *memory.other.lock().unwrap() = Some(Box::new(begin));
        stamp.during(|| ());
        assert!(Stamped::load(&*memory).was_under_way);
        drop(end);
        let start = std::time::Instant::now();
        while Stamped::load(&*memory).was_under_way {
            assert!(start.elapsed().as_secs() < 10, "the other one never ends");
            std::thread::yield_now();
        }
    }
}
