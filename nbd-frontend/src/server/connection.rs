//! One connection: its handshake as a task, its transmission on a thread of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;

use rustix::net::sockopt;
use tokio::net::{TcpStream, UnixStream};
use usnap_engine::device::BlockDevice;

use super::backlog::Backlog;
use super::channel::Channel;
use super::closing::Closing;
use super::counters::Counters;
use super::limits::SEND_BUFFER_BYTES;
use super::negotiate::{Outcome, negotiate};
use super::notices::Notices;
use super::sender::Sender;
use super::shared::{Shared, Slot};
use super::transmission::Transmission;
use crate::export::Offered;
use crate::proto::{Negotiated, Replies};

/// What the threads that answer a connection's requests share: its own, and the workers.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) channel: Arc<Channel>,
    pub(super) device: Arc<dyn BlockDevice>,
    /// The end of the export, should it be removed.
    pub(super) closing: Arc<Closing>,
    pub(super) replies: Replies,
    pub(super) preferred_block_bytes: u32,
    pub(super) counters: Arc<Counters>,
    pub(super) notices: Arc<Notices>,
    /// The requests that workers have in hand.
    pub(super) backlog: Backlog,
    /// The device's last flush took so long that nobody should wait for the next one in line.
    pub(super) slow_flush: AtomicBool,
    /// Device errors logged so far.
    pub(super) logged_errors: AtomicU32,
}

impl Connection {
    pub(super) fn new(
        shared: &Shared,
        id: u64,
        channel: &Arc<Channel>,
        negotiated: &Negotiated,
        offered: &Offered,
    ) -> Self {
        Self {
            id,
            channel: Arc::clone(channel),
            device: Arc::clone(offered.export.device()),
            closing: Arc::clone(&offered.closing),
            replies: negotiated.replies(),
            preferred_block_bytes: negotiated.export.preferred_block_bytes,
            counters: Arc::clone(&shared.counters),
            notices: Arc::clone(&shared.notices),
            backlog: Backlog::default(),
            slow_flush: AtomicBool::new(false),
            logged_errors: AtomicU32::new(0),
        }
    }
}

/// An accepted socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    async fn negotiate(&mut self, shared: &Shared) -> io::Result<Outcome> {
        let closing = shared.shutdown.subscribe();
        match self {
            Self::Unix(stream) => negotiate(stream, &shared.exports, closing).await,
            Self::Tcp(stream) => {
                // Replies must not wait for more of them, and a host that is gone must be noticed.
                stream.set_nodelay(true)?;
                sockopt::set_socket_keepalive(&*stream, true)?;
                negotiate(stream, &shared.exports, closing).await
            }
        }
    }

    /// The socket, off tokio and blocking.
    fn into_blocking(self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(stream) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                // As much as the system allows, or what it is; TCP finds its own.
                _ = sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES);
                Ok(stream.into())
            }
            Self::Tcp(stream) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Ok(stream.into())
            }
        }
    }
}

/// Serves one accepted socket: the handshake here, the rest on a thread.
pub(super) async fn begin(shared: Arc<Shared>, mut stream: Stream, slot: Slot) {
    let id = shared.next_id();
    let limits = shared.limits;
    let mut closing = shared.shutdown.subscribe();
    let too_late = async {
        drop(closing.wait_for(|&closing| closing).await);
        tokio::time::sleep(limits.shutdown_grace).await;
    };
    let negotiated = tokio::select! {
        negotiated =
            tokio::time::timeout(limits.handshake_timeout, stream.negotiate(&shared)) => negotiated,
        () = too_late => return,
    };
    let (negotiated, offered, early) = match negotiated {
        Ok(Ok(Outcome::Transmission(negotiated, offered, early))) => (negotiated, offered, early),
        Ok(Ok(Outcome::Closed(reason))) => {
            tracing::debug!(connection = id, %reason, "closed in the handshake");
            return;
        }
        Ok(Ok(Outcome::Vanished)) => {
            tracing::debug!(connection = id, "the client closed in the handshake");
            return;
        }
        Ok(Err(error)) => {
            tracing::debug!(connection = id, %error, "the handshake failed");
            return;
        }
        Err(_elapsed) => {
            tracing::debug!(connection = id, "the handshake took too long");
            return;
        }
    };
    let result = stream.into_blocking().and_then(|socket| {
        let channel = Arc::new(Channel::socket(socket));
        spawn(id, slot, move || {
            transmit(&shared, id, &channel, &negotiated, offered, &early);
        })
    });
    if let Err(error) = result {
        tracing::warn!(connection = id, %error, "cannot start a thread for a connection");
    }
}

/// Runs `body` on the connection's thread; the slot is free when it has ended, also by a panic.
pub(super) fn spawn(id: u64, slot: Slot, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // A system's thread name has at most 15 bytes.
    thread::Builder::new()
        .name(format!("nbd-{id}"))
        .spawn(move || {
            // The body's state is dropped with it; a device that broke in the middle of something
            // has its own ways (poisoned locks) of saying so.
            if catch_unwind(AssertUnwindSafe(body)).is_err() {
                tracing::error!(connection = id, "a panic ended a connection: this is a bug");
            }
            drop(slot);
        })?;
    Ok(())
}

/// Serves the requests of a connection until it ends.
pub(super) fn transmit(
    shared: &Shared,
    id: u64,
    channel: &Arc<Channel>,
    negotiated: &Negotiated,
    offered: Offered,
    early: &[u8],
) {
    let _registration = shared.shutdown.register(channel);
    let _user = offered.closing.register(channel);
    // Dropped before `_user`: whoever waits for that finds the device let go.
    let offered = offered;
    // Whoever removes an export waits for the connections that were known by then, and no others.
    if offered.closing.is_begun() {
        tracing::debug!(connection = id, "its export was removed in the handshake");
        return;
    }
    let _connected = shared.counters.connected();
    tracing::debug!(
        connection = id,
        export = offered.export.name(),
        style = ?negotiated.reply_style,
        "transmission begins"
    );
    let connection = Arc::new(Connection::new(shared, id, channel, negotiated, &offered));
    let mut sender = Sender::new();
    let end = Transmission::new(shared, &connection, negotiated, &mut sender, early)
        .map_or_else(|end| end, Transmission::run);
    tracing::debug!(connection = id, %end, "transmission ended");
}
