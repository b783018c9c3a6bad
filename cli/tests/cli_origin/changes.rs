//! Snapshots added, dropped and listed while the origin is served.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use usnap_test_support::raw_client::command;
use usnap_test_support::{Need, RawClient, Tool, lab, missing};

use crate::world::{LAB, World, shows};

#[test]
fn a_dropped_snapshot_is_taken_from_its_clients_and_its_name_is_free() -> Result<()> {
    let mut world = World::new("free", 8)?;
    let server = world.serve(&[], &[])?;
    ensure!(
        world.done("list", &[])?.contains("no snapshots"),
        "there are some"
    );
    let mut client = RawClient::connect(&server.socket())?;
    let spec = world.spec("one", ",chunk-size=16K");
    world.done("add", &[&spec])?;
    let moment = world.bytes.clone();
    let mut reader = RawClient::connect_to(&server.socket(), "one")?;
    world.change(&mut client, 10)?;
    ensure!(reader.read_all()? == moment, "not its moment");
    world.done("drop", &["one"])?;
    ensure!(
        reader.read_or_error(0, &mut [0; 512]).is_err(),
        "its client is still served"
    );
    ensure!(
        RawClient::connect_to(&server.socket(), "one").is_err(),
        "it is found"
    );
    let status = LAB.usnap(&["status", lab::text(&world.cow("one"))?]).ok()?;
    ensure!(status.contains("no server answers"), "{status}");
    LAB.check_is_clean(&world.cow("one"))?;
    // Nobody wrote to the origin since, so the COW still fits.
    world.done("add", &[&spec])?;
    shows(&server, "one", &moment)?;
    world.change(&mut client, 10)?;
    shows(&server, "one", &moment)?;
    world.done("drop", &["one"])?;
    world.change(&mut client, 1)?;
    shows(&server, "", &world.bytes)?;
    server.stop()?;
    Ok(())
}

#[test]
fn a_snapshot_of_this_moment_has_what_was_answered_before() -> Result<()> {
    let mut world = World::new("now", 9)?;
    let server = world.serve(&[], &["--when-full", "refuse"])?;
    let mut client = RawClient::connect(&server.socket())?;
    for round in 0..6 {
        world.change(&mut client, 5)?;
        let name = format!("s{round}");
        world.done("add", &[&world.spec(&name, "")])?;
        let moment = world.bytes.clone();
        world.change(&mut client, 5)?;
        shows(&server, &name, &moment)?;
    }
    server.stop()?;
    Ok(())
}

#[test]
fn a_read_only_export_takes_no_writes_and_still_keeps_its_moment() -> Result<()> {
    let mut world = World::new("readonly", 10)?;
    let moment = world.bytes.clone();
    let server = world.serve(&[world.spec("ro", ",read-only,label=a,,b")], &[])?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut reader = RawClient::connect_to(&server.socket(), "ro")?;
    let error = reader.call(command::WRITE, 0, 512, &[1; 512])?;
    ensure!(error == 1, "a write was answered {error}");
    world.change(&mut client, 20)?;
    shows(&server, "ro", &moment)?;
    let status = LAB.usnap(&["status", lab::text(&world.cow("ro"))?]).ok()?;
    ensure!(status.contains("label \"a,b\""), "{status}");
    server.stop()?;
    Ok(())
}

#[test]
fn clients_are_shown_what_there_is() -> Result<()> {
    if missing(&[Need::Program("nbdinfo")])? {
        return Ok(());
    }
    let world = World::new("shown", 11)?;
    let server = world.serve(&[world.spec("one", "")], &["--name", "the disk"])?;
    let names = || -> Result<Vec<String>> {
        let said = Tool::new("nbdinfo")
            .args(["--list", "--json", server.uri()])
            .ok()?;
        let value: serde_json::Value = serde_json::from_str(&said)?;
        let exports = value["exports"].as_array().context("no exports")?;
        let name = |one: &serde_json::Value| one["export-name"].as_str().map(str::to_owned);
        Ok(exports.iter().filter_map(name).collect())
    };
    ensure!(names()? == ["the disk", "one"], "{:?}", names()?);
    world.done("add", &[&world.spec("two", "")])?;
    ensure!(names()? == ["the disk", "one", "two"], "{:?}", names()?);
    world.done("drop", &["one"])?;
    ensure!(names()? == ["the disk", "two"], "{:?}", names()?);
    server.stop()?;
    Ok(())
}

#[test]
fn only_its_user_can_ask_a_server() -> Result<()> {
    let world = World::new("private", 12)?;
    let runtime = world.scratch.join("run");
    std::fs::create_dir(&runtime)?;
    std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o700))?;
    let origin = world.origin();
    let spec = world.spec("one", "");
    let command = "for f in \"$XDG_RUNTIME_DIR\"/usnap/*; do stat -c '%a %F' \"$f\"; done; \
                   stat -c '%a %F' \"$XDG_RUNTIME_DIR/usnap\"";
    let said = LAB
        .usnap(&[
            "serve-origin",
            lab::text(&origin)?,
            "--snapshot",
            &spec,
            "--run",
            command,
        ])
        .env("XDG_RUNTIME_DIR", &runtime)
        .ok()?;
    ensure!(said == "600 socket\n600 socket\n700 directory\n", "{said}");
    let left: Vec<_> = std::fs::read_dir(runtime.join("usnap"))?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
fn a_cow_file_that_is_there_already_becomes_a_snapshot_of_the_moment_it_is_added() -> Result<()> {
    let mut world = World::new("made", 16)?;
    let cow = world.cow("made");
    LAB.usnap(&["create", lab::text(&cow)?, "--size", "20M"])
        .args(["--chunk-size", "8K", "--label", "made"])
        .ok()?;
    let server = world.serve(&[], &[])?;
    let mut client = RawClient::connect(&server.socket())?;
    world.change(&mut client, 10)?;
    let added = world.snapshot("add", &[&world.spec("made", ",chunk-size=4K")])?;
    ensure!(added.status.success(), "{added}");
    ensure!(added.stderr.contains("is tied to origin"), "{added}");
    let moment = world.bytes.clone();
    world.change(&mut client, 10)?;
    shows(&server, "made", &moment)?;
    let listed = world.listed("made")?;
    ensure!(listed["chunk_size_bytes"] == 8192, "{listed}");
    let log = server.stop()?;
    ensure!(log.contains("has a chunk size of 8 KiB"), "{log}");
    Ok(())
}

#[test]
fn the_room_of_each_snapshot_is_watched() -> Result<()> {
    let world = World::new("watched", 17)?;
    let said = world.scratch.join("said");
    let hook = format!("50:echo $USNAP_COW $USNAP_PERCENT >> {}", said.display());
    let specs = [world.spec("small", ",cow-size=1M"), world.spec("large", "")];
    let server = world.serve(&specs, &["--on-space", &hook])?;
    let mut client = RawClient::connect(&server.socket())?;
    client.write_at(0, &[1; 600 << 10])?;
    let log = server.stop()?;
    let expected = format!("{} 50\n", world.cow("small").display());
    ensure!(std::fs::read_to_string(said)? == expected, "{log}");
    Ok(())
}

#[test]
fn the_status_of_an_origin_is_asked_for_by_another_command() -> Result<()> {
    let world = World::new("status", 18)?;
    let server = world.serve(&[world.spec("one", "")], &[])?;
    let origin = world.origin();
    let refused = LAB.usnap(&["status", lab::text(&origin)?]).fails_with(1)?;
    ensure!(
        refused.stderr.contains("\nhint: usnap snapshot list "),
        "{refused}"
    );
    server.stop()?;
    Ok(())
}
