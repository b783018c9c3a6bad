//! Other people's programs against a running `usnap`, and input that is wrong: one module for each
//! family of clients. Nothing may be lost, and the origin never changes.

mod bad_input;
mod data;
mod fio;
mod full;
mod hostile_cow;
mod libnbd;
mod python;
mod qemu;
mod refused;
mod sockets;

use usnap_test_support::Lab;

/// The program under test, and a directory for files.
const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
