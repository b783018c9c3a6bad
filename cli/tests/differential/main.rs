//! Differential testing: seeded histories run on the kernel's dm-snapshot, in a guest, and on usnap.
//! After each step both give the same answer, content and status line; at each deactivation and at
//! the end the COW devices are the same to the byte. Where we differ knowingly (SPEC.md, section 10)
//! the judge expects exactly that, and `differences.rs` shows each.
//!
//! `USNAP_DIFF_HISTORIES` sets how many histories, `USNAP_DIFF_SEED` the seed of the first;
//! `USNAP_DIFF_HISTORY` is one history as a failure prints it, which is then all that runs:
//! `USNAP_DIFF_HISTORY='...' cargo test -p usnap --test differential same_bytes`.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod boot;
mod campaign;
mod canaries;
mod differences;
mod generate;
mod history;
mod judge;
mod kernel;
mod knobs;
mod model;
mod ours;
mod play;
mod served;
mod shrink;
mod store_view;

use usnap_test_support::Lab;

/// The program under test, and a directory for files.
const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
/// What all positions and lengths of a history count in.
const SECTOR: u64 = 512;
