//! How a group of connections ends without breaking a promise (proto.md, "Terminating the
//! transmission phase"): all of a server's at its end, or all of an export's that was removed.
//! Requests that were received are finished and answered, later ones get `ESHUTDOWN`, then the
//! connections are closed; a client that does not read, or never finishes what it began to send,
//! or asked for more than can be done in time, is cut.
//!
//! A connection's thread and `begin` meet without a lock: the thread says that it waits, then
//! looks at the flag; `begin` sets the flag, then looks who waits. One of them ends the input.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::channel::Channel;

/// The state that a group of connections shares for its end.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    begun: AtomicBool,
    channels: Mutex<Channels>,
    empty: Condvar,
}

/// The connections, and what holds for those that are yet to be known.
#[derive(Debug, Default)]
struct Channels {
    by_key: HashMap<u64, Arc<Channel>>,
    next_key: u64,
    inputs_ended: bool,
    cut: bool,
}

impl Closing {
    /// Whether the end has begun: what arrives from now on is refused.
    #[inline]
    pub(super) fn is_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Makes a connection known, until the guard is dropped.
    pub(super) fn register(self: &Arc<Self>, channel: &Arc<Channel>) -> Registration {
        let mut channels = self.lock();
        let key = channels.next_key;
        channels.next_key += 1;
        channels.by_key.insert(key, Arc::clone(channel));
        if channels.cut {
            channel.cut();
        } else if channels.inputs_ended || self.is_begun() && channel.is_waiting() {
            channel.end_input();
        }
        drop(channels);
        Registration {
            key,
            closing: Arc::clone(self),
        }
    }

    /// Begins the end: connections between two requests see the end of their input at once, the
    /// others when they come to it.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.lock()
            .by_key
            .values()
            .filter(|channel| channel.is_waiting())
            .for_each(|c| c.end_input());
    }

    /// Ends the input of every connection, also in the middle of a request. Those whose client is
    /// gone are cut: nobody was promised anything.
    pub(crate) fn end_inputs(&self) {
        let mut channels = self.lock();
        channels.inputs_ended = true;
        for channel in channels.by_key.values() {
            if channel.is_abandoned() {
                channel.cut();
            } else {
                channel.end_input();
            }
        }
    }

    /// Cuts every connection that is left; returns how many.
    pub(crate) fn cut(&self) -> usize {
        let mut channels = self.lock();
        channels.cut = true;
        channels.by_key.values().for_each(|channel| channel.cut());
        channels.by_key.len()
    }

    /// How many connections there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Waits on the calling thread until there is none; tells whether that came in time.
    pub(crate) fn wait_until_empty(&self, timeout: Duration) -> bool {
        let (channels, _) = self
            .empty
            .wait_timeout_while(self.lock(), timeout, |c| !c.by_key.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        channels.by_key.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        // Nothing is done under the lock that could leave the map half changed.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection known to what ends it.
#[derive(Debug)]
pub(super) struct Registration {
    key: u64,
    closing: Arc<Closing>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut channels = self.closing.lock();
        channels.by_key.remove(&self.key);
        if channels.by_key.is_empty() {
            self.closing.empty.notify_all();
        }
    }
}
