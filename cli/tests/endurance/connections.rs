//! Sixty-four clients at once, ten thousand one after the other, and clients that vanish.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use usnap_test_support::pattern::random_file;
use usnap_test_support::process_stat::Held;
use usnap_test_support::raw_client::{command, greet};
use usnap_test_support::{MIB, RawClient, Rng, Scale, Scratch, Server};

use crate::LAB;
use crate::leaks::{SLACK_OF_FEW_AT_ONCE_KIB, SLACK_OF_MANY_AT_ONCE_KIB, nothing_leaked, settled};

const CLIENTS: usize = 64;
/// Each client has a part of the device to itself.
const REGION_BYTES: usize = 1 << 20;
const ORIGIN_BYTES: usize = CLIENTS * REGION_BYTES;

fn start(scratch: &Scratch) -> Result<(Server, PathBuf)> {
    let origin = scratch.join("origin.img");
    random_file(&origin, ORIGIN_BYTES as u64, 71)?;
    Ok((
        LAB.serve(&origin)?.cow(&scratch.join("c.cow")).start()?,
        origin,
    ))
}

#[test]
fn sixty_four_clients_at_once_find_their_own_data_and_leave_nothing_behind() -> Result<()> {
    let scratch = LAB.scratch("clients")?;
    let (server, origin) = start(&scratch)?;
    let mut model = std::fs::read(&origin)?;
    wave(&server, &mut model, 1)?;
    let baseline = settled(&server)?;
    for seed in 2..Scale::from_env()?.pick(5, 30) {
        wave(&server, &mut model, seed)?;
    }
    nothing_leaked(&server, baseline, SLACK_OF_MANY_AT_ONCE_KIB)?;
    ensure!(
        RawClient::connect(&server.socket())?.read_all()? == model,
        "data was mixed up"
    );
    server.stop()?;

    let cow = scratch.join("c.cow");
    LAB.check_is_clean(&cow)?;
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    ensure!(
        RawClient::connect(&server.socket())?.read_all()? == model,
        "data was lost"
    );
    server.stop()?;
    Ok(())
}

/// All clients at once, each in its own part of the device, which the model follows.
fn wave(server: &Server, model: &mut [u8], seed: u64) -> Result<()> {
    let socket = server.socket();
    let (all_connected, all_counted) = (Barrier::new(CLIENTS + 1), Barrier::new(CLIENTS + 1));
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for (number, region) in model.chunks_mut(REGION_BYTES).enumerate() {
            let (socket, connected, counted) = (&socket, &all_connected, &all_counted);
            workers.push(scope.spawn(move || {
                let client = RawClient::connect(socket);
                connected.wait();
                counted.wait();
                exercise(
                    client?,
                    number * REGION_BYTES,
                    region,
                    seed << 32 | number as u64,
                )
            }));
        }
        all_connected.wait();
        let held = Held::by(server.pid());
        all_counted.wait();
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        let held = held?;
        ensure!(
            held.descriptors > CLIENTS,
            "not all were connected at once: {held:?}"
        );
        Ok(())
    })
}

