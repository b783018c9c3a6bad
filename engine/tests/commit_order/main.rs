//! Commits under observation, by a device that keeps a log of writes and syncs:
//! - `ahead`: free chunks that are written to before anybody takes them;
//! - `order`: the log of each kind of commit is exactly what DESIGN.md, "Commit", demands;
//! - `faults`: calls that fail at chosen places, and what goes on after them;
//! - `killed`: nothing that was answered is lost with the process, where there is a journal.
//! - `log`: what is said of a failed flush.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod ahead;
mod bench;
mod faults;
mod killed;
mod log;
mod order;

#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/recorder.rs"]
mod recorder;
#[path = "../support/stores.rs"]
mod stores;
#[path = "../support/story.rs"]
mod story;
