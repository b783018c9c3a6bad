//! Chains of COW files over one origin: what is shown, what is refused and what is made of them:
//! images, differences, and patches.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod bench;
mod diff;
mod export;
mod layers;
mod patch;
mod vectors;

#[expect(dead_code, reason = "not everything that a vector says matters here")]
#[path = "../../../format-spec/tests/support/vector.rs"]
mod vector;
