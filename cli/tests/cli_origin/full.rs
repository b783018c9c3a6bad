//! A snapshot whose COW is full: given up while the origin goes on, or, if asked for, the origin's
//! writes refused.

use anyhow::{Result, ensure};
use usnap_test_support::raw_client::command;
use usnap_test_support::{NBD_ENOSPC, RawClient, lab};

use crate::world::{LAB, World, shows};

/// The NBD error number of a device that failed.
const NBD_EIO: u32 = 5;

#[test]
fn a_full_snapshot_is_dropped_and_says_so_and_the_origin_and_the_others_go_on() -> Result<()> {
    let mut world = World::new("dropped", 5)?;
    let moment = world.bytes.clone();
    let specs = [
        world.spec("small", ",cow-size=200K"),
        world.spec("large", ""),
    ];
    let server = world.serve(&specs, &[])?;
    let mut old = RawClient::connect_to(&server.socket(), "small")?;
    let mut block = [0; 4096];
    old.read_at(0, &mut block)?;
    ensure!(block[..] == moment[..4096], "not the origin");
    let mut client = RawClient::connect(&server.socket())?;
    world.change(&mut client, 80)?;

    // Who had it and who comes later is told the same.
    let new = RawClient::connect_to(&server.socket(), "small")?;
    for mut reader in [old, new] {
        ensure!(
            reader.read_or_error(0, &mut block)? == NBD_EIO,
            "it still answers"
        );
        let written = reader.call(command::WRITE, 0, 512, &[1; 512])?;
        ensure!(written == NBD_EIO, "it takes a write: {written}");
    }
    let listed = world.listed("small")?;
    ensure!(listed["state"] == "dropped", "{listed}");
    let why = listed["why"].as_str().unwrap_or_default();
    ensure!(why.contains("full"), "{listed}");
    let status = LAB
        .usnap(&["status", lab::text(&world.cow("small"))?])
        .ok()?;
    ensure!(
        status.starts_with("Invalid\n") && status.contains(why),
        "{status}"
    );
    shows(&server, "large", &moment)?;
    shows(&server, "", &world.bytes)?;

    world.done("drop", &["small"])?;
    ensure!(
        RawClient::connect_to(&server.socket(), "small").is_err(),
        "it is still there"
    );
    // The COW that ran full is none of this origin any more; a new one of the name is.
    let refused = world.snapshot("add", &[&specs[0]])?;
    ensure!(
        refused.status.code() == Some(1) && refused.stderr.contains("usnap: cannot "),
        "{refused}"
    );
    std::fs::remove_file(world.cow("small"))?;
    world.done("add", &[&world.spec("small", "")])?;
    let second = world.bytes.clone();
    world.change(&mut client, 20)?;
    shows(&server, "small", &second)?;
    let log = server.stop()?;
    ensure!(
        log.contains("snapshot small on ") && log.contains("it was dropped"),
        "{log}"
    );
    Ok(())
}

#[test]
fn a_server_that_starts_with_a_dropped_snapshot_refuses_and_leaves_it_as_it_is() -> Result<()> {
    let mut world = World::new("invalid", 6)?;
    let specs = [world.spec("small", ",cow-size=100K"), world.spec("new", "")];
    let server = world.serve(&specs[..1], &[])?;
    let mut client = RawClient::connect(&server.socket())?;
    world.change(&mut client, 60)?;
    server.stop()?;
    let untouched = lab::Untouched::note(&world.cow("small"))?;
    let refused = LAB
        .usnap(&["serve-origin", lab::text(&world.origin())?])
        .args(["--snapshot", &specs[1], "--snapshot", &specs[0], "--single"])
        .fails_with(1)?;
    ensure!(refused.stderr.contains("usnap: cannot "), "{refused}");
    ensure!(
        !world.cow("new").exists(),
        "a COW was left behind: {refused}"
    );
    untouched.verify()
}

#[test]
fn if_asked_for_the_origins_write_is_refused_and_no_snapshot_is_given_up() -> Result<()> {
    let world = World::new("refuse", 7)?;
    let specs = [
        world.spec("small", ",cow-size=200K"),
        world.spec("large", ""),
    ];
    let server = world.serve(&specs, &["--when-full", "refuse"])?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut expected = world.bytes.clone();
    let (mut done, mut refused) = (Vec::new(), 0);
    for block in 0..200_usize {
        let at = block * 4096;
        match client.call(command::WRITE, at as u64, 4096, &[7; 4096])? {
            0 => {
                expected[at..at + 4096].fill(7);
                done.push(at);
            }
            NBD_ENOSPC => refused += 1,
            other => anyhow::bail!("error {other} at block {block}"),
        }
    }
    ensure!(
        done.len() > 20 && refused > 100,
        "{} done, {refused} refused",
        done.len()
    );
    // What is saved may change as often as one likes.
    for at in &done {
        client.write_at(*at as u64, &[8; 4096])?;
        expected[*at..*at + 4096].fill(8);
    }
    for name in ["small", "large"] {
        shows(&server, name, &world.bytes)?;
        ensure!(
            world.listed(name)?["state"] == "active",
            "{name} was given up"
        );
    }
    shows(&server, "", &expected)?;
    world.done("drop", &["small"])?;
    client.write_at(199 * 4096, &[9; 4096])?;
    expected[199 * 4096..200 * 4096].fill(9);
    shows(&server, "", &expected)?;
    shows(&server, "large", &world.bytes)?;
    server.stop()?;
    Ok(())
}
