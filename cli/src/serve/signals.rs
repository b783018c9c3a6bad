//! The signals that end the server.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Result};
use crate::interrupt::is_ignored;

/// SIGTERM and SIGINT; also SIGHUP, unless whoever started us had it ignored (nohup).
pub(super) struct Signals {
    signals: Vec<Signal>,
    interrupted: bool,
}

impl Signals {
    /// Takes the signals over: from now on they end nothing by themselves.
    pub(super) fn take() -> io::Result<Self> {
        let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt()];
        if !is_ignored(SignalKind::hangup().as_raw_value()) {
            kinds.push(SignalKind::hangup());
        }
        let signals = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
        Ok(Self {
            signals,
            interrupted: false,
        })
    }

    /// The result of `future`, unless another signal comes first; then nothing more is waited for.
    pub(super) async fn or_interrupted<T>(&mut self, future: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            result = future => Ok(result),
            () = self.next() => {
                self.interrupted = true;
                Err(Failure::new(
                    "cannot end in order: told to end at once; what was not flushed may be lost",
                ))
            }
        }
    }

    /// Whether we were told to end at once.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let polls = self
                .signals
                .iter_mut()
                .map(|signal| signal.poll_recv(context));
            // All are polled, so that each of them wakes us.
            let ready = polls.fold(false, |ready, poll| ready | poll.is_ready());
            if ready {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}
