//! A copy-on-write engine over dm-snapshot's on-disk format, in userspace: a read-only origin, a
//! COW device in the kernel's own format, and the snapshot that both make, as one device of bytes.
//!
//! `DESIGN.md` beside this crate has the invariants, the order of writes, the order of locks and
//! what is assumed of the media. The engine is synchronous: every device may be used from many
//! threads at once, and no operation can be dropped half-way.
// One file lifts this, for the journal's mapped memory: `journal/mapped.rs`.
#![deny(unsafe_code)]

pub mod chain;
pub mod check;
pub mod compact;
pub mod device;
pub mod diff;
pub mod dump;
mod error;
pub mod export;
pub mod info;
mod journal;
pub mod merge;
mod num;
pub mod origin;
mod parallel;
#[cfg(feature = "parts")]
#[doc(hidden)]
pub mod parts;
pub mod patch;
mod pieces;
pub mod repair;
pub mod resize;
pub mod restore;
#[cfg(feature = "sim")]
pub mod sim;
mod snapshot;
pub mod snapshot_origin;
mod space;
pub mod store;
mod table;

pub use error::{Error, ErrorKind, Result};
#[doc(hidden)]
pub use journal::{HeapMemory, JournalMemory};
pub use snapshot::{
    Counters, Discard, Durability, JournalMode, JournalReport, JournalState, Snapshot,
    SnapshotOptions, StatusReport, WaitingJournal, journal_waiting,
};
pub use space::{Space, SpaceAlarm, SpaceLimit};
pub use store::ExceptionCounts;
