//! The harness itself, against programs that are known to work: what it reports can be believed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use usnap_test_support::lab::text;
use usnap_test_support::raw_client::command;
use usnap_test_support::{Guest, MIB, NBD_ENOSPC, Need, RawClient, Scratch, Tool, missing};

fn scratch(name: &str) -> Result<Scratch> {
    Scratch::new(Path::new(env!("CARGO_TARGET_TMPDIR")), name)
}

/// nbdkit in the foreground; killed when dropped.
struct Nbdkit(Child);

impl Nbdkit {
    fn start(socket: &Path, arguments: &[&str]) -> Result<Self> {
        let child = Command::new("nbdkit")
            .args(["-f", "-U", text(socket)?])
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start nbdkit")?;
        let server = Self(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            ensure!(Instant::now() < deadline, "nbdkit makes no socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_raw_client_reads_back_what_it_wrote() -> Result<()> {
    if missing(&[Need::Program("nbdkit")])? {
        return Ok(());
    }
    let scratch = scratch("raw")?;
    let socket = scratch.join("s");
    let _nbdkit = Nbdkit::start(&socket, &["memory", "4M"])?;
    let mut client = RawClient::connect(&socket)?;
    assert_eq!(client.size_bytes(), 4 * MIB);
    let pieces: Vec<Vec<u8>> = (0..200_u8).map(|value| vec![value; 4096]).collect();
    let writes: Vec<(u64, &[u8])> = (0_u64..)
        .map(|at| at * 4096)
        .zip(pieces.iter().map(Vec::as_slice))
        .collect();
    client.write_all(&writes)?;
    client.flush()?;
    let mut read = vec![0; 4096 * 200];
    client.read_at(0, &mut read)?;
    assert!(read == pieces.concat());
    client.disconnect()
}

#[test]
fn the_raw_client_sees_the_error_number_on_the_wire() -> Result<()> {
    if missing(&[Need::Program("nbdkit")])? {
        return Ok(());
    }
    let scratch = scratch("enospc")?;
    let socket = scratch.join("s");
    let failing = [
        "--filter=error",
        "memory",
        "1M",
        "error=ENOSPC",
        "error-pwrite-rate=100%",
    ];
    let _nbdkit = Nbdkit::start(&socket, &failing)?;
    let mut client = RawClient::connect(&socket)?;
    assert_eq!(client.call(command::WRITE, 0, 512, &[1; 512])?, NBD_ENOSPC);
    client.disconnect()
}

#[test]
fn a_tool_that_hangs_is_ended_and_reported() -> Result<()> {
    let hangs = Tool::new("sleep")
        .arg("60")
        .limit(Duration::from_millis(100))
        .run();
    let message = hangs
        .err()
        .context("it ended within the limit")?
        .to_string();
    ensure!(message.contains("did not end"), "{message}");
    Ok(())
}

#[test]
fn the_guest_has_device_mapper_and_gives_its_scripts_output_and_failure() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = scratch("boot")?;
    let disk = scratch.sparse_file("disk", MIB)?;
    let guest = Guest::new()
        .disk("DISK", &disk)
        .variable("WORD", "two words");
    let said = guest.run(
        &scratch,
        "echo word $WORD; echo bytes $(blockdev --getsize64 $DISK)\n\
         dmsetup targets | grep -q '^snapshot ' && echo targets fine",
    )?;
    assert_eq!(said.value("word")?, "two words");
    assert_eq!(said.value("bytes")?, MIB.to_string());
    assert_eq!(said.value("targets")?, "fine");
    let failed = guest.run(&scratch, "echo before; false; echo after");
    let message = failed.err().context("a failing script passed")?.to_string();
    ensure!(
        message.contains("before") && !message.contains("after"),
        "{message}"
    );
    Ok(())
}
