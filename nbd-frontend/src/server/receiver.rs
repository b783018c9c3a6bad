//! The receive buffer of one connection: allocated once, never grown, never cleared.
//!
//! Invariants:
//! - `buf[start..end]` was received and not yet consumed; empty means `start == end == 0`.
//! - Between requests `end <= WINDOW_BYTES`; a payload that began in the window may extend
//!   `PIECE_BYTES` further. So it always has room where it is, and nothing but the beginning of
//!   a header is ever moved.

use std::io;
use std::time::Duration;

use super::channel::Channel;
use super::limits::{PIECE_BYTES, WINDOW_BYTES};

/// What was received and not yet used.
#[derive(Debug)]
pub(super) struct Receiver {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Receiver {
    /// A buffer that holds `early`: what came right behind the handshake.
    /// `None` if that is more than a window.
    pub(super) fn new(early: &[u8]) -> Option<Self> {
        let mut buf = vec![0; WINDOW_BYTES + PIECE_BYTES as usize].into_boxed_slice();
        buf[..WINDOW_BYTES]
            .get_mut(..early.len())?
            .copy_from_slice(early);
        Some(Self {
            buf,
            start: 0,
            end: early.len(),
        })
    }

    /// What was received and not yet consumed.
    pub(super) fn buffered(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Forgets the first `count` bytes, which must be there.
    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(
            count <= self.end - self.start,
            "consuming what was not received"
        );
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Receives more of what is no whole request yet (the beginning of a header at most);
    /// 0 at the end of input.
    pub(super) fn receive(&mut self, channel: &Channel) -> io::Result<usize> {
        let count = channel.read(self.window())?;
        self.end += count;
        Ok(count)
    }

    /// Receives as `receive` does what is there or comes soon; `None` if nothing did.
    pub(super) fn receive_soon(
        &mut self,
        channel: &Channel,
        soon: Duration,
    ) -> io::Result<Option<usize>> {
        let count = channel.read_soon(self.window(), soon)?;
        self.end += count.unwrap_or(0);
        Ok(count)
    }

    /// Where to receive requests to.
    fn window(&mut self) -> &mut [u8] {
        self.buf.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.buf[self.end..WINDOW_BYTES]
    }

    /// Receives until the next `count` bytes of a payload are there, at most `PIECE_BYTES`.
    ///
    /// Never asks for more than them: the buffer is empty when they are consumed, and the next
    /// payload begins at its front again, without anything moved. Looks for more for as long as
    /// `soon` before it falls asleep.
    ///
    /// # Errors
    /// `UnexpectedEof` if the input ends before.
    pub(super) fn receive_exact(
        &mut self,
        channel: &Channel,
        count: usize,
        soon: Duration,
    ) -> io::Result<()> {
        let wanted_end = self.start + count;
        while self.end < wanted_end {
            let place = &mut self.buf[self.end..wanted_end];
            let come = if soon.is_zero() {
                None
            } else {
                channel.read_soon(place, soon)?
            };
            let count = match come {
                Some(count) => count,
                None => channel.read(place)?,
            };
            match count {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.end += count,
            }
        }
        Ok(())
    }
}
