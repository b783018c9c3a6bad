//! The few threads for what would keep a connection's other requests waiting: reads that are not
//! in the page cache, and slow flushes.
//!
//! A job is only taken if a thread is free for it, and more of them than the connection has in use
//! already: so one alone gets half of the threads, and those whose jobs are stuck (in a device, or
//! in sending to a client that does not read) never have all. Otherwise whoever wanted to hand it
//! over does it himself: nothing is queued.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::limits::{WORKER_IDLE, WORKERS};
use super::sender::Sender;
use super::transmission::Job;

/// A pool of threads that begin when they are needed and end when they are not.
#[derive(Default)]
pub(super) struct Workers {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs on their way to a thread that is free; never more than those.
    queue: VecDeque<Job>,
    /// Jobs that were taken and are not done.
    busy: usize,
    idle: usize,
    count: usize,
    stopping: bool,
}

impl Workers {
    /// Hands `job` to a free thread, or gives it back.
    pub(super) fn submit(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut state = self.lock();
        if job.pending.ahead() >= WORKERS.saturating_sub(state.busy) {
            return Err(job);
        }
        if state.idle > state.queue.len() {
            state.queue.push_back(job);
            state.busy += 1;
            drop(state);
            self.wake.notify_one();
            return Ok(());
        }
        if state.count >= WORKERS || state.stopping {
            return Err(job);
        }
        state.queue.push_back(job);
        let workers = Arc::clone(self);
        let name = format!("nbd-work-{}", state.count);
        if let Err(error) = thread::Builder::new()
            .name(name)
            .spawn(move || workers.work())
        {
            tracing::debug!(%error, "cannot start a worker");
            // Nobody could take it: the lock was held all the time.
            return state.queue.pop_back().map_or(Ok(()), Err);
        }
        state.count += 1;
        state.busy += 1;
        Ok(())
    }

    /// Ends the threads that are idle, and the others when they are.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_all();
    }

    fn work(&self) {
        let mut sender = Sender::new();
        while let Some(job) = self.next() {
            // The job's guard cuts the connection that waits for it.
            if catch_unwind(AssertUnwindSafe(|| job.run(&mut sender))).is_err() {
                tracing::error!("a panic ended a request: this is a bug");
                sender = Sender::new();
            }
            self.lock().busy -= 1;
        }
    }

    /// The next job; `None` when this thread is no longer needed.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.stopping {
                state.count -= 1;
                return None;
            }
            state.idle += 1;
            let (woken, timeout) = self
                .wake
                .wait_timeout(state, WORKER_IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                state.count -= 1;
                return None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing can panic under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}
