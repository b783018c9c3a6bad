//! A device whose calls fail where it is told to, or that runs out of space.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use usnap_format::SECTOR_SIZE;

use super::{CallKind, Dice, ask_below};
use crate::device::{Attempt, BlockDevice, RoomBelow, ZeroFlags, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

/// Which calls a fault looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Calls {
    /// All of them.
    Any,
    /// Those of one kind.
    Only(CallKind),
    /// Writes that begin in this range of bytes.
    WritesTo(Range<u64>),
}

impl Calls {
    fn includes(&self, kind: CallKind, offset: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Only(this) => *this == kind,
            Self::WritesTo(range) => kind == CallKind::Write && range.contains(&offset),
        }
    }
}

/// Which of the calls that a fault looks at fail.
#[derive(Clone, Debug)]
pub enum When {
    /// One: this many come before it.
    Nth(u64),
    /// So many in a thousand, chosen by the seed.
    Share {
        /// Which ones.
        seed: u64,
        /// How many.
        per_mille: u64,
    },
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it answers.
    pub kind: ErrorKind,
    /// Of a write (or zeroing), the first half of its sectors is done all the same.
    pub short: bool,
}

impl Failure {
    /// Nothing is done.
    #[must_use]
    pub fn whole(kind: ErrorKind) -> Self {
        Self { kind, short: false }
    }

    /// A write is done in part.
    #[must_use]
    pub fn short(kind: ErrorKind) -> Self {
        Self { kind, short: true }
    }
}

/// Calls that are to fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which calls count.
    pub calls: Calls,
    /// Which of them fail.
    pub when: When,
    /// How.
    pub failure: Failure,
}

impl Fault {
    /// One call fails: `nth` of those that count come before it.
    #[must_use]
    pub fn nth(calls: Calls, nth: u64, failure: Failure) -> Self {
        Self {
            calls,
            when: When::Nth(nth),
            failure,
        }
    }
}

struct Armed {
    fault: Fault,
    seen: u64,
    dice: Dice,
}

impl Armed {
    fn strikes(&mut self, kind: CallKind, offset: u64) -> bool {
        if !self.fault.calls.includes(kind, offset) {
            return false;
        }
        let seen = self.seen;
        self.seen += 1;
        match self.fault.when {
            When::Nth(nth) => seen == nth,
            When::Share { per_mille, .. } => self.dice.below(1000) < per_mille,
        }
    }
}

/// A filesystem's free space, as far as one file sees it.
struct Budget {
    left_bytes: u64,
    /// Sectors that have their space.
    allocated: HashSet<u64>,
}

#[derive(Default)]
struct State {
    armed: Option<Armed>,
    paused: bool,
    budget: Option<Budget>,
    calls: u64,
    /// The calls that failed, and where.
    met: Vec<(CallKind, u64)>,
}

/// A device that fails as it is told.
pub struct Flaky {
    below: Arc<dyn BlockDevice>,
    state: Mutex<State>,
    reservations_needed: AtomicBool,
}

impl Flaky {
    /// The same device, without a fault so far.
    #[must_use]
    pub fn new(below: Arc<dyn BlockDevice>) -> Self {
        Self {
            below,
            state: Mutex::default(),
            reservations_needed: AtomicBool::new(false),
        }
    }

