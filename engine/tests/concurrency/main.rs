//! Many threads on one snapshot:
//! - `gates`: meetings that chance rarely brings about, arranged;
//! - `ranges`: on real files, each thread verifies what it alone wrote, while others write beside
//!   it, flush, and run the COW device full;
//! - `groups`: on devices in memory, what a flush promised is durable at that moment, and many
//!   flushes at once share their syncs.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod gates;
mod groups;
mod ranges;

#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/random.rs"]
mod random;