/// Random reads and writes within one region.
fn exercise(mut client: RawClient, start: usize, region: &mut [u8], seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    for step in 0..60 {
        let len = 1 + rng.below(if step % 10 == 0 { 100_000 } else { 6000 });
        let at = usize::try_from(rng.below(region.len() as u64 - len))?;
        let range = at..at + usize::try_from(len)?;
        match rng.below(5) {
            0 | 1 => {
                let mut read = vec![0; range.len()];
                client.read_at((start + at) as u64, &mut read)?;
                ensure!(
                    read == region[range],
                    "another client's bytes, or old ones, at {at}"
                );
            }
            2 => {
                let (at, len) = ((start + at) as u64, u32::try_from(len)?);
                assert_eq!(client.call(command::WRITE_ZEROES, at, len, &[])?, 0);
                region[range].fill(0);
            }
            _ => {
                let data = rng.bytes(range.len());
                client.write_at((start + at) as u64, &data)?;
                region[range].copy_from_slice(&data);
            }
        }
    }
    client.flush()?;
    client.disconnect()
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() -> Result<()> {
    const CONNECTIONS: u64 = 10_000;
    let scratch = LAB.scratch("connects")?;
    let (server, _) = start(&scratch)?;
    for number in 0..200 {
        connect_and_end(&server.socket(), number)?;
    }
    let baseline = settled(&server)?;
    thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let socket = server.socket();
            scope.spawn(move || {
                (half..CONNECTIONS)
                    .step_by(2)
                    .try_for_each(|number| connect_and_end(&socket, number))
            })
        });
        for half in halves {
            half.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        anyhow::Ok(())
    })?;
    nothing_leaked(&server, baseline, SLACK_OF_FEW_AT_ONCE_KIB)?;
    RawClient::connect(&server.socket())?.disconnect()?;
    server.stop()?;
    Ok(())
}

/// One connection, ended in one of the ways in which connections end.
fn connect_and_end(socket: &Path, number: u64) -> Result<()> {
    /// ABORT, without data.
    const ABORT: [u8; 16] = *b"IHAVEOPT\0\0\0\x02\0\0\0\0";
    /// The first bytes of an option, which says that a name of 4 KiB follows.
    const HALF_AN_OPTION: [u8; 20] = *b"IHAVEOPT\0\0\0\x07\0\0\x10\x06\0\0\x10\0";
    match number / 2 % 6 {
        0 => drop(UnixStream::connect(socket).context("cannot connect")?),
        1 => drop(greet(socket)?),
        2 => greet(socket)?.write_all(&ABORT)?,
        3 => greet(socket)?.write_all(&HALF_AN_OPTION)?,
        4 => drop(RawClient::connect(socket)?),
        _ => {
            let mut client = RawClient::connect(socket)?;
            client.read_at(number * 512, &mut [0; 512])?;
            client.disconnect()?;
        }
    }
    Ok(())
}

#[test]
fn clients_that_vanish_in_the_middle_hurt_nobody() -> Result<()> {
    let scratch = LAB.scratch("vanish")?;
    let (server, origin) = start(&scratch)?;
    let model = std::fs::read(&origin)?;
    let mut steady = RawClient::connect(&server.socket())?;
    vanish(&server.socket(), 0)?;
    vanish(&server.socket(), 1)?;
    let baseline = settled(&server)?;
    for round in 0..Scale::from_env()?.pick(300, 3000) {
        vanish(&server.socket(), round)?;
        let mut read = [0; 4096];
        let at = 4096 * (round % 1000);
        steady.read_at(at as u64, &mut read)?;
        ensure!(
            read == model[at..at + 4096],
            "round {round}: wrong bytes at {at}"
        );
    }
    nothing_leaked(&server, baseline, SLACK_OF_FEW_AT_ONCE_KIB)?;
    steady.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&scratch.join("c.cow"))
}

/// A client that goes while the server still has something to send to it, or to get from it.
fn vanish(socket: &Path, round: usize) -> Result<()> {
    let mut client = RawClient::connect(socket)?;
    // The upper half: the steady client reads the lower one.
    let upper = ORIGIN_BYTES as u64 / 2;
    match round % 3 {
        // More replies than any socket buffer holds, none of them taken.
        0 => {
            for number in 0..32 {
                client.send(command::READ, number * MIB, 1 << 20, &[])?;
            }
        }
        // The same, but the client is there until the first has come.
        1 => {
            for number in 0..32 {
                client.send(command::READ, number * MIB, 1 << 20, &[])?;
            }
            client.receive()?;
        }
        // Half of a payload.
        _ => {
            client.send(command::WRITE, upper, 1 << 20, &[0xee; 400_000])?;
        }
    }
    Ok(())
}
