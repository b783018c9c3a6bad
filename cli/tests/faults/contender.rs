//! Who is killed: usnap with a COW file, or qemu-nbd with a qcow2 file over the same origin.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use usnap_test_support::disks::device;
use usnap_test_support::lab::text;
use usnap_test_support::tool::wait;
use usnap_test_support::{RawClient, Scratch, Serve, Server, Tool};

use crate::LAB;
use crate::machine::{self, clear};

/// A program that serves changes over an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Usnap,
    /// Which must lose something, or the rounds are blind.
    UsnapWithoutJournal,
    /// With a block device as its COW, inside the guest.
    UsnapOnDevice,
    QemuNbd,
}

/// A server; killed when dropped.
pub(crate) enum Running {
    Usnap(Server),
    QemuNbd { child: Child, place: Scratch },
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Usnap => "usnap",
            Self::UsnapWithoutJournal => "usnap, no journal",
            Self::UsnapOnDevice => "usnap, block device",
            Self::QemuNbd => "qemu-nbd, qcow2",
        }
    }

    /// Where its store is, with `place` for files.
    pub(crate) fn store(self, place: &Path) -> Result<PathBuf> {
        match self {
            Self::Usnap | Self::UsnapWithoutJournal => Ok(place.join("store.cow")),
            Self::UsnapOnDevice => device("COW"),
            Self::QemuNbd => Ok(place.join("store.qcow2")),
        }
    }

    /// Makes what the program does not make itself when it starts.
    pub(crate) fn create(self, origin: &Path, store: &Path) -> Result<()> {
        match self {
            Self::Usnap | Self::UsnapWithoutJournal => Ok(()),
            Self::UsnapOnDevice => clear(store),
            Self::QemuNbd => Tool::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                .args([origin, store])
                .ok()
                .map(drop),
        }
    }

    /// Starts it and waits until it serves. `options` are usnap's.
    pub(crate) fn start(self, origin: &Path, store: &Path, options: &[String]) -> Result<Running> {
        match self {
            Self::Usnap | Self::UsnapWithoutJournal | Self::UsnapOnDevice => {
                Ok(Running::Usnap(self.serve(origin, store, options)?.start()?))
            }
            Self::QemuNbd => {
                let place = qemu_place()?;
                let mut child = qemu(store, &place)?.spawn().context("no qemu-nbd")?;
                let deadline = Instant::now() + Duration::from_secs(30);
                while RawClient::connect(&place.join("s")).is_err() {
                    if let Some(status) = child.try_wait()? {
                        let log = std::fs::read_to_string(place.join("log"))?;
                        bail!("qemu-nbd ended ({status}): {log}");
                    }
                    ensure!(Instant::now() < deadline, "qemu-nbd does not serve");
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(Running::QemuNbd { child, place })
            }
        }
    }

    /// Starts it and kills it after `pause`, whether it serves by then or not.
    pub(crate) fn kill_after(
        self,
        origin: &Path,
        store: &Path,
        options: &[String],
        pause: Duration,
    ) -> Result<()> {
        match self {
            Self::Usnap | Self::UsnapWithoutJournal | Self::UsnapOnDevice => {
                self.serve(origin, store, options)?.kill_after(pause)
            }
            Self::QemuNbd => {
                let place = qemu_place()?;
                let mut child = qemu(store, &place)?.spawn().context("no qemu-nbd")?;
                std::thread::sleep(pause);
                child.kill()?;
                child.wait()?;
                Ok(())
            }
        }
    }

    /// Whether the program's own check finds nothing wrong with the store.
    pub(crate) fn is_sound(self, store: &Path) -> Result<bool> {
        match self {
            Self::Usnap | Self::UsnapWithoutJournal | Self::UsnapOnDevice => {
                if !store.exists() {
                    return Ok(true);
                }
                let output = LAB.usnap(&["check", text(store)?]).run()?;
                match output.status.code() {
                    Some(0) => Ok(true),
                    Some(3) => Ok(false),
                    _ => bail!("{output}"),
                }
            }
            Self::QemuNbd => {
                let output = Tool::new("qemu-img").arg("check").arg(store).run()?;
                // 3 is clusters that nothing uses any more: no damage.
                Ok(matches!(output.status.code(), Some(0 | 3)))
            }
        }
    }

    fn serve(self, origin: &Path, store: &Path, options: &[String]) -> Result<Serve> {
        if self == Self::UsnapOnDevice {
            // A device can't say that nobody else wrote to it, so the user has to.
            let words = options
                .chunks(2)
                .filter(|pair| !matches!(pair[0].as_str(), "--cow-size" | "--max-cow"));
            let words: Vec<&str> = words.flatten().map(String::as_str).collect();
            let serve = machine::serve(origin, store)?.args(&words);
            return Ok(serve.args(&["--journal=replay"]));
        }
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        let serve = LAB.serve(origin)?.cow(store).args(&words);
        Ok(match self {
            Self::UsnapWithoutJournal => serve.args(&["--journal=off"]),
            _ => serve,
        })
    }
}

impl Running {
    pub(crate) fn socket(&self) -> PathBuf {
        match self {
            Self::Usnap(server) => server.socket(),
            Self::QemuNbd { place, .. } => place.join("s"),
        }
    }

    pub(crate) fn log(&self) -> Result<String> {
        match self {
            Self::Usnap(server) => server.log(),
            Self::QemuNbd { place, .. } => Ok(std::fs::read_to_string(place.join("log"))?),
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(self) -> Result<()> {
        match self {
            Self::Usnap(server) => {
                let log = server.log()?;
                ensure!(!log.contains("panicked"), "a thread panicked:\n{log}");
                server.kill()
            }
            Self::QemuNbd { mut child, .. } => {
                child.kill()?;
                child.wait()?;
                Ok(())
            }
        }
    }

    /// Ends it with SIGTERM.
    pub(crate) fn stop(self) -> Result<()> {
        match self {
            Self::Usnap(server) => server.stop().map(drop),
            Self::QemuNbd { mut child, .. } => {
                let pid = i32::try_from(child.id())
                    .ok()
                    .and_then(rustix::process::Pid::from_raw)
                    .context("no such pid")?;
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
                let ended = wait(&mut child, Duration::from_secs(60))?;
                ensure!(ended.is_some(), "qemu-nbd does not end");
                Ok(())
            }
        }
    }
}

/// Where qemu-nbd's socket goes: the path of one must be short.
fn qemu_place() -> Result<Scratch> {
    Scratch::new(&std::env::temp_dir(), "q")
}

fn qemu(store: &Path, place: &Scratch) -> Result<Command> {
    let log = std::fs::File::create(place.join("log"))?;
    let mut command = Command::new("qemu-nbd");
    command
        .args(["-f", "qcow2", "-t", "-e", "64", "--cache=writeback"])
        .args(["--discard=unmap", "--detect-zeroes=off", "-k"])
        .args([&place.join("s"), store])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Ok(command)
}
