//! The NBD protocol without I/O: bytes in, bytes and decisions out.
//!
//! Nothing here opens a socket, reads a clock, spawns a thread or blocks (but for
//! [`client::blocking`], which reads and writes through the stream it is given). Nothing a peer
//! sends can panic, and nothing is allocated before its size was checked against a limit. What is
//! supported, what is answered to what and why is in PROTOCOL.md beside this crate.
//!
//! A server goes through three types:
//! - [`Handshake`] takes a client's bytes until it ends or yields a
//! - [`Negotiated`], which turns the header of each request into a [`Request`] that is valid, or
//!   into a [`Refused`];
//! - [`Replies`] writes the headers of the replies; payloads never pass through this module.
//!
//! A client has [`client::ClientHandshake`] and [`client::ClientNegotiated`], or
//! [`client::blocking::Client`].
#![deny(clippy::little_endian_bytes, clippy::host_endian_bytes)]
#![warn(clippy::indexing_slicing)]

pub mod client;
pub mod consts;
pub mod uri;

mod block_status;
mod catalog;
mod decode;
mod errno;
mod haggle;
mod handshake;
mod meta_context;
mod option;
mod reply;
mod request;
mod session;
mod wire;

pub use self::block_status::{BlockStatusReply, MAX_EXTENTS};
pub use self::catalog::{
    BlockSizes, Catalog, DEFAULT_MAX_PAYLOAD_BYTES, DEFAULT_PREFERRED_BLOCK_BYTES, ExportInfo,
    MIN_UNFRAGMENTED_BYTES, TransmissionFlags,
};
pub use self::errno::Errno;
pub use self::handshake::{CloseReason, Features, Handshake, HandshakeLimits, Progress};
pub use self::meta_context::{Context, MetaContexts};
pub use self::option::{OptionCode, OptionError};
pub use self::reply::{MAX_ERROR_MESSAGE_BYTES, MAX_ERROR_REPLY, MAX_REPLY_HEADER, Replies};
pub use self::request::{Cookie, Decoded, Fatal, Refused, Request, RequestKind};
pub use self::session::{ACCEPTED_PAYLOAD_BYTES, MAX_DRAIN_BYTES, Negotiated, ReplyStyle};