    /// Says from now on that a write may miss its space later, unless it was reserved.
    pub fn need_reservations(&self) {
        self.reservations_needed.store(true, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets calls fail from now on; an earlier fault is forgotten.
    pub fn fail(&self, fault: Fault) {
        let seed = match fault.when {
            When::Share { seed, .. } => seed,
            When::Nth(_) => 0,
        };
        self.state().armed = Some(Armed {
            fault,
            seen: 0,
            dice: Dice::new(seed),
        });
    }

    /// Lets everything succeed again.
    pub fn mend(&self) {
        self.state().armed = None;
    }

    /// Does something that meets no fault and is not counted.
    pub fn without_fault<T>(&self, look: impl FnOnce() -> T) -> T {
        self.state().paused = true;
        let result = look();
        self.state().paused = false;
        result
    }

    /// How many calls have failed, for want of space as well.
    #[must_use]
    pub fn faults_met(&self) -> u64 {
        self.state().met.len() as u64
    }

    /// The calls that have failed, in order: which kind, and where it began (0 for a flush).
    #[must_use]
    pub fn failed_calls(&self) -> Vec<(CallKind, u64)> {
        self.state().met.clone()
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// From now on only so many bytes can be had for sectors that were never written or reserved.
    /// What the device below has allocated keeps its space.
    ///
    /// # Errors
    /// As `extent_at`.
    pub fn limit_space(&self, left_bytes: u64) -> Result<()> {
        let mut allocated = HashSet::new();
        let (mut at, end) = (0, self.below.size_bytes());
        while at < end {
            let extent = self.below.extent_at(at, end - at)?;
            if !extent.hole {
                allocated.extend(sectors(at, extent.len));
            }
            at += extent.len;
        }
        self.state().budget = Some(Budget {
            left_bytes,
            allocated,
        });
        Ok(())
    }

    /// Space was freed elsewhere.
    pub fn give_space(&self, bytes: u64) {
        if let Some(budget) = &mut self.state().budget {
            budget.left_bytes = budget.left_bytes.saturating_add(bytes);
        }
    }

    /// How many bytes can still be had, where space is limited.
    #[must_use]
    pub fn space_left(&self) -> Option<u64> {
        self.state().budget.as_ref().map(|budget| budget.left_bytes)
    }

    /// Whether this call fails.
    fn meet(&self, kind: CallKind, offset: u64) -> Option<Failure> {
        let mut state = self.state();
        if state.paused {
            return None;
        }
        state.calls += 1;
        let armed = state.armed.as_mut()?;
        if !armed.strikes(kind, offset) {
            return None;
        }
        let failure = armed.fault.failure;
        state.met.push((kind, offset));
        Some(failure)
    }

    fn refusal(&self, kind: ErrorKind, call: CallKind) -> Error {
        let name = self.below.name();
        Error::new(
            kind,
            format!("cannot do a {call:?} on {name}: it is made to fail"),
        )
    }

    /// Takes space for a range; how many bytes of it have theirs.
    fn allocate(&self, call: CallKind, offset: u64, len: u64) -> u64 {
        let mut state = self.state();
        let Some(budget) = &mut state.budget else {
            return len;
        };
        for sector in sectors(offset, len) {
            if budget.allocated.contains(&sector) {
                continue;
            }
            if budget.left_bytes < SECTOR_SIZE {
                state.met.push((call, offset));
                return (sector * SECTOR_SIZE).saturating_sub(offset);
            }
            budget.left_bytes -= SECTOR_SIZE;
            budget.allocated.insert(sector);
        }
        len
    }

    /// Gives back the space of the sectors that lie in a range as a whole.
    fn release(&self, offset: u64, len: u64) {
        if let Some(budget) = &mut self.state().budget {
            for sector in offset.div_ceil(SECTOR_SIZE)..(offset + len) / SECTOR_SIZE {
                if budget.allocated.remove(&sector) {
                    budget.left_bytes += SECTOR_SIZE;
                }
            }
        }
    }
}

fn sectors(offset: u64, len: u64) -> Range<u64> {
    offset / SECTOR_SIZE..(offset + len).div_ceil(SECTOR_SIZE)
}

/// How much of a range a short call does: the first half of its sectors.
fn half(offset: u64, len: u64) -> u64 {
    let range = sectors(offset, len);
    let middle = (range.start + (range.end - range.start) / 2) * SECTOR_SIZE;
    middle.saturating_sub(offset).min(len)
}

impl BlockDevice for Flaky {
    ask_below!(all but room);

    fn needs_reservation(&self) -> bool {
        self.reservations_needed.load(Ordering::Relaxed) || self.below.needs_reservation()
    }

    fn room_below(&self) -> Option<RoomBelow> {
        let state = self.state();
        let Some(budget) = &state.budget else {
            return self.below.room_below();
        };
        Some(RoomBelow {
            free_bytes: budget.left_bytes,
            allocated_bytes: budget.allocated.len() as u64 * SECTOR_SIZE,
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.meet(CallKind::Read, offset) {
            Some(failure) => Err(self.refusal(failure.kind, CallKind::Read)),
            None => self.below.read_at(buf, offset),
        }
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        match self.meet(CallKind::Read, offset) {
            Some(failure) => Err(self.refusal(failure.kind, CallKind::Read)),
            None => self.below.try_read_at(buf, offset),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let len = data.len() as u64;
        check_range(self.name(), self.size_bytes(), offset, len)?;
        let (done, kind) = match self.meet(CallKind::Write, offset) {
            Some(failure) if failure.short => (half(offset, len), failure.kind),
            Some(failure) => (0, failure.kind),
            None => (
                self.allocate(CallKind::Write, offset, len),
                ErrorKind::NoSpace,
            ),
        };
        let part = data.get(..to_usize(done)).unwrap_or(data);
        if !part.is_empty() {
            self.below.write_at(part, offset)?;
        }
        if done < len {
            return Err(self.refusal(kind, CallKind::Write));
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        match self.meet(CallKind::Flush, 0) {
            Some(failure) => Err(self.refusal(failure.kind, CallKind::Flush)),
            None => self.below.flush(),
        }
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        if let Some(failure) = self.meet(CallKind::Discard, offset) {
            return Err(self.refusal(failure.kind, CallKind::Discard));
        }
        self.below.discard_at(offset, len)?;
        self.release(offset, len);
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        check_range(self.name(), self.size_bytes(), offset, len)?;
        let (done, kind) = match self.meet(CallKind::Zero, offset) {
            Some(failure) if failure.short => (half(offset, len), failure.kind),
            Some(failure) => (0, failure.kind),
            None if flags.no_hole => (
                self.allocate(CallKind::Zero, offset, len),
                ErrorKind::NoSpace,
            ),
            None => (len, ErrorKind::NoSpace),
        };
        if done > 0 {
            self.below.zero_at(offset, done, flags)?;
        }
        if done < len {
            return Err(self.refusal(kind, CallKind::Zero));
        }
        if !flags.no_hole {
            self.release(offset, len);
        }
        Ok(())
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        if let Some(failure) = self.meet(CallKind::Reserve, offset) {
            return Err(self.refusal(failure.kind, CallKind::Reserve));
        }
        if self.allocate(CallKind::Reserve, offset, len) < len {
            return Err(self.refusal(ErrorKind::NoSpace, CallKind::Reserve));
        }
        self.below.reserve_at(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::{CallKind, Calls, Failure, Fault, Flaky, When};
    use crate::device::{BlockDevice, MemDevice, ZeroFlags};
    use crate::error::ErrorKind;
    use std::sync::Arc;

    fn flaky(sectors: u64) -> (Arc<MemDevice>, Flaky) {
        let memory = Arc::new(MemDevice::new(sectors * 512));
        (memory.clone(), Flaky::new(memory))
    }

    /// The first byte of each sector.
    fn firsts(memory: &MemDevice) -> Vec<u8> {
        memory
            .to_bytes()
            .chunks(512)
            .map(|sector| sector[0])
            .collect()
    }

    #[test]
    fn only_the_call_that_was_named_fails() {
        let (memory, device) = flaky(4);
        let calls = Calls::Only(CallKind::Write);
        device.fail(Fault::nth(calls, 1, Failure::whole(ErrorKind::Io)));
        device.write_at(&[1; 512], 0).unwrap();
        device.flush().unwrap();
        device.without_fault(|| device.write_at(&[2; 512], 512).unwrap());
        let error = device.write_at(&[3; 512], 512).unwrap_err();
        assert_eq!((error.kind(), device.faults_met()), (ErrorKind::Io, 1));
        device.write_at(&[4; 512], 1024).unwrap();
        assert_eq!(firsts(&memory), [1, 2, 4, 0]);
        device.fail(Fault::nth(Calls::Any, 0, Failure::whole(ErrorKind::Io)));
        device.mend();
        device.flush().unwrap();
    }

    #[test]
    fn a_short_write_does_the_first_half_of_its_sectors() {
        let (memory, device) = flaky(4);
        let short = Failure::short(ErrorKind::NoSpace);
        device.fail(Fault::nth(Calls::WritesTo(0..512), 0, short));
        let error = device.write_at(&[1; 2048], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(firsts(&memory), [1, 1, 0, 0]);
        device.fail(Fault::nth(Calls::Any, 0, short));
        assert!(device.write_at(&[2; 512], 0).is_err());
        assert_eq!(firsts(&memory), [1, 1, 0, 0], "a sector is never torn");
    }

    #[test]
    fn a_share_of_the_calls_fails_the_same_for_the_same_seed() {
        let failures = |seed| -> Vec<bool> {
            let (_, device) = flaky(1);
            device.fail(Fault {
                calls: Calls::Any,
                when: When::Share {
                    seed,
                    per_mille: 250,
                },
                failure: Failure::whole(ErrorKind::Io),
            });
            (0..400).map(|_| device.flush().is_err()).collect()
        };
        let count = failures(7).iter().filter(|failed| **failed).count();
        assert!((60..140).contains(&count), "{count} of 400");
        assert_eq!(failures(7), failures(7));
        assert_ne!(failures(7), failures(8));
    }

    #[test]
    fn space_runs_out_and_comes_back() {
        let (memory, device) = flaky(32);
        // One page of memory is there already.
        memory.write_at(&[1], 0).unwrap();
        device.limit_space(1024).unwrap();
        device.write_at(&[2; 4096], 0).unwrap();
        device.reserve_at(4096, 512).unwrap();
        let error = device.write_at(&[3; 1536], 4096).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(firsts(&memory)[8..11], [3, 3, 0], "what fits is written");
        assert!(device.reserve_at(8192, 1).is_err());
        device.discard_at(0, 600).unwrap();
        assert_eq!(device.space_left(), Some(512), "one whole sector");
        device.give_space(512);
        device.write_at(&[4; 1024], 8192).unwrap();
        let flags = ZeroFlags {
            no_hole: true,
            fast: false,
        };
        assert!(device.zero_at(9216, 512, flags).is_err());
        device.zero_at(9216, 512, ZeroFlags::default()).unwrap();
        assert_eq!(device.space_left(), Some(0));
    }
}
