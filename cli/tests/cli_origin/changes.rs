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
