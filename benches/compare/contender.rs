//! The servers: how each is started over fresh files, and the processor time it has used.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::{Context, Result, bail};
use usnap_test_support::{Scratch, Tool};

/// What all contenders share.
#[derive(Debug)]
pub(crate) struct Files {
    /// Where overlays go.
    pub(crate) directory: PathBuf,
    /// The image below all overlays.
    pub(crate) origin: PathBuf,
    /// The usnap that is measured.
    pub(crate) usnap: PathBuf,
}

/// A server that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// nbdkit over a plain copy of the image: no copy-on-write at all.
    NbdkitFile,
    /// nbdkit's cow filter, at our block size; it keeps nothing and ignores flushes.
    NbdkitCow,
    /// qemu-nbd with an overlay in qcow2, as `qemu-img create` makes it.
    QemuNbd,
    /// usnap with a COW file.
    UsnapPersistent,
    /// usnap with its changes in memory.
    UsnapTransient,
}

/// A server that runs, and the files that are its own; both go when it is dropped.
pub(crate) struct Running {
    child: Child,
    socket: PathBuf,
    _overlay: Scratch,
}

impl Contender {
    /// All, in the order of the tables' rows.
    pub(crate) const ALL: [Self; 5] = [
        Self::NbdkitFile,
        Self::NbdkitCow,
        Self::QemuNbd,
        Self::UsnapPersistent,
        Self::UsnapTransient,
    ];

    /// Whether it is usnap.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::UsnapPersistent | Self::UsnapTransient)
    }

    /// The programs that must be installed.
    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::NbdkitFile | Self::NbdkitCow => &["nbdkit"],
            Self::QemuNbd => &["qemu-nbd", "qemu-img"],
            Self::UsnapPersistent | Self::UsnapTransient => &[],
        }
    }

    /// Starts it over a fresh overlay and waits until it accepts connections.
    pub(crate) fn start(self, files: &Files) -> Result<Running> {
        let overlay = Scratch::new(&files.directory, "overlay")?;
        let socket = overlay.join("s");
        let mut command = self.command(files, &overlay, &socket)?;
        let log = fs::File::create(overlay.join("log")).context("cannot create a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut running = Running {
            child,
            socket,
            _overlay: overlay,
        };
        running.wait_until_ready()?;
        Ok(running)
    }

    fn command(self, files: &Files, overlay: &Scratch, socket: &Path) -> Result<Command> {
        let origin = &files.origin;
        let command = match self {
            Self::NbdkitFile => {
                let copy = overlay.join("copy.img");
                fs::copy(origin, &copy).context("cannot copy the image")?;
                let mut nbdkit = nbdkit(overlay, socket);
                nbdkit.arg("file").arg(copy);
                nbdkit
            }
            Self::NbdkitCow => {
                let mut nbdkit = nbdkit(overlay, socket);
                nbdkit
                    .args(["--filter=cow", "file"])
                    .arg(origin)
                    .arg("cow-block-size=4096");
                nbdkit
            }
            Self::QemuNbd => {
                let qcow2 = overlay.join("overlay.qcow2");
                Tool::new("qemu-img")
                    .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                    .args([origin, &qcow2])
                    .ok()?;
                let mut qemu = Command::new("qemu-nbd");
                qemu.args([
                    "--persistent",
                    "--format=qcow2",
                    "--export-name=",
                    "--socket",
                ]);
                qemu.arg(socket).arg(qcow2);
                qemu
            }
            Self::UsnapPersistent => {
                let mut usnap = usnap(files, socket);
                usnap.arg("--cow").arg(overlay.join("changes.cow"));
                usnap
            }
            Self::UsnapTransient => {
                let mut usnap = usnap(files, socket);
                usnap.arg("--transient");
                usnap
            }
        };
        Ok(command)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NbdkitFile => "nbdkit file (no COW)",
            Self::NbdkitCow => "nbdkit cow 4K",
            Self::QemuNbd => "qemu-nbd qcow2",
            Self::UsnapPersistent => "usnap persistent",
            Self::UsnapTransient => "usnap transient",
        })
    }
}

fn nbdkit(overlay: &Scratch, socket: &Path) -> Command {
    let mut nbdkit = Command::new("nbdkit");
    // Its cow filter's file goes to TMPDIR, which must be the same kind of filesystem as for others.
    nbdkit
        .env("TMPDIR", overlay.path())
        .args(["--foreground", "--unix"])
        .arg(socket);
    nbdkit
}

fn usnap(files: &Files, socket: &Path) -> Command {
    let mut usnap = Command::new(&files.usnap);
    usnap
        .arg("serve")
        .arg(&files.origin)
        .args(["--chunk-size", "4K", "--socket"])
        .arg(socket);
    usnap
}

impl Running {
    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The processor time, user and system, that its process has used so far. All contenders are
    /// one process each.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        cpu_of_stat(&stat).with_context(|| format!("cannot make sense of {path}"))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        // qemu-nbd serves one client at a time, so a probe must have gone before fio comes; a
        // socket that does not exist or does not listen yet refuses.
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status}) instead of serving: {}", self.log());
            }
            if Instant::now() > deadline {
                bail!("it does not listen: {}", self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.socket.with_file_name("log")).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either may say that it is gone already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`, in ticks of 10 ms; the name in field 2 may hold blanks.
fn cpu_of_stat(stat: &str) -> Option<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    let behind_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = behind_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_blanks_and_brackets() {
        let stat = "17 (a) b) S 1 17 17 0 -1 4194560 1 0 0 0 250 50 7 8 20 0 1 0 5 0 0";
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_secs(3)));
    }
}
