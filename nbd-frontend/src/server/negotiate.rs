//! The handshake's I/O: on tokio for sockets, with everything that may take time bounded there,
//! and blocking for the one connection of `serve_single`. Both drive the same state machine.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::channel::Channel;
use super::limits::WINDOW_BYTES;
use crate::export::{Chosen, Exports, Offered};
use crate::proto::{CloseReason, Features, Handshake, HandshakeLimits, Negotiated, Progress};

/// How a handshake ended, unless by an I/O error.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Transmission begins on that export, with the bytes that came right behind the handshake.
    Transmission(Box<Negotiated>, Offered, Vec<u8>),
    /// The connection is to be closed.
    Closed(CloseReason),
    /// The peer closed it.
    Vanished,
}

/// Performs a handshake; when `closing` turns true, further options are refused.
pub(super) async fn negotiate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    exports: &Exports,
    mut closing: watch::Receiver<bool>,
) -> io::Result<Outcome> {
    let mut negotiation = Negotiation::new();
    let mut refusing = false;
    loop {
        stream.write_all(&negotiation.output).await?;
        if let Some(outcome) = negotiation.outcome.take() {
            return Ok(outcome);
        }
        let count = tokio::select! {
            biased;
            _ = closing.wait_for(|&closing| closing), if !refusing => {
                refusing = true;
                negotiation.handshake.set_shutdown();
                negotiation.output.clear();
                continue;
            }
            count = stream.read(negotiation.room()) => count?,
        };
        negotiation.received(count, exports);
    }
}

/// Performs a handshake on the calling thread.
pub(super) fn negotiate_blocking(channel: &Channel, exports: &Exports) -> io::Result<Outcome> {
    let mut negotiation = Negotiation::new();
    loop {
        channel.write_all(&negotiation.output)?;
        if let Some(outcome) = negotiation.outcome.take() {
            return Ok(outcome);
        }
        let count = channel.read(negotiation.room())?;
        negotiation.received(count, exports);
    }
}

/// A handshake and its buffers.
struct Negotiation {
    handshake: Handshake,
    input: Vec<u8>,
    input_len: usize,
    output: Vec<u8>,
    outcome: Option<Outcome>,
}

impl Negotiation {
    fn new() -> Self {
        let handshake = Handshake::new(HandshakeLimits::default(), Features::default());
        let mut output = Vec::new();
        handshake.greeting(&mut output);
        Self {
            handshake,
            input: Vec::new(),
            input_len: 0,
            output,
            outcome: None,
        }
    }

    /// Where to receive to. Grows while an option is not whole; the state machine skips those
    /// that are longer than its limit, so the bound is never met.
    fn room(&mut self) -> &mut [u8] {
        const STEP_BYTES: usize = 4096;
        if self.input_len == self.input.len() && self.input_len < WINDOW_BYTES {
            self.input.resize(self.input_len + STEP_BYTES, 0);
        }
        &mut self.input[self.input_len..]
    }

    /// Handles `count` more bytes in the room; 0 is the end of input. The output must be sent
    /// before the outcome is looked at.
    fn received(&mut self, count: usize, exports: &Exports) {
        self.output.clear();
        if count == 0 {
            self.outcome = Some(Outcome::Vanished);
            return;
        }
        self.input_len += count;
        let input = &self.input[..self.input_len];
        let chosen = Chosen::new(exports);
        let (consumed, progress) = self.handshake.receive(&chosen, input, &mut self.output);
        self.outcome = match progress {
            Progress::NeedMore => None,
            Progress::Transmission(negotiated) => {
                let early = input[consumed..].to_vec();
                // The option that ends a handshake looks its export up, and nothing follows it.
                chosen.into_last().map_or(
                    Some(Outcome::Closed(CloseReason::UnknownExport)),
                    |offered| {
                        let negotiated = Box::new(negotiated);
                        Some(Outcome::Transmission(negotiated, offered, early))
                    },
                )
            }
            Progress::Closed(reason) => Some(Outcome::Closed(reason)),
        };
        self.input.copy_within(consumed..self.input_len, 0);
        self.input_len -= consumed;
    }
}
