//! The NBD protocol without I/O: bytes in, bytes and decisions out.
//!
//! Nothing here opens a socket, reads a clock, spawns a thread or blocks (but for
//! the clients, which shake hands through the stream they are given). Nothing a peer
//! sends can panic, and nothing is allocated before its size was checked against a limit. What is
//! supported, what is answered to what and why is in PROTOCOL.md beside this crate.
//!
//! A server goes through three types:
//! - [`Handshake`] takes a client's bytes until it ends or yields a
//! - [`Negotiated`], which turns the header of each request into a [`Request`] that is valid, or
//!   into a [`Refused`];
//! - [`Replies`] writes the headers of the replies; payloads never pass through this module.
//!
//! ```
//! use usnap_nbd::proto::{
//!     Catalog, Decoded, ExportInfo, Features, Handshake, HandshakeLimits, MAX_REPLY_HEADER,
//!     Progress, RequestKind,
//! };
//!
//! struct Zeroes;
//!
//! impl Catalog for Zeroes {
//!     fn export(&self, name: &str) -> Option<ExportInfo> {
//!         name.is_empty().then(|| ExportInfo::new("zeroes", 1 << 30))
//!     }
//!     fn list(&self) -> Vec<(String, Option<String>)> {
//!         vec![("zeroes".to_owned(), None)]
//!     }
//! }
//!
//! let mut handshake = Handshake::new(HandshakeLimits::default(), Features::default());
//! let mut to_client = Vec::new();
//! handshake.greeting(&mut to_client);
//! // From the client: its flags, and the default export by NBD_OPT_EXPORT_NAME.
//! let received = b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0";
//! let (used, progress) = handshake.receive(&Zeroes, received, &mut to_client);
//! assert_eq!(used, received.len());
//! let Progress::Transmission(negotiated) = progress else { panic!("{progress:?}") };
//!
//! // From the client: read 512 bytes at 4096, with the cookie 7.
//! let header = b"\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x10\0\0\0\x02\0";
//! let decoded = negotiated.decode_request(header)?;
//! let Decoded::Request(request) = decoded else { panic!("{decoded:?}") };
//! assert_eq!(request.kind, RequestKind::Read { len: 512, dont_fragment: false });
//!
//! let mut reply = [0; MAX_REPLY_HEADER];
//! let tag = (request.cookie, request.offset);
//! let len = negotiated.replies().read_data_header(&mut reply, tag, request.offset, 512, true);
//! // To the client: the header, then the data.
//! assert_eq!(reply[..len], *b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x07");
//! # Ok::<(), usnap_nbd::proto::Fatal>(())
//! ```
//!
//! A client has [`client::ClientHandshake`] and [`client::ClientNegotiated`], or
//! [`client::blocking::Client`], or [`client::pipeline::Pipeline`] for many requests in flight.
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
