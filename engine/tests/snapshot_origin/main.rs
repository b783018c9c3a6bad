//! An origin that is written to while its snapshots are served:
//! - `gates`: meetings that chance rarely brings about, arranged;
//! - `crash`: power cuts of all devices at once;
//! - `threads`: many threads on files, while snapshots come and go;
//! - `files`: what the identity record says, and what is taken with what;
//! - `faults`: each call to each device fails once;
//! - `lost_pages`: flushes of the origin that fail, which the system tells of once;
//! - `costs`: what a write to the origin costs;
//! - `model`: histories by chance against plain vectors, with snapshots that come, go and run full.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod costs;
mod crash;
mod faults;
mod files;
mod gates;
mod lost_pages;
mod model;
mod tape;
mod threads;
mod world;

#[path = "../support/random.rs"]
mod random;
#[path = "../support/values.rs"]
mod values;
#[path = "../support/workers.rs"]
mod workers;
