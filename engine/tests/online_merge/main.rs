//! A merge while the snapshot is served: whatever clients do meanwhile, what they read is what they
//! wrote; a power cut leaves what they flushed; and in the end the origin has it all.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod crash;
mod faults;
mod files;
mod meetings;
mod threads;
mod world;

#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/random.rs"]
mod random;
