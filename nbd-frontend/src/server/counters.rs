//! What the server counts. Connections add to it once a batch of requests, not once a request.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a server, since it began. Reading them takes no lock.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    turned_away: AtomicU64,
    connected: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

/// The counters' values at one moment (each its own moment, strictly).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted, those turned away included.
    pub accepted: u64,
    /// Connections closed at once because there were `max_connections` already.
    pub turned_away: u64,
    /// Connections in transmission now.
    pub connected: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests among them that were answered with an error.
    pub errors: u64,
    /// Bytes of data sent for reads, holes included.
    pub read_bytes: u64,
    /// Bytes of data written.
    pub written_bytes: u64,
}

/// What one connection counted since it last told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

impl Counters {
    /// The values now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            accepted: load(&self.accepted),
            turned_away: load(&self.turned_away),
            connected: load(&self.connected),
            requests: load(&self.requests),
            errors: load(&self.errors),
            read_bytes: load(&self.read_bytes),
            written_bytes: load(&self.written_bytes),
        }
    }

    pub(super) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turn_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more connection in transmission, until the guard is dropped.
    pub(super) fn connected(&self) -> Connected<'_> {
        self.connected.fetch_add(1, Ordering::Relaxed);
        Connected(&self.connected)
    }

    /// Adds `tally` and empties it.
    pub(super) fn add(&self, tally: &mut Tally) {
        let Tally {
            requests,
            errors,
            read_bytes,
            written_bytes,
        } = std::mem::take(tally);
        for (counter, count) in [
            (&self.requests, requests),
            (&self.errors, errors),
            (&self.read_bytes, read_bytes),
            (&self.written_bytes, written_bytes),
        ] {
            if count != 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

/// One connection in transmission.
#[derive(Debug)]
pub(super) struct Connected<'a>(&'a AtomicU64);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
