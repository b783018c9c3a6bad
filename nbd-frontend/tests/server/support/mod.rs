//! What the suites share: a server on a socket of its own, clients, and a device under control.

mod device;
mod log;
mod raw;
mod server;

use usnap_nbd::proto::client::ClientOptions;

pub(crate) use self::device::{Call, TestDevice};
pub(crate) use self::log::{collect_warnings, warnings_with};
pub(crate) use self::raw::{Chunk, RawClient};
pub(crate) use self::server::{TestServer, wait_until};

/// A reply style to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Simple,
    Structured,
    Extended,
}

impl Style {
    pub(crate) const ALL: [Self; 3] = [Self::Simple, Self::Structured, Self::Extended];

    pub(crate) fn options(self) -> ClientOptions {
        let contexts = ["base:allocation", "qemu:allocation-depth"];
        ClientOptions {
            structured: self != Self::Simple,
            extended: self == Self::Extended,
            contexts: match self {
                Self::Simple => Vec::new(),
                _ => contexts.map(str::to_owned).to_vec(),
            },
            ..ClientOptions::new("")
        }
    }
}

/// `len` bytes that depend on `seed` and on where they are.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64: no two neighbouring blocks are alike.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
