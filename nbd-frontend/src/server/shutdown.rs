//! How a server ends without breaking a promise (proto.md, "Terminating the transmission phase"):
//! requests that were received are finished and answered, later ones get `ESHUTDOWN`, options get
//! `REP_ERR_SHUTDOWN`, then the connections are closed; a client that does not read, or never
//! finishes what it began to send, or asked for more than can be done in time, is cut.
//!
//! A connection's thread and `begin` meet without a lock: the thread says that it waits, then
//! looks at the flag; `begin` sets the flag, then looks who waits. One of them ends the input.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::channel::Channel;

/// The state of a server that its connections share for its end.
#[derive(Debug)]
pub(super) struct Shutdown {
    closing: AtomicBool,
    handshakes: watch::Sender<bool>,
    channels: Mutex<Channels>,
}

/// The connections, and what holds for those that are yet to be known.
#[derive(Debug, Default)]
struct Channels {
    by_id: HashMap<u64, Arc<Channel>>,
    inputs_ended: bool,
    cut: bool,
}

impl Shutdown {
    pub(super) fn new() -> Self {
        Self {
            closing: AtomicBool::new(false),
            handshakes: watch::Sender::new(false),
            channels: Mutex::default(),
        }
    }

    /// Whether the server is ending: what arrives from now on is refused.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// What tells a handshake that the server is ending.
    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.handshakes.subscribe()
    }

    /// Makes a connection known, until the guard is dropped.
    pub(super) fn register(self: &Arc<Self>, id: u64, channel: &Arc<Channel>) -> Registration {
        let mut channels = self.lock();
        channels.by_id.insert(id, Arc::clone(channel));
        if channels.cut {
            channel.cut();
        } else if channels.inputs_ended || self.is_closing() && channel.is_waiting() {
            channel.end_input();
        }
        drop(channels);
        Registration {
            id,
            shutdown: Arc::clone(self),
        }
    }

    /// Begins the end: connections between two requests see the end of their input at once, the
    /// others when they come to it.
    pub(super) fn begin(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.handshakes.send_replace(true);
        self.lock()
            .by_id
            .values()
            .filter(|channel| channel.is_waiting())
            .for_each(|c| c.end_input());
    }

    /// Ends the input of every connection, also in the middle of a request. Those whose client is
    /// gone are cut: nobody was promised anything.
    pub(super) fn end_inputs(&self) {
        let mut channels = self.lock();
        channels.inputs_ended = true;
        for channel in channels.by_id.values() {
            if channel.is_abandoned() {
                channel.cut();
            } else {
                channel.end_input();
            }
        }
    }

    /// Cuts every connection that is left; returns how many.
    pub(super) fn cut(&self) -> usize {
        let mut channels = self.lock();
        channels.cut = true;
        channels.by_id.values().for_each(|channel| channel.cut());
        channels.by_id.len()
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        // Nothing is done under the lock that could leave the map half changed.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection known to the shutdown.
#[derive(Debug)]
pub(super) struct Registration {
    id: u64,
    shutdown: Arc<Shutdown>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shutdown.lock().by_id.remove(&self.id);
    }
}
