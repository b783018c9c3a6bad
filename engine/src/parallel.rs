//! Work that several threads share and that ends before the caller goes on.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread::{Builder, available_parallelism, scope};

/// More threads than this are of no use for what is done here.
const THREADS_MAX: usize = 8;

/// How many threads are worth having.
pub(crate) fn threads() -> u64 {
    available_parallelism()
        .map_or(1, NonZero::get)
        .min(THREADS_MAX) as u64
}

/// Does `work` for each share, the first on this thread and every other on one of its own, and
/// returns what came of them, in their order. Where there can't be so many threads it takes longer.
pub(crate) fn in_parallel<T: Send, R: Send>(
    shares: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let mut shares = shares.into_iter();
    let Some(first) = shares.next() else {
        return Vec::new();
    };
    let others: Vec<T> = shares.collect();
    if others.is_empty() {
        return vec![work(first)];
    }
    // A thread that could not be started leaves its share here.
    let others: Vec<_> = others.into_iter().map(|share| Cell::new(share)).collect();
    let work = &work;
    scope(|scope| {
        let started: Vec<_> = others
            .iter()
            .map(|share| {
                let name = "usnap-open".to_owned();
                let start = Builder::new().name(name);
                start.spawn_scoped(scope, move || share.take().map(work))
            })
            .collect();
        let mut done = vec![work(first)];
        for (thread, share) in started.into_iter().zip(&others) {
            let result = match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => share.take().map(work),
            };
            done.extend(result);
        }
        done
    })
}

/// A share that is taken once.
struct Cell<T>(std::sync::Mutex<Option<T>>);

impl<T> Cell<T> {
    fn new(share: T) -> Self {
        Self(std::sync::Mutex::new(Some(share)))
    }

    fn take(&self) -> Option<T> {
        let mut share = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        share.take()
    }
}

#[cfg(test)]
mod tests {
    use super::in_parallel;

    #[test]
    fn every_share_is_done_once_and_the_results_are_in_order() {
        for count in [0_u64, 1, 2, 7, 50] {
            let squares = in_parallel(0..count, |n| n * n);
            assert_eq!(squares, (0..count).map(|n| n * n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn shares_may_be_parts_of_one_buffer() {
        let mut bytes = [0_u8; 10];
        let sums = in_parallel(bytes.chunks_mut(3).zip(1..), |(part, value)| {
            part.fill(value);
            part.len()
        });
        assert_eq!(sums, [3, 3, 3, 1]);
        assert_eq!(bytes, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
    }
}
