//! `usnap demo`: the main job on an image that it makes itself. Every line that begins with `$` is
//! a command as a user would type it, and what is typed for usnap is really parsed and run here.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use rustix::process::{Signal, getpid, kill_process};
use usnap_nbd::proto::client::ClientOptions;
use usnap_nbd::proto::client::blocking::{Client, Zeroing};

use crate::args::Cli;
use crate::commands::{dump, run as run_command};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::printable;
use crate::private_dir;

const IMAGE_MIB: usize = 64;
const IMAGE_BYTES: usize = IMAGE_MIB << 20;
const FILES: usize = 200;
const FILE_BYTES: usize = 32 << 10;
const WRITES: usize = 1000;
const BLOCK_BYTES: usize = 4096;
const SOCKET: &str = "socket";
/// The server needs milliseconds; a machine on its knees may need seconds.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// So many lines of a dump tell how it goes on.
const DUMP_LINES: usize = 9;

/// Show the main job on an image that it makes itself
///
/// Makes a disk image in a temporary folder, serves it, writes to it over NBD, shows what happened,
/// serves it once more, and shows that the image is unchanged. Takes a few seconds, needs nothing
/// installed and leaves nothing behind.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example: usnap demo --pattern")]
pub(crate) struct Args {
    /// Make an image with a pattern, as where there is no mke2fs to make an ext4 filesystem
    #[arg(long)]
    pattern: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let folder = private_dir::create_temporary(SOCKET).context("cannot make a temporary folder")?;
    std::env::set_current_dir(folder.path()).context("cannot enter the temporary folder")?;
    let shown = show(folder.path(), args.pattern);
    // So that the folder is nobody's current one when it is removed.
    let _ = std::env::set_current_dir("/");
    shown.map_err(|failure| failure.context(|| "cannot go on with the demo".to_owned()))?;
    folder
        .close()
        .context("cannot remove the temporary folder")?;
    Ok(ExitCode::Success)
}

fn show(folder: &Path, pattern: bool) -> Result<()> {
    say(&format!(
        "# in {}, which is removed at the end",
        printable::path(folder)
    ))?;
    if pattern || !make_filesystem()? {
        make_pattern()?;
    }
    let mut content = fs::read("disk.img").context("cannot read the image")?;
    let before = checksum(&content)?;

    let server = Server::start("usnap serve disk.img --cow changes.cow --socket socket &")?;
    let mut client = server.connect()?;
    ruin(&mut client, &mut content)?;
    compare(&mut client, &content)?;
    client
        .disconnect()
        .context("cannot say goodbye to the server")?;
    typed("usnap status changes.cow")?;
    server.stop()?;

    typed("usnap check changes.cow --origin disk.img")?;
    abbreviated_dump()?;

    let server = Server::start("usnap serve disk.img --cow changes.cow --socket socket &")?;
    let mut client = server.connect()?;
    compare(&mut client, &content)?;
    client
        .disconnect()
        .context("cannot say goodbye to the server")?;
    server.stop()?;

    if checksum(&fs::read("disk.img").context("cannot read the image")?)? != before {
        return Err(Failure::new("cannot believe it: the image was changed"));
    }
    say("# the image is unchanged; all changes are in changes.cow, in the kernel's format")
}

fn say(line: &str) -> Result<()> {
    output::print(line)
}

/// Parses and runs a command of ours.
fn typed(line: &str) -> Result<()> {
    say(&format!("$ {line}"))?;
    match run_command(Cli::try_parse_from(line.split_whitespace())?.command)? {
        ExitCode::Success => Ok(()),
        code => Err(Failure::new(format!(
            "cannot go on: exit code {}",
            code.code()
        ))),
    }
}

/// An ext4 filesystem with some files; false where there is no mke2fs.
fn make_filesystem() -> Result<bool> {
    let failed = "cannot make the image's files";
    fs::create_dir("tree").context(failed)?;
    let mut random = Random(1);
    for number in 0..FILES {
        let mut content = vec![0; FILE_BYTES];
        random.fill(&mut content);
        fs::write(format!("tree/file-{number:03}"), content).context(failed)?;
    }
    let size = format!("{IMAGE_MIB}M");
    let arguments = ["-q", "-t", "ext4", "-d", "tree", "disk.img", &size];
    // A user's path leaves the system's folders out.
    for program in ["mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"] {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if command.status().is_ok_and(|status| status.success()) {
            say(&format!("$ mke2fs {}", arguments.join(" ")))?;
            return Ok(true);
        }
    }
    say("# no mke2fs here: the image is a pattern instead of a filesystem")?;
    Ok(false)
}

