//! The load: clients that write as fio would, at a depth, and note what was answered.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow, bail};
use usnap_test_support::raw_client::command;
use usnap_test_support::{NBD_ENOSPC, RawClient, Rng};

use crate::written::{Change, Content, Written};

/// The error number of a server that is going.
const ESHUTDOWN: u32 = 108;

/// How the clients write.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Connections at once.
    pub(crate) clients: u64,
    /// Requests of one client that are not yet answered.
    pub(crate) depth: usize,
    /// One request in so many is a flush; 0: none is.
    pub(crate) flush_every: u64,
    /// They write to the first so many bytes of the device.
    pub(crate) reach: usize,
    /// Writes only, no zeroing and no trim.
    pub(crate) writes_only: bool,
}

/// What was answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answers {
    /// Changes that were done.
    pub(crate) done: u64,
    /// Changes for which there was no space.
    pub(crate) no_space: u64,
    /// Flushes that were done.
    pub(crate) flushes: u64,
    /// Flushes for which there was no space.
    pub(crate) flushes_without_space: u64,
}

impl std::ops::AddAssign for Answers {
    fn add_assign(&mut self, other: Self) {
        self.done += other.done;
        self.no_space += other.no_space;
        self.flushes += other.flushes;
        self.flushes_without_space += other.flushes_without_space;
    }
}

/// The device as the clients share it.
pub(crate) type Shared = Mutex<Written>;

/// Runs the clients while `meanwhile` does what it does: they end when the server does, or when it
/// returns. The changes that were not answered stay under way.
///
/// # Errors
/// An answer that is neither success nor "no space", or `meanwhile` fails.
pub(crate) fn run(
    load: &Load,
    socket: &Path,
    written: &Shared,
    seed: u64,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Answers> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients)
            .map(|number| {
                let (rng, stop) = (Rng::new(seed ^ (number << 40)), &stop);
                scope.spawn(move || client(load, socket, written, rng, stop))
            })
            .collect();
        let outcome = meanwhile();
        stop.store(true, Ordering::Relaxed);
        let mut answers = Answers::default();
        for client in clients {
            answers += client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        outcome.map(|()| answers)
    })
}

/// A request that was sent.
struct Sent {
    cookie: u64,
    /// The change's number; a flush has none.
    change: Option<u64>,
}

fn client(
    load: &Load,
    socket: &Path,
    written: &Shared,
    mut rng: Rng,
    stop: &AtomicBool,
) -> Result<Answers> {
    let mut answers = Answers::default();
    // A server that was killed already is no mistake.
    let Ok(mut client) = RawClient::connect(socket) else {
        return Ok(answers);
    };
    let mut in_flight = Vec::new();
    let size = lock(written).len().min(load.reach);
    while !stop.load(Ordering::Relaxed) {
        if load.flush_every > 0 && rng.below(load.flush_every) == 0 {
            let Ok(cookie) = client.send(command::FLUSH, 0, 0, &[]) else {
                break;
            };
            in_flight.push(Sent {
                cookie,
                change: None,
            });
        } else {
            let (command, at, len, content) = draw(load, size, &mut rng);
            let change = Change::new(at, len, content.clone());
            let Some(number) = lock(written).begin(&change) else {
                continue;
            };
            let payload = match &content {
                Content::Bytes(data) => data.as_slice(),
                Content::Zeros | Content::Perhaps => &[],
            };
            let Ok(cookie) = client.send(command, at as u64, u32::try_from(len)?, payload) else {
                break;
            };
            in_flight.push(Sent {
                cookie,
                change: Some(number),
            });
        }
        while in_flight.len() >= load.depth {
            if !take_answer(&mut client, &mut in_flight, written, &mut answers)? {
                return Ok(answers);
            }
        }
    }
    while !in_flight.is_empty() && take_answer(&mut client, &mut in_flight, written, &mut answers)?
    {
    }
    Ok(answers)
}

/// Takes one answer; false when none comes any more.
fn take_answer(
    client: &mut RawClient,
    in_flight: &mut Vec<Sent>,
    written: &Shared,
    answers: &mut Answers,
) -> Result<bool> {
    let Ok(reply) = client.receive() else {
        return Ok(false);
    };
    let place = in_flight
        .iter()
        .position(|sent| sent.cookie == reply.cookie)
        .ok_or_else(|| anyhow!("an answer to nothing: {reply:?}"))?;
    match (in_flight.swap_remove(place).change, reply.error) {
        (Some(number), 0) => {
            lock(written).done(number);
            answers.done += 1;
        }
        (Some(number), NBD_ENOSPC | ESHUTDOWN) => {
            lock(written).refused(number);
            answers.no_space += 1;
        }
        (None, 0) => answers.flushes += 1,
        (None, NBD_ENOSPC | ESHUTDOWN) => answers.flushes_without_space += 1,
        (Some(_), error) => bail!("a change was answered with error {error}"),
        (None, error) => bail!("a flush was answered with error {error}"),
    }
    Ok(true)
}

/// The next change: half of them blocks of 4 KiB, the rest of any alignment or large.
fn draw(load: &Load, size: usize, rng: &mut Rng) -> (u16, usize, usize, Content) {
    let kind = if load.writes_only {
        rng.below(80)
    } else {
        rng.below(100)
    };
    let (len, alignment) = match kind {
        0..50 => (4 << 10, 4 << 10),
        50..65 => (1 << 10, 1),
        65..72 => (64 << 10, 4 << 10),
        72..80 => (usize::try_from(1 + rng.below(9000)).unwrap_or(1), 512),
        80..86 => (8 << 10, 4 << 10),
        86..92 => (3000, 1),
        92..98 => (16 << 10, 4 << 10),
        _ => (70_000, 512),
    };
    let places = (size - len) / alignment + 1;
    let at = usize::try_from(rng.below(places as u64)).unwrap_or(0) * alignment;
    match kind {
        0..80 => (command::WRITE, at, len, Content::Bytes(rng.bytes(len))),
        80..92 => (command::WRITE_ZEROES, at, len, Content::Zeros),
        _ => (command::TRIM, at, len, Content::Perhaps),
    }
}

pub(crate) fn lock(written: &Shared) -> std::sync::MutexGuard<'_, Written> {
    written.lock().unwrap_or_else(PoisonError::into_inner)
}
