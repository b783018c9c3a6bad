//! The NBD protocol, and a server on top of it.
#![forbid(unsafe_code)]

pub mod proto;
