//! Where clients connect: paths that are taken, sockets that are passed on, and who may enter.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use usnap_test_support::lab::{text, write_file};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{MIB, Need, RawClient, Scratch, Tool, missing};

use crate::LAB;
use crate::refused::refused;

fn origin_in(scratch: &Scratch) -> Result<PathBuf> {
    let origin = scratch.join("origin.img");
    random_file(&origin, MIB, 61)?;
    Ok(origin)
}

/// A server at a path of our choosing, killed when dropped.
struct At(Child);

impl At {
    fn start(origin: &Path, socket: &Path) -> Result<Self> {
        let child = Command::new(LAB.program())
            .args([
                "serve",
                text(origin)?,
                "--transient",
                "--socket",
                text(socket)?,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start usnap")?;
        let mut server = Self(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while RawClient::connect(socket).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("usnap ended: {status}");
            }
            ensure!(
                Instant::now() < deadline,
                "usnap does not listen at {}",
                socket.display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for At {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A directory whose path leaves room for a socket's name.
fn short_scratch() -> Result<Scratch> {
    Scratch::new(Path::new("/tmp"), "usnap-sockets")
}

#[test]
fn the_socket_of_a_killed_server_is_taken_over_and_that_of_a_live_one_is_not() -> Result<()> {
    let scratch = short_scratch()?;
    let origin = origin_in(&scratch)?;
    let socket = scratch.join("s");
    At::start(&origin, &socket)?.kill()?;
    ensure!(
        socket.exists(),
        "the test needs a socket that a killed server left behind"
    );

    let _live = At::start(&origin, &socket)?;
    let mut client = RawClient::connect(&socket)?;
    let arguments = [
        "serve",
        text(&origin)?,
        "--transient",
        "--socket",
        text(&socket)?,
    ];
    refused(LAB.usnap(&arguments), &[text(&socket)?])?;
    client.write_at(0, &[1; 512])?;
    client.disconnect()?;
    RawClient::connect(&socket)?.disconnect()
}

#[test]
fn a_file_in_the_sockets_place_is_not_removed() -> Result<()> {
    let scratch = short_scratch()?;
    let origin = origin_in(&scratch)?;
    let socket = scratch.join("s");
    write_file(&socket, b"something of value")?;
    let arguments = [
        "serve",
        text(&origin)?,
        "--transient",
        "--socket",
        text(&socket)?,
    ];
    refused(LAB.usnap(&arguments), &[text(&socket)?])?;
    assert_eq!(fs::read(&socket)?, b"something of value");
    let nowhere = scratch.join("no-such-directory/s");
    let arguments = [
        "serve",
        text(&origin)?,
        "--transient",
        "--socket",
        text(&nowhere)?,
    ];
    refused(LAB.usnap(&arguments), &[text(&nowhere)?])?;
    Ok(())
}

#[test]
fn only_its_owner_can_enter_a_socket_and_it_goes_with_the_server() -> Result<()> {
    let scratch = LAB.scratch("owner")?;
    let origin = origin_in(&scratch)?;
    let server = LAB.serve(&origin)?.args(&["--transient"]).start()?;
    let metadata = fs::metadata(server.socket())?;
    ensure!(metadata.file_type().is_socket(), "{metadata:?}");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let held_open = RawClient::connect(&server.socket())?;
    let socket = server.socket();
    server.stop()?;
    ensure!(!socket.exists(), "the socket was left behind");
    drop(held_open);
    Ok(())
}

#[test]
fn run_gives_the_command_a_private_socket_and_passes_its_status_on() -> Result<()> {
    if missing(&[Need::Program("nbdinfo")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("run")?;
    let origin = origin_in(&scratch)?;
    let serve = ["serve", text(&origin)?, "--transient", "-U", "-", "--run"];
    let said = LAB
        .usnap(&serve)
        .arg(r#"nbdinfo --size "$uri"; ls -ld "${unixsocket%/*}""#)
        .ok()?;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.first().copied(), Some("1048576"), "{said}");
    ensure!(
        lines
            .get(1)
            .is_some_and(|line| line.starts_with("drwx------")),
        "{said}"
    );
    LAB.usnap(&serve).arg("exit 42").fails_with(42)?;
    Ok(())
}

#[test]
fn a_client_starts_the_server_on_tcp_and_on_loopback_only() -> Result<()> {
    if missing(&[Need::Program("nbdinfo")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("tcp")?;
    let origin = origin_in(&scratch)?;
    let serve = [
        "serve",
        text(&origin)?,
        "--transient",
        "--listen",
        "127.0.0.1:0",
        "--run",
    ];
    let said = LAB.usnap(&serve).arg(r#"nbdinfo --size "$uri""#).ok()?;
    assert_eq!(said.trim(), "1048576");
    let open = [
        "serve",
        text(&origin)?,
        "--transient",
        "--listen",
        "0.0.0.0:0",
        "--run",
        "true",
    ];
    let warned = LAB.usnap(&open).run()?;
    ensure!(warned.status.success(), "{warned}");
    ensure!(
        !warned.stderr.is_empty(),
        "no warning about an address beyond loopback: {warned}"
    );
    let quiet = Tool::new(Path::new(LAB.program()))
        .args(serve)
        .arg("true")
        .run()?;
    ensure!(
        !quiet.stderr.contains("loopback"),
        "a warning without a reason: {quiet}"
    );
    Ok(())
}
