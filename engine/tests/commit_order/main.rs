//! Commits under observation, by a device that keeps a log of writes and syncs:
//! - `order`: the log of each kind of commit is exactly what DESIGN.md, "Commit", demands;
//! - `faults`: each call to the device fails once, and the error goes where it belongs;
//! - `crash`: every image that a power cut may leave opens, here and in the kernel's way, to
//!   contents that were written;
//! - `killed`: nothing that was answered is lost with the process, where there is a journal.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod bench;
mod crash;
mod faults;
mod killed;
mod order;

#[path = "../support/plain_kernel.rs"]
mod plain_kernel;
#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/recorder.rs"]
mod recorder;
#[path = "../support/stores.rs"]
mod stores;
#[path = "../support/story.rs"]
mod story;
