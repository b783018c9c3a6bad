//! Commits what waits, every few seconds, on a thread of its own: a commit waits for the disk.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use usnap_engine::Snapshot;

/// The running timer; stops when dropped.
pub(super) struct CommitTimer {
    /// Dropping it ends the thread's wait.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl CommitTimer {
    /// Commits what `snapshot` has waiting, every `interval`.
    pub(super) fn start(snapshot: Arc<Snapshot>, interval: Duration) -> io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new()
            .name("commit-timer".to_owned())
            .spawn(move || {
                let mut failing = false;
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    failing = commit(&snapshot, failing);
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Stops without waiting for a commit that is under way.
    pub(super) fn abandon(mut self) {
        self.thread = None;
    }
}

/// Commits once; tells whether it failed. A failure that goes on is said once, not every time.
fn commit(snapshot: &Snapshot, failed_before: bool) -> bool {
    match snapshot.commit_pending() {
        Ok(_) => {
            if failed_before {
                tracing::info!("commits succeed again");
            }
            false
        }
        Err(error) => {
            if !failed_before {
                tracing::error!("{error:?}");
            }
            true
        }
    }
}

impl Drop for CommitTimer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, and then the panic is in the log.
            let _ = thread.join();
        }
    }
}
