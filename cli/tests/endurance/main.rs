//! Many clients, many connections, clients that vanish, an end under load: nothing that was
//! acknowledged is lost, nothing leaks, no thread panics.

mod connections;
mod leaks;
mod sigterm;

use usnap_test_support::Lab;

/// The program under test, and a directory for files.
const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
