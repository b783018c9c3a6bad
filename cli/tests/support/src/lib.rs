//! What the suites share that drive the built `usnap` and other people's programs as processes.
//!
//! Nothing here uses usnap's own crates: a mistake in the codec or in the layout arithmetic must not
//! be repeated by the test that is to find it.

#![forbid(unsafe_code)]

pub mod cow_bytes;
pub mod disks;
pub mod guest;
pub mod image;
pub mod lab;
pub mod log_writes;
pub mod pattern;
pub mod process_stat;
pub mod python;
pub mod raw_client;
pub mod requirements;
pub mod scale;
pub mod scratch;
pub mod server;
pub mod tool;

pub use guest::Guest;
pub use lab::Lab;
pub use pattern::Rng;
pub use raw_client::RawClient;
pub use requirements::{Need, missing};
pub use scale::Scale;
pub use scratch::{Scratch, say};
pub use server::{Serve, Server};
pub use tool::Tool;

/// Bytes in a KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;

/// The NBD error number of a full device, on the wire.
pub const NBD_ENOSPC: u32 = 28;
