//! One connection on descriptors that are there already, as inetd and libnbd's `connect_command`
//! start a server.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::channel::Channel;
use super::connection::{spawn, transmit};
use super::error::{Result, ServerError};
use super::limits::Limits;
use super::negotiate::{Outcome, negotiate_blocking};
use super::shared::Shared;
use crate::export::Exports;

/// Serves the client at the other end of `input` and `output` (two pipes, or the same socket
/// twice), and returns when it is gone; when `shutdown` resolves, what it has sent is finished
/// first, within a bounded time. Needs a tokio runtime with time.
///
/// # Errors
/// Where a descriptor can't be set up or no thread can be started. What the client does wrong is
/// no error.
pub async fn serve_single(
    input: OwnedFd,
    output: OwnedFd,
    exports: Arc<Exports>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let failed = |e| ServerError::io("cannot serve on the descriptors passed", e);
    let shared = Shared::new(
        exports,
        Limits {
            max_connections: 1,
            ..limits
        },
    );
    let channel = Arc::new(Channel::pair(input, output).map_err(failed)?);
    let slot = shared
        .slot()
        .ok_or_else(|| ServerError::new("cannot serve without a slot"))?;
    let (negotiated, handshake_over) = oneshot::channel();
    let body = {
        let (shared, channel) = (Arc::clone(&shared), Arc::clone(&channel));
        move || serve(&shared, &channel, negotiated)
    };
    spawn(shared.next_id(), slot, body).map_err(failed)?;

    let bounded_handshake = async {
        if timeout(limits.handshake_timeout, handshake_over)
            .await
            .is_err()
        {
            tracing::debug!("the handshake took too long");
            channel.cut();
        }
        shared.all_gone().await;
    };
    tokio::select! {
        () = bounded_handshake => {}
        () = shutdown => shared.drain().await,
    }
    Ok(())
}

fn serve(shared: &Shared, channel: &Arc<Channel>, negotiated: oneshot::Sender<()>) {
    const ID: u64 = 1;
    shared.counters.accept();
    let registration = shared.shutdown.register(channel);
    // Nothing is owed to a client that is still in its handshake: the end may come any time.
    channel.set_waiting(true);
    let outcome = negotiate_blocking(channel, &shared.exports);
    channel.set_waiting(false);
    drop(registration);
    match outcome {
        Ok(Outcome::Transmission(session, offered, early)) => {
            // Nobody listens any more where the server is ending already.
            _ = negotiated.send(());
            transmit(shared, ID, channel, &session, offered, &early);
        }
        Ok(Outcome::Closed(reason)) => tracing::debug!(%reason, "closed in the handshake"),
        Ok(Outcome::Vanished) => tracing::debug!("the client closed in the handshake"),
        Err(error) => tracing::debug!(%error, "the handshake failed"),
    }
}
