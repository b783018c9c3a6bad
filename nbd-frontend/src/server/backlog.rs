//! How many of a connection's requests are in the hands of workers: its end waits for them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::connection::Connection;

/// A count that can be waited for to become 0.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    count: Mutex<usize>,
    empty: Condvar,
}

impl Backlog {
    /// Waits until no worker has a request of the connection.
    pub(super) fn wait_until_empty(&self) {
        let mut count = self.lock();
        while *count > 0 {
            count = self
                .empty
                .wait(count)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        // Nothing can panic under the lock.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, held by a request that is on its way to a worker or there.
pub(super) struct Pending {
    connection: Arc<Connection>,
    ahead: usize,
}

impl Pending {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        let mut count = connection.backlog.lock();
        let ahead = *count;
        *count += 1;
        Self {
            connection: Arc::clone(connection),
            ahead,
        }
    }

    /// How many requests of the connection workers had when this one came up.
    pub(super) fn ahead(&self) -> usize {
        self.ahead
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Its request will never be answered: the client must not wait for that.
            self.connection.channel.cut();
        }
        let mut count = self.connection.backlog.lock();
        *count -= 1;
        if *count == 0 {
            self.connection.backlog.empty.notify_all();
        }
    }
}
