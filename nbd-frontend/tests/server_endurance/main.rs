//! Ten thousand connections, and more than there are descriptors for: nothing is left behind,
//! and the server goes on. A program of its own, because it counts what the process holds.
#![cfg(feature = "server")]

#[cfg(test)]
mod connects;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod support;
