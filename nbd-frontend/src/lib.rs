//! The NBD protocol, and a server on top of it.
//!
//! - [`proto`] is the protocol without I/O, clock or threads, for servers and clients.
//!   `PROTOCOL.md` beside this crate says section by section what is supported.
//! - `server` (feature `server`) serves `usnap-engine`'s devices on sockets.
#![forbid(unsafe_code)]

#[cfg(feature = "server")]
pub mod export;
pub mod proto;
#[cfg(feature = "server")]
pub mod server;
