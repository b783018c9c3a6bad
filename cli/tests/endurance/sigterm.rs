//! SIGTERM while clients write: the server ends in order, and everything that it acknowledged is in
//! the store.

use std::collections::VecDeque;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use rustix::process::Signal;
use usnap_test_support::pattern::random_file;
use usnap_test_support::raw_client::command;
use usnap_test_support::{MIB, RawClient, Rng, Scale};

use crate::LAB;

const WRITERS: u64 = 4;
/// Each writer has a part of the device to itself.
const REGION_BYTES: u64 = 16 * MIB;
const BLOCK_BYTES: u64 = 4096;
const BLOCKS: u64 = REGION_BYTES / BLOCK_BYTES;
/// Requests of one writer that are not yet answered.
const IN_FLIGHT: usize = 32;

/// What is known of a block.
#[derive(Clone, Copy, Default)]
struct Block {
    /// The number of the last write that was acknowledged; 0: none was.
    acknowledged: u64,
    /// The number of the last write that was sent.
    sent: u64,
}

#[test]
fn everything_acknowledged_before_a_sigterm_is_in_the_store() -> Result<()> {
    let scratch = LAB.scratch("sigterm")?;
    let origin = scratch.join("origin.img");
    random_file(&origin, WRITERS * REGION_BYTES, 81)?;
    let before = std::fs::read(&origin)?;
    for round in 0..Scale::from_env()?.pick(4, 40) {
        let cow = scratch.join(&format!("{round}.cow"));
        let server = LAB.serve(&origin)?.cow(&cow).start()?;
        let socket = server.socket();
        let written: Vec<Vec<Block>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let socket = &socket;
                    scope.spawn(move || write_until_the_end(socket, writer, round))
                })
                .collect();
            thread::sleep(Duration::from_millis(300 + 157 * (round % 5)));
            server.signal(Signal::TERM)?;
            let joined = writers
                .into_iter()
                .map(|writer| writer.join().map_err(|_| anyhow!("a writer panicked"))?);
            joined.collect::<Result<_>>()
        })?;
        server.ended()?;
        LAB.check_is_clean(&cow)?;
        let server = LAB.serve(&origin)?.cow(&cow).start()?;
        let after = RawClient::connect(&server.socket())?.read_all()?;
        server.stop()?;
        verify(&before, &after, &written)?;
        std::fs::remove_file(&cow)?;
    }
    Ok(())
}

/// Writes random blocks of its region until the server ends; returns what it knows of each block.
fn write_until_the_end(socket: &Path, writer: u64, round: u64) -> Result<Vec<Block>> {
    let mut client = RawClient::connect(socket)?;
    let mut rng = Rng::new(round << 8 | writer);
    let mut blocks = vec![Block::default(); usize::try_from(BLOCKS)?];
    // Cookies count up, so a reply's cookie tells how far behind the newest it is.
    let mut in_flight: VecDeque<(u64, usize, u64)> = VecDeque::new();
    for number in 1.. {
        let index = usize::try_from(rng.below(BLOCKS))?;
        // Two writes to one block at once could be done in either order.
        if in_flight.iter().any(|(_, busy, _)| *busy == index) {
            continue;
        }
        blocks[index].sent = number;
        let offset = writer * REGION_BYTES + index as u64 * BLOCK_BYTES;
        let data = content(writer, index, number);
        let Ok(cookie) = client.send(command::WRITE, offset, 4096, &data) else {
            break;
        };
        in_flight.push_back((cookie, index, number));
        if in_flight.len() >= IN_FLIGHT && !take_reply(&mut client, &mut in_flight, &mut blocks)? {
            break;
        }
    }
    while !in_flight.is_empty() && take_reply(&mut client, &mut in_flight, &mut blocks)? {}
    Ok(blocks)
}

/// Takes one reply; false when none comes any more.
fn take_reply(
    client: &mut RawClient,
    in_flight: &mut VecDeque<(u64, usize, u64)>,
    blocks: &mut [Block],
) -> Result<bool> {
    /// The error number of a server that is going.
    const ESHUTDOWN: u32 = 108;
    let Ok(reply) = client.receive() else {
        return Ok(false);
    };
    let place = in_flight
        .iter()
        .position(|(cookie, ..)| *cookie == reply.cookie);
    let (_, index, number) = place
        .and_then(|place| in_flight.remove(place))
        .ok_or_else(|| anyhow!("a reply to nothing: {reply:?}"))?;
    match reply.error {
        0 => blocks[index].acknowledged = number,
        ESHUTDOWN => {}
        error => anyhow::bail!("a write was answered with error {error}"),
    }
    Ok(true)
}

/// Bytes that tell who wrote them, and when.
fn content(writer: u64, index: usize, number: u64) -> Vec<u8> {
    Rng::new(writer << 56 | (index as u64) << 40 | number).bytes(4096)
}

/// Each block holds what was acknowledged last, or what was sent after that.
fn verify(before: &[u8], after: &[u8], written: &[Vec<Block>]) -> Result<()> {
    let mut acknowledged = 0;
    for (writer, blocks) in (0_u64..).zip(written) {
        for (index, block) in blocks.iter().enumerate() {
            let at = usize::try_from(writer * REGION_BYTES)? + index * 4096;
            let found = &after[at..at + 4096];
            let oldest_allowed = match block.acknowledged {
                0 => before[at..at + 4096].to_vec(),
                number => content(writer, index, number),
            };
            acknowledged += u64::from(block.acknowledged > 0);
            ensure!(
                found == oldest_allowed || found == content(writer, index, block.sent),
                "block {index} of writer {writer} is neither what was acknowledged last (write \
                 {}) nor what was sent last (write {})",
                block.acknowledged,
                block.sent
            );
        }
    }
    ensure!(
        acknowledged > 500,
        "only {acknowledged} blocks were acknowledged: no load"
    );
    Ok(())
}
