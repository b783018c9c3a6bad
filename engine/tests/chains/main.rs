//! Chains of COW files over one origin: what is shown, what is refused, and what is made of them.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod bench;
mod layers;
