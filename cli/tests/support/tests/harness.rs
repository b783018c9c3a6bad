//! The harness itself, against programs that are known to work: what it reports can be believed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use usnap_test_support::lab::text;
use usnap_test_support::log_writes::WriteLog;
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

#[test]
fn a_write_log_is_replayed_up_to_a_mark() -> Result<()> {
    let scratch = scratch("log")?;
    // The head; a write of two sectors to sector 1; a mark; a discard of sector 1; a write to sector 0.
    let mut log = sector(&[0x006a_7366_7773_6872, 1, 4, 512], b"");
    log.extend(sector(&[1, 2, 0, 0], b""));
    log.extend([[0xaa; 512], [0xbb; 512]].concat());
    log.extend(sector(&[0, 0, 8, 4], b"one\0"));
    log.extend(sector(&[1, 1, 4, 0], b""));
    log.extend(sector(&[0, 1, 1, 0], b""));
    log.extend([0xcc; 512]);
    let path = scratch.join("log");
    std::fs::write(&path, &log)?;
    let log = WriteLog::read(&path)?;
    assert_eq!((log.len(), log.mark("one")?), (4, 1));
    ensure!(log.mark("two").is_err(), "there is no such mark");

    let image = scratch.sparse_file("image", 3 * 512)?;
    let file = std::fs::File::options().write(true).open(&image)?;
    log.replay(&file, 0, log.mark("one")?)?;
    let sectors = |bytes: [u8; 3]| bytes.map(|byte| [byte; 512]).concat();
    ensure!(std::fs::read(&image)? == sectors([0, 0xaa, 0xbb]), "before");
    log.replay(&file, 1, log.len())?;
    ensure!(std::fs::read(&image)? == sectors([0xcc, 0, 0xbb]), "behind");

    std::fs::write(&path, vec![0; 4096])?;
    ensure!(WriteLog::read(&path).is_err(), "that is no log");
    Ok(())
}

/// A sector of a log: these words, then `rest`, then zeros.
fn sector(words: &[u64], rest: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(rest);
    bytes.resize(512, 0);
    bytes
}
