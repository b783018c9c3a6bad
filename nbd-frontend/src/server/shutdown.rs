//! The end of a server: of its connections as `closing` describes, of handshakes by
//! `REP_ERR_SHUTDOWN`.

use std::sync::Arc;

use tokio::sync::watch;

use super::channel::Channel;
use super::closing::{Closing, Registration};

/// The state of a server that its connections share for its end.
#[derive(Debug)]
pub(super) struct Shutdown {
    closing: Arc<Closing>,
    handshakes: watch::Sender<bool>,
}

impl Shutdown {
    pub(super) fn new() -> Self {
        Self {
            closing: Arc::default(),
            handshakes: watch::Sender::new(false),
        }
    }

    /// Whether the server is ending: what arrives from now on is refused.
    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_begun()
    }

    /// What tells a handshake that the server is ending.
    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.handshakes.subscribe()
    }

    /// Makes a connection known, until the guard is dropped.
    pub(super) fn register(&self, channel: &Arc<Channel>) -> Registration {
        self.closing.register(channel)
    }

    /// Begins the end.
    pub(super) fn begin(&self) {
        self.closing.begin();
        self.handshakes.send_replace(true);
    }

    /// Ends the input of every connection, also in the middle of a request.
    pub(super) fn end_inputs(&self) {
        self.closing.end_inputs();
    }

    /// Cuts every connection that is left; returns how many.
    pub(super) fn cut(&self) -> usize {
        self.closing.cut()
    }
}
