//! The server from outside: real sockets, the protocol's own client, devices that fail, block and
//! panic, and clients that do what they should not.
#![cfg(feature = "server")]

#[cfg(test)]
mod changes;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod flushes;
#[cfg(test)]
mod holes;
#[cfg(test)]
mod listening;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod single;
#[cfg(test)]
mod splits;
#[cfg(test)]
mod support;
#[cfg(test)]
mod warnings;
#[cfg(test)]
mod workers;
