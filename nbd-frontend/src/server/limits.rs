//! Every bound the server keeps, each with its reason. What one connection may hold in memory is
//! fixed by [`PIECE_BYTES`] and [`WINDOW_BYTES`], whatever its client asks for.

use std::time::Duration;

/// The most bytes of payload that are handled in one piece: longer requests go piece by piece.
/// Large enough that a device call's cost vanishes, small enough that 128 connections are 320 MiB
/// of address space, of which only what is used is ever backed by memory.
pub(super) const PIECE_BYTES: u32 = 1 << 20;

/// How much is asked of the socket when looking for requests, and how many bytes of replies are
/// gathered before they are sent although more requests wait: a socket's buffer is about as large.
pub(super) const WINDOW_BYTES: usize = 256 << 10;

/// Reads from this length on are looked through for holes. Below it the question (two seeks on a
/// file) costs more than copying the zeros.
pub(super) const SPARSE_READ_BYTES: u32 = 64 << 10;

/// Holes from this length on are worth a reply chunk of their own; a page is the smallest that a
/// filesystem leaves out.
pub(super) const SPARSE_HOLE_BYTES: u64 = 4 << 10;

/// The most extents looked up for one piece of a read; behind them holes are sent as zeros. Bounds
/// what a badly fragmented device adds to the cost of a read.
pub(super) const SPARSE_READ_EXTENTS: usize = 64;

/// The most extents looked up for one block status request. A client asks again for the rest.
pub(super) const STATUS_EXTENTS: usize = 4096;

/// The most bytes that one cache request reads ahead: more would push its own beginning out again.
pub(super) const CACHE_BYTES: u64 = 256 << 20;

/// The most replies that wait for one shared flush of the device.
pub(super) const DEFERRED_REPLIES: usize = 128;

/// The most device errors that one connection logs; more say nothing new and can fill a disk.
pub(super) const LOGGED_ERRORS: u32 = 16;

/// What a server allows its clients, and how long it waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a handshake may take as a whole; qemu allows as much. A client that dawdles or
    /// says nothing holds one of the connections.
    pub handshake_timeout: Duration,
    /// How many connections there may be at once, those in their handshake included. One more is
    /// closed as soon as it is accepted. Each one in transmission has a thread and its buffers.
    pub max_connections: usize,
    /// How long, at shutdown, a client in the middle of a request may take to finish sending it.
    pub shutdown_grace: Duration,
    /// How long, at shutdown, connections may take altogether before they are cut: a client that
    /// does not read its replies must not keep the server alive.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            max_connections: 128,
            shutdown_grace: Duration::from_millis(500),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}
