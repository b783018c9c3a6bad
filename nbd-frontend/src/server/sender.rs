//! The send buffer of one connection: replies are encoded and data is read straight into it, and
//! one call sends them all. Allocated once, never grown, never cleared.
//!
//! Invariant: whoever adds to it first makes sure that it is not [`full`](Sender::is_full); then
//! there is room for [`ROOM_BYTES`], a piece of data and its headers.

use std::io;

use super::channel::{Channel, Output};
use super::limits::{PIECE_BYTES, WINDOW_BYTES};

/// What fits behind replies that are not full: a piece of data, and as much for headers as
/// the replies that wait for a flush, or the chunks of a sparse read, could ever need.
pub(super) const ROOM_BYTES: usize = PIECE_BYTES as usize + (128 << 10);

/// Replies not yet sent.
#[derive(Debug)]
pub(super) struct Sender {
    buf: Box<[u8]>,
    len: usize,
}

impl Sender {
    pub(super) fn new() -> Self {
        Self {
            buf: vec![0; WINDOW_BYTES + ROOM_BYTES].into_boxed_slice(),
            len: 0,
        }
    }

    /// Whether it is time to send although more requests wait.
    pub(super) fn is_full(&self) -> bool {
        self.len >= WINDOW_BYTES
    }

    /// The free part of the buffer.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buf[self.len..]
    }

    /// Adds the first `count` bytes of the room to what will be sent.
    pub(super) fn commit(&mut self, count: usize) {
        debug_assert!(
            count <= self.buf.len() - self.len,
            "committing more than there is room"
        );
        self.len += count;
    }

    /// Sends everything; what could not be sent is forgotten, too.
    pub(super) fn send(&mut self, channel: &Channel) -> io::Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        self.send_part(&mut channel.output())
    }

    /// Sends everything through a way out that the caller holds.
    pub(super) fn send_part(&mut self, output: &mut Output<'_>) -> io::Result<()> {
        let len = std::mem::take(&mut self.len);
        output.write_all(&self.buf[..len])
    }
}
