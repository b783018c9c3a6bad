//! The real kernel as the judge: its dm-snapshot activates our stores and we serve its stores, its
//! NBD client mounts our export. Each test boots a guest and puts many checks into the boot.

mod devices;
mod mounts;
mod stores;

use usnap_test_support::Lab;

/// The program under test, and a directory for files.
const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
