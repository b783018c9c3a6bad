//! Each snapshot shows the origin as it was when it was made, and what was written to it since.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use usnap_test_support::{Need, RawClient, Tool, lab, missing};

use crate::world::{LAB, World, read, same, shows};

#[test]
fn three_snapshots_of_different_chunks_keep_their_moments_under_random_writes() -> Result<()> {
    let mut world = World::new("moments", 1)?;
    let chunks = [
        ("a", ",chunk-size=4K"),
        ("b", ",chunk-size=16K"),
        ("c", ",chunk-size=64K"),
    ];
    let specs = chunks.map(|(name, rest)| world.spec(name, rest));
    let server = world.serve(&specs[..1], &[])?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut moments = vec![("a", world.bytes.clone())];
    world.change(&mut client, 60)?;
    for (spec, (name, _)) in specs.iter().zip(chunks).skip(1) {
        let uri = world.done("add", &[spec])?;
        ensure!(uri.contains(&format!(":///{name}?socket=")), "{uri}");
        moments.push((name, world.bytes.clone()));
        world.change(&mut client, 60)?;
    }
    // A snapshot's own change is nobody else's.
    let mut own = RawClient::connect_to(&server.socket(), "b")?;
    own.write_at(70_001, &[0xab; 9000])?;
    moments[1].1[70_001..79_001].fill(0xab);
    world.change(&mut client, 30)?;

    for (name, moment) in &moments {
        shows(&server, name, moment)?;
        let listed = world.listed(name)?;
        ensure!(listed["state"] == "active", "{listed}");
        let status = LAB.usnap(&["status", lab::text(&world.cow(name))?]).ok()?;
        let said = format!("snapshot \"{name}\" of ");
        ensure!(
            status.contains(&said) && status.contains(": active"),
            "{status}"
        );
    }
    shows(&server, "", &world.bytes)?;
    server.stop()?;
    same(&std::fs::read(world.origin())?, &world.bytes).context("the origin's file")?;
    for (name, moment) in &moments {
        LAB.check_is_clean(&world.cow(name))?;
        // By itself, over the origin as it is now.
        let alone = LAB.serve(&world.origin())?.cow(&world.cow(name)).start()?;
        shows(&alone, "", moment)?;
        alone.stop()?;
    }

    // All of them again, and the origin goes on changing.
    let server = world.serve(&specs, &["--durability", "every-write"])?;
    let mut client = RawClient::connect(&server.socket())?;
    world.change(&mut client, 40)?;
    for (name, moment) in &moments {
        shows(&server, name, moment)?;
    }
    let log = server.stop()?;
    ensure!(!log.contains("created"), "{log}");
    Ok(())
}

#[test]
fn the_end_in_the_middle_of_a_load_loses_nothing_that_was_answered() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let world = World::new("end", 2)?;
        let spec = [world.spec("a", "")];
        let server = world.serve(&spec, &[])?;
        let socket = server.socket();
        let writers: Vec<_> = (0..2_u8)
            .map(|half| {
                let mut client = RawClient::connect(&socket)?;
                Ok(std::thread::spawn(move || {
                    let mut written = Vec::new();
                    for round in 0..1_u64 << 20 {
                        let at = (u64::from(half) << 22) + round % 900 * 4096;
                        let byte = u8::try_from(round % 251).unwrap_or(0);
                        match client.write_at(at, &[byte; 4096]) {
                            Ok(()) => written.push((at, byte)),
                            Err(_) => break,
                        }
                    }
                    written
                }))
            })
            .collect::<Result<_>>()?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        server.signal(signal)?;
        server.ended()?;
        let mut expected = world.bytes.clone();
        let mut count = 0;
        for writer in writers {
            for (at, byte) in writer.join().map_err(|_| anyhow::anyhow!("a panic"))? {
                let at = usize::try_from(at)?;
                expected[at..at + 4096].fill(byte);
                count += 1;
            }
        }
        ensure!(count > 0, "nothing was written");
        let found = std::fs::read(world.origin())?;
        // What was received was finished, its answer sent or not: at most one write of each.
        let others = found
            .chunks(4096)
            .zip(expected.chunks(4096))
            .filter(|(a, b)| a != b)
            .count();
        ensure!(others <= 2, "{others} blocks of {count} are other ones");
        let server = world.serve(&spec, &[])?;
        shows(&server, "a", &world.bytes)?;
        server.stop()?;
    }
    Ok(())
}

#[test]
fn snapshots_come_and_go_while_fio_writes_and_verifies_the_origin() -> Result<()> {
    if missing(&[Need::Program("fio")])? {
        return Ok(());
    }
    let world = World::new("fio", 3)?;
    let server = world.serve(&[world.spec("first", "")], &[])?;
    let uri = format!("--uri={}", server.uri());
    let load = std::thread::spawn(move || {
        Tool::new("fio")
            .args([
                "--name=verify",
                "--ioengine=nbd",
                "--iodepth=8",
                "--rw=randwrite",
            ])
            .args([
                "--bsrange=512-64k",
                "--verify=crc32c",
                "--verify_state_save=0",
            ])
            .args([
                "--verify_fatal=1",
                "--do_verify=1",
                "--size=12m",
                "--loops=3",
            ])
            .arg(uri)
            .ok()
    });
    let mut moments = Vec::new();
    let mut round = 0;
    while !load.is_finished() || round < 4 {
        let name = format!("n{round}");
        let chunk = ["4K", "16K", "64K", "512"][round % 4];
        world.done(
            "add",
            &[&world.spec(&name, &format!(",chunk-size={chunk}"))],
        )?;
        moments.push((name.clone(), read(&server, &name)?));
        if moments.len() > 3 {
            let (oldest, moment) = moments.remove(0);
            shows(&server, &oldest, &moment)?;
            world.done("drop", &[&oldest])?;
            std::fs::remove_file(world.cow(&oldest))?;
        }
        round += 1;
    }
    load.join().map_err(|_| anyhow::anyhow!("a panic"))??;
    for (name, moment) in &moments {
        shows(&server, name, moment)?;
    }
    shows(&server, "first", &world.bytes)?;
    server.stop()?;
    Ok(())
}
