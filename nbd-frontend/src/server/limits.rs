//! Every bound the server keeps, each with its reason. What one connection may hold in memory is
//! fixed by [`PIECE_BYTES`] and [`WINDOW_BYTES`], whatever its client asks for.

use std::time::Duration;

/// The most bytes of payload that are handled in one piece: longer requests go piece by piece.
/// Large enough that a device call's cost vanishes, small enough that 128 connections and all
/// workers are 380 MiB of address space, of which only what is used is ever backed by memory.
pub(super) const PIECE_BYTES: u32 = 1 << 20;

/// How much is asked of the socket when looking for requests, and how many bytes of replies are
/// gathered before they are sent although more requests wait: a socket's buffer is about as large.
pub(super) const WINDOW_BYTES: usize = 256 << 10;

/// How much a unix socket is to take before a thread that sends has to wait for the client: enough
/// to read the next piece meanwhile. Measured: a fifth more 256 KiB reads than with the default.
pub(super) const SEND_BUFFER_BYTES: usize = 1 << 20;

/// What is read in pieces from this length on is looked through for zeros, which are sent as holes.
/// Below it there is little to save.
pub(super) const SPARSE_READ_BYTES: u32 = 64 << 10;

/// This many zeros are worth a reply chunk of their own: another chunk costs a client two or three
/// more calls to receive, as much as copying a few pages.
pub(super) const HOLE_BYTES: usize = 16 << 10;

/// The most extents looked up for one block status request. A client asks again for the rest.
pub(super) const STATUS_EXTENTS: usize = 4096;

/// The most looks at the device for one block status request: neighbours of one kind are joined, and
/// a device of small runs has very many. Some milliseconds.
pub(super) const STATUS_LOOKS: usize = 1 << 16;

/// The most bytes that one cache request reads ahead: more would push its own beginning out again.
pub(super) const CACHE_BYTES: u64 = 256 << 20;

/// The most threads of a server for requests that wait for a disk. One connection gets half of
/// them, as many as nbdkit has for each: enough to keep a disk busy.
pub(super) const WORKERS: usize = 32;

/// How much of a trim or of zeroes the device is asked for at once: between two such pieces a
/// connection that was cut ends. Large enough that the calls cost nothing beside the work.
pub(super) const SPAN_BYTES: u64 = 64 << 20;

/// How long connections that were cut may take to notice: as long as a disk takes for one piece.
/// A device that hangs must not keep the server from its end, nor a removed export from its own.
pub(crate) const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a worker waits for more before it ends.
pub(super) const WORKER_IDLE: Duration = Duration::from_secs(5);

/// A flush that takes longer than this is handed to a worker the next time; handing it over costs
/// a tenth of that.
pub(super) const SLOW_FLUSH: Duration = Duration::from_micros(200);

/// The most replies that wait for one shared flush of the device.
pub(super) const DEFERRED_REPLIES: usize = 128;

/// The most device errors that one connection logs; more say nothing new and can fill a disk.
pub(super) const LOGGED_ERRORS: u32 = 16;

/// How long nothing is said of connections turned away after a warning; they can come by the
/// thousand.
pub(super) const TURNED_AWAY_NOTICE: Duration = Duration::from_secs(10);

/// How long nothing is said of writes without room after a warning: every one of a client that
/// tries again could be one. Writes that need no room succeed in between, so success says nothing.
pub(super) const NO_SPACE_NOTICE: Duration = Duration::from_secs(60);

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
