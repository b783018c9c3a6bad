//! Faults that really happen: servers that are killed, disks that fail, filesystems that run full,
//! power cuts. What must survive does, and what can't be done is said to the one it concerns.
//!
//! By hand, with the figures of a full run and the tables it prints:
//! `USNAP_TEST_SCALE=full cargo test --release -p usnap --test faults -- --nocapture`.

mod contender;
mod cost;
mod failing_disk;
mod full_disk;
mod kill_rounds;
mod killed;
mod knobs;
mod load;
mod logged;
mod machine;
mod power_cut;
mod written;

use usnap_test_support::Lab;

/// The program under test, and a directory for files.
const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
