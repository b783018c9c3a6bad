//! `kill -9` at any moment: the next start has what was answered, and each snapshot its moment.

use std::time::Duration;

use anyhow::{Result, ensure};
use usnap_test_support::{RawClient, Rng, Scale};

use crate::world::{World, index, read, shows};

const BLOCK: usize = 4096;
/// The part of the origin that each client writes to, in blocks.
const BLOCKS: usize = 1000;

/// Writes until the server is gone; returns, for each block, what was answered last and what was
/// sent last.
fn write_on(mut client: RawClient, base: usize, seed: u64) -> Vec<(Option<u64>, Option<u64>)> {
    let mut blocks = vec![(None, None); BLOCKS];
    let mut rng = Rng::new(seed);
    for round in 1..u64::MAX {
        let block = index(rng.below(BLOCKS as u64));
        let stamp = seed << 32 | round;
        blocks[block].1 = Some(stamp);
        let at = ((base + block) * BLOCK) as u64;
        if client.write_at(at, &stamped(stamp)).is_err() {
            break;
        }
        blocks[block].0 = Some(stamp);
    }
    blocks
}

fn stamped(stamp: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(BLOCK / 8)
}

#[test]
fn kill_9_under_load_loses_no_answered_write_and_no_moment() -> Result<()> {
    let mut world = World::new("killed", 4)?;
    let mut specs = vec![
        world.spec("a", ",chunk-size=4K"),
        world.spec("b", ",chunk-size=64K"),
    ];
    let mut moments = vec![("a".to_owned(), world.bytes.clone()); 2];
    "b".clone_into(&mut moments[1].0);
    for round in 0..Scale::from_env()?.pick(5, 60) {
        let server = world.serve(&specs, &["--commit-interval", "0.05"])?;
        for (name, moment) in &moments {
            shows(&server, name, moment)?;
        }
        if round == 2 {
            let spec = world.spec("late", ",chunk-size=16K");
            world.done("add", &[&spec])?;
            specs.push(spec);
            moments.push(("late".to_owned(), world.bytes.clone()));
        }
        let writers: Vec<_> = (0..3)
            .map(|place| {
                let client = RawClient::connect(&server.socket())?;
                let seed = round * 10 + place as u64 + 1;
                Ok(std::thread::spawn(move || {
                    write_on(client, place * BLOCKS, seed)
                }))
            })
            .collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_millis(30 + world.rng.below(300)));
        server.kill()?;
        let again = world.serve(&specs, &[])?;
        let found = read(&again, "")?;
        let mut answered = 0;
        for (place, writer) in writers.into_iter().enumerate() {
            let blocks = writer.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            for (block, (done, sent)) in blocks.into_iter().enumerate() {
                let range = (place * BLOCKS + block) * BLOCK..(place * BLOCKS + block + 1) * BLOCK;
                let now = &found[range.clone()];
                answered += usize::from(done.is_some());
                let was = done.map_or_else(|| world.bytes[range.clone()].to_vec(), stamped);
                let may_be = sent.map(stamped);
                ensure!(
                    now == was || may_be.as_deref() == Some(now),
                    "round {round}: block {block} of client {place} is neither what was answered \
                     last nor what was sent last"
                );
            }
        }
        ensure!(answered > 0, "round {round}: nothing was written");
        world.bytes = found;
        for (name, moment) in &moments {
            shows(&again, name, moment)?;
        }
        again.stop()?;
    }
    Ok(())
}
