//! Stores on real files: what is made, what is refused and how it is said, who may use one, which
//! origin it belongs to, and how one is judged and shown at rest. Files are made byte by byte, and
//! compared by checksum where nothing may change. `journal` kills servers.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod bad_input;
mod bench;
mod creation;
mod findings;
mod identity;
mod journal;
mod sharing;
mod shown;

#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/stores.rs"]
mod stores;
