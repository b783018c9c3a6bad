//! Accepting connections, as long as there are descriptors and slots for them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use super::connection::{self, Stream};
use super::listen::{BoundPath, Listener};
use super::shared::Shared;

/// How long to wait after an error such as running out of descriptors: the first time, and at
/// most. Trying again at once would keep a processor busy and change nothing.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A listening socket, on tokio.
#[derive(Debug)]
pub(super) enum Acceptor {
    /// Fields are dropped in order: the path goes when nobody listens any more.
    Unix {
        listener: UnixListener,
        _path: Option<BoundPath>,
    },
    Tcp(TcpListener),
}

impl Acceptor {
    /// Must be called on a tokio runtime.
    pub(super) fn new(listener: Listener) -> io::Result<Self> {
        match listener {
            Listener::Unix(listener, path) => {
                listener.set_nonblocking(true)?;
                Ok(Self::Unix {
                    listener: UnixListener::from_std(listener)?,
                    _path: path,
                })
            }
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix { listener, .. } => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
        }
    }

    /// Accepts until it is dropped.
    pub(super) async fn run(self, shared: Arc<Shared>) {
        let mut pause = BACK_OFF.0;
        loop {
            match self.accept().await {
                Ok(stream) => {
                    pause = BACK_OFF.0;
                    admit(&shared, stream);
                }
                // The peer was gone again before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, ?pause, "cannot accept a connection, waiting");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
            }
        }
    }
}

/// Starts serving a connection, or closes it if there are too many.
fn admit(shared: &Arc<Shared>, stream: Stream) {
    shared.counters.accept();
    match shared.slot() {
        Some(slot) => {
            tokio::spawn(connection::begin(Arc::clone(shared), stream, slot));
        }
        None => {
            shared.counters.turn_away();
            shared.notices.turned_away(shared.limits.max_connections);
        }
    }
}
