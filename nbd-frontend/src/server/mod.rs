//! The server: tokio accepts and shakes hands, then each connection moves to a thread of its own
//! that executes its requests inline (see `transmission`).
//!
//! What holds whatever a client does:
//! - An error of a connection, or a panic in its thread, ends that connection and nothing else.
//! - A connection's memory is bounded: its buffers are allocated once, when transmission begins.
//! - A read that waits for a disk, or a slow flush, holds up no other request (see `workers`).
//! - Each request that was received whole gets exactly one reply, unless the connection breaks.
//! - At shutdown what was received is finished, for as long as the limits allow; then what is left
//!   is cut, stops at its next piece of work, and `run` returns.

mod accept;
mod backlog;
mod channel;
pub(crate) mod closing;
mod connection;
mod counters;
mod errno;
mod error;
mod limits;
mod listen;
mod negotiate;
mod notices;
mod receiver;
mod sender;
mod shared;
mod shutdown;
mod stdio;
mod transmission;
mod workers;

use std::sync::Arc;

use tokio::task::JoinSet;

pub use self::counters::{Counters, Counts};
pub use self::error::{Result, ServerError};
pub use self::limits::Limits;
pub use self::listen::{Address, Listen};
pub use self::stdio::serve_single;

pub(crate) use self::limits::CUT_TIMEOUT;

use self::accept::Acceptor;
use self::listen::{Listener, listen_on};
use self::shared::Shared;
use crate::export::Exports;

/// A server that listens; clients may connect from `bind` on, and are served by `run`.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens. Needs no runtime yet.
    ///
    /// # Errors
    /// Where the socket can't be made: its path is taken by a live server or by another file, the
    /// port is in use, no sockets were passed.
    pub fn bind(listen: Listen, exports: Arc<Exports>, limits: Limits) -> Result<Self> {
        Ok(Self {
            listeners: listen_on(listen)?,
            shared: Shared::new(exports, limits),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners
            .iter()
            .filter_map(Listener::address)
            .collect()
    }

    /// The URI under which clients reach the export of that name (empty: the default one).
    /// `None` if it listens only where no URI leads to.
    #[must_use]
    pub fn uri(&self, export: &str) -> Option<String> {
        let address = self.addresses().into_iter().next()?;
        Some(address.uri(export))
    }

    /// What its user should know: that other hosts can connect.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.addresses().into_iter().find_map(|address| match address {
            Address::Tcp(address) if !address.ip().to_canonical().is_loopback() => Some(format!(
                "anybody who can reach {address} can read and write: there is no encryption and \
                 no authentication"
            )),
            _ => None,
        })
    }

    /// The server's counters, which stay readable while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Serves until `shutdown` resolves, then finishes what clients have sent, closes every
    /// connection and returns, within a bounded time: a connection whose request the device does
    /// not finish may outlive it, unanswered. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// Where the runtime can't take over a listening socket.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut acceptors = JoinSet::new();
        for listener in self.listeners {
            let acceptor = Acceptor::new(listener)
                .map_err(|e| ServerError::io("cannot accept connections", e))?;
            acceptors.spawn(acceptor.run(Arc::clone(&self.shared)));
        }
        shutdown.await;
        // Closes the listening sockets and removes their paths.
        acceptors.shutdown().await;
        self.shared.drain().await;
        Ok(())
    }
}