/// Every other MiB is random and the rest empty: most images have holes.
fn make_pattern() -> Result<()> {
    let mut content = vec![0; IMAGE_BYTES];
    let mut random = Random(1);
    content
        .chunks_mut(1 << 20)
        .step_by(2)
        .for_each(|part| random.fill(part));
    say(&format!(
        "# disk.img: {IMAGE_MIB} MiB, every other MiB random, the rest empty"
    ))?;
    Ok(fs::write("disk.img", content).context("cannot write the image")?)
}

fn checksum(content: &[u8]) -> Result<u32> {
    let sum = crc32fast::hash(content);
    say(&format!("$ crc32 disk.img\n{sum:08x}"))?;
    Ok(sum)
}

/// Overwrites blocks all over the device, and does the same to `content`.
fn ruin(client: &mut Client<UnixStream>, content: &mut [u8]) -> Result<()> {
    let failed = "cannot write over NBD";
    let begun = Instant::now();
    let mut random = Random(2);
    let mut block = [0; BLOCK_BYTES];
    let blocks = (content.len() / BLOCK_BYTES) as u64;
    for _ in 0..WRITES {
        let at = usize::try_from(random.next() % blocks).unwrap_or(0) * BLOCK_BYTES;
        random.fill(&mut block);
        client.write_at(&block, at as u64, false).context(failed)?;
        content[at..at + BLOCK_BYTES].copy_from_slice(&block);
    }
    let zeroed = 1 << 20..2 << 20;
    client
        .write_zeroes(zeroed.start as u64, zeroed.len() as u64, Zeroing::default())
        .context(failed)?;
    content[zeroed].fill(0);
    client.flush().context(failed)?;
    say(&format!(
        "# over NBD: {WRITES} writes of 4 KiB all over it, 1 MiB of zeroes, a flush: {} ms",
        begun.elapsed().as_millis()
    ))
}

/// Reads all of the device and compares.
fn compare(client: &mut Client<UnixStream>, content: &[u8]) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let begun = Instant::now();
    let mut piece = vec![0; PIECE];
    for (index, expected) in content.chunks(PIECE).enumerate() {
        let got = &mut piece[..expected.len()];
        client
            .read_at(got, (index * PIECE) as u64)
            .context("cannot read over NBD")?;
        if got != expected {
            return Err(Failure::new(format!(
                "cannot believe it: MiB {index} reads otherwise"
            )));
        }
    }
    say(&format!(
        "# over NBD: read all of it and compared, every byte as written: {} ms",
        begun.elapsed().as_millis()
    ))
}

fn abbreviated_dump() -> Result<()> {
    let text = dump::to_text(Path::new("changes.cow"))?;
    say(&format!("$ usnap dump changes.cow | head -{DUMP_LINES}"))?;
    text.lines().take(DUMP_LINES).try_for_each(say)
}

/// `usnap serve` on a thread: the same code as in a process of its own.
struct Server {
    thread: JoinHandle<Result<ExitCode>>,
}

impl Server {
    fn start(line: &str) -> Result<Self> {
        say(&format!("$ {line}"))?;
        let words = line.trim_end_matches(" &").split_whitespace();
        let command = Cli::try_parse_from(words)?.command;
        let thread = std::thread::Builder::new()
            .name("serve".to_owned())
            .spawn(|| run_command(command))
            .context("cannot start a thread")?;
        let deadline = Instant::now() + READY_LIMIT;
        while UnixStream::connect(SOCKET).is_err() {
            if thread.is_finished() {
                return Err(match join(thread) {
                    Ok(_) => Failure::new("cannot go on: the server ended"),
                    Err(failure) => failure,
                });
            }
            if Instant::now() > deadline {
                return Err(Failure::new("cannot go on: the server is not ready"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self { thread })
    }

    fn connect(&self) -> Result<Client<UnixStream>> {
        let stream = UnixStream::connect(SOCKET).context("cannot connect to the server")?;
        Ok(Client::connect(stream, ClientOptions::new(""))
            .context("cannot connect to the server")?)
    }

    fn stop(self) -> Result<()> {
        say("$ kill %1")?;
        kill_process(getpid(), Signal::TERM).context("cannot signal the server")?;
        join(self.thread).map(drop)
    }
}

fn join(thread: JoinHandle<Result<ExitCode>>) -> Result<ExitCode> {
    thread
        .join()
        .map_err(|_| Failure::new("cannot go on: the server panicked"))?
}

/// Numbers that look random, the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            part.copy_from_slice(&number[..part.len()]);
        }
    }
}
