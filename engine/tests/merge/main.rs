//! Merging a store into its origin.
//! - `cuts`: the power is cut at every write, and everything that may be left of both devices is
//!   judged: the store over the origin shows what it showed, also once a kernel has written on, and
//!   another merge ends with the origin as the snapshot was. `canaries` break one rule each, and
//!   must be caught by the same judge.
//! - `faults`: each call to either device fails once, and what that leaves is judged in the same way.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod canaries;
mod cuts;
mod faults;
mod film;
mod stores_of;

#[expect(dead_code, reason = "no client but whole chunks is needed here")]
#[path = "../support/plain_kernel.rs"]
mod plain_kernel;
#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/random.rs"]
mod random;
#[expect(dead_code, reason = "the exceptions lie elsewhere here")]
#[path = "../support/stores.rs"]
mod stores;
