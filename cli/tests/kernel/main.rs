//! The real kernel as the judge: its dm-snapshot activates our stores and we serve its stores, its
//! NBD client mounts our export. Each test boots a guest and puts many checks into the boot.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod capacity;
mod devices;
mod discard;
mod merge_online;
mod merged;
mod mounts;
mod origin;
mod repaired;
mod stacked;
mod statements;
mod stores;
mod wild;

use usnap_test_support::Lab;

#[expect(dead_code, reason = "not everything that a vector says matters here")]
#[path = "../../../format-spec/tests/support/vector.rs"]
mod vector;

/// The program under test, and a directory for files.
const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
