//! Devices that fail, forget and count, for tests (feature `sim`). They know of nothing but
//! `BlockDevice`, so any of them may stand below or above anything.
//!
//! | device | what it does |
//! |---|---|
//! | [`Flaky`] | fails the n-th call or a share of the calls, writes in part, runs out of space |
//! | [`LogWrites`] | keeps an ordered log of everything that changes the device below it |
//! | [`CrashState`] | from such a log: every image that a power cut may leave |
//! | [`Counting`] | counts calls and bytes |
//!
//! # The fault model
//!
//! What a power cut leaves:
//! - Everything that a flush covered which has completed: all that was done before it began.
//! - Of the rest, any subset of sectors of 512 bytes, whatever their order and whichever call they
//!   belong to; each with any of the values that it had since that flush. A sector is never torn,
//!   and its neighbours are not harmed.
//! - Zeroing and discarding are writes of zeros. Reserving changes nothing that can be read.
//! - A flush that failed covers nothing, and what it should have covered may still be there or not.
//!
//! What a failing call does:
//! - It changes nothing, or (a short write) the first half of its sectors, and answers with an error.
//! - Once it has failed, the same call may succeed. Whether it may be trusted then is the caller's
//!   affair: a device here does not remember that a flush failed.
//!
//! Not in the model: bytes that rot, sectors that land in the wrong place, devices that lie about a
//! flush. (The last is what the tests' canaries do, to see that the harness notices.)

mod counting;
mod crash;
mod flaky;
mod log_writes;

pub use counting::{Counting, Counts};
pub use crash::{CrashState, Images, Samples};
pub use flaky::{Calls, Failure, Fault, Flaky, When};
pub use log_writes::{Event, LogWrites};

/// The kinds of calls that a device can be told to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// `read_at` and `try_read_at`.
    Read,
    /// `write_at`.
    Write,
    /// `zero_at`.
    Zero,
    /// `discard_at`.
    Discard,
    /// `reserve_at`.
    Reserve,
    /// `flush`.
    Flush,
}

/// Numbers that look random and depend on the seed alone (xorshift64*).
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        // Zero would stay zero, and small seeds are to differ at once.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end` (> 0).
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }
}

/// What a device here leaves to the one below it: questions.
macro_rules! ask_below {
    () => {
        fn needs_reservation(&self) -> bool {
            self.below.needs_reservation()
        }

        fn room_below(&self) -> Option<crate::device::RoomBelow> {
            self.below.room_below()
        }

        ask_below!(all but room);
    };
    (all but room) => {
        fn size_bytes(&self) -> u64 {
            self.below.size_bytes()
        }

        fn name(&self) -> &str {
            self.below.name()
        }

        fn extent_at(&self, offset: u64, len: u64) -> crate::error::Result<crate::device::Extent> {
            self.below.extent_at(offset, len)
        }

        fn prefers_rewrites(&self) -> bool {
            self.below.prefers_rewrites()
        }

        fn extend_to(&self, size_bytes: u64) -> crate::error::Result<()> {
            self.below.extend_to(size_bytes)
        }

        fn is_read_only(&self) -> bool {
            self.below.is_read_only()
        }

        fn can_zero_fast(&self) -> bool {
            self.below.can_zero_fast()
        }
    };
}
use ask_below;
