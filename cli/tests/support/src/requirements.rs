//! What a test needs from the machine, and what happens where it is missing.
//!
//! A test that can't run says `SKIPPED: <reason>` and adds a line to the file named by
//! `USNAP_SKIP_LOG`, so that the runner can count; under `USNAP_FORBID_SKIPS=1` it fails instead.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::scratch::writeln_stderr;

/// Names the file that counts skipped tests, a line each.
pub const SKIP_LOG_VARIABLE: &str = "USNAP_SKIP_LOG";
/// `1` turns each skip into a failure.
pub const FORBID_SKIPS_VARIABLE: &str = "USNAP_FORBID_SKIPS";

/// Something that a test needs and that a machine may lack.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A program in `PATH` or one of the directories for administration.
    Program(&'static str),
    /// A module of the system's Python.
    PythonModule(&'static str),
    /// A Linux kernel with device-mapper that runs as a process, and what its scripts call.
    GuestKernel,
    /// Mounts that only we and our children see.
    PrivateMounts,
    /// The same, of a filesystem in a file, which takes root.
    LoopMounts,
    /// A kernel that has this filesystem at hand.
    Filesystem(&'static str),
}

/// The programs and modules for a guest; the directory below is where Debian puts its modules.
const GUEST_PROGRAMS: [&str; 4] = ["linux.uml", "dmsetup", "busybox", "nbd-client"];
/// Where the guest kernel's modules are.
pub const GUEST_MODULES: &str = "/usr/lib/uml/modules";

/// Whether something in `needs` is missing, in which case the test must return at once; it is said
/// and counted here.
///
/// # Errors
/// Something is missing and skips are forbidden, or the skip can't be counted.
pub fn missing(needs: &[Need]) -> Result<bool> {
    let lacking: Vec<String> = needs.iter().filter_map(|need| need.lacking()).collect();
    if lacking.is_empty() {
        return Ok(false);
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let reason = format!("{test}: missing {}", lacking.join(", "));
    if std::env::var_os(FORBID_SKIPS_VARIABLE).is_some_and(|value| value == "1") {
        bail!("{reason}, and {FORBID_SKIPS_VARIABLE}=1 forbids to skip");
    }
    writeln_stderr(&format!("SKIPPED: {reason}")).context("cannot write to standard error")?;
    if let Some(log) = std::env::var_os(SKIP_LOG_VARIABLE) {
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .and_then(|mut file| file.write_all(format!("{reason}\n").as_bytes()));
        written
            .with_context(|| format!("cannot count the skip in {}", Path::new(&log).display()))?;
    }
    Ok(true)
}

impl Need {
    fn lacking(self) -> Option<String> {
        match self {
            Self::Program(name) => find_program(name).is_none().then(|| name.to_owned()),
            Self::PythonModule(name) => {
                let import = format!("import {name}");
                let found = succeeds(Command::new(crate::python::PYTHON).args(["-c", &import]));
                (!found).then(|| format!("python module {name}"))
            }
            Self::GuestKernel => {
                let absent = GUEST_PROGRAMS
                    .into_iter()
                    .find(|name| find_program(name).is_none());
                let modules = Path::new(GUEST_MODULES).is_dir();
                absent
                    .or((!modules).then_some(GUEST_MODULES))
                    .map(str::to_owned)
            }
            Self::PrivateMounts => {
                let probe = [
                    "--mount",
                    "--map-root-user",
                    "mount",
                    "-t",
                    "tmpfs",
                    "none",
                    "/mnt",
                ];
                let works = succeeds(Command::new("unshare").args(probe));
                (!works).then(|| "private mounts (unshare --mount)".to_owned())
            }
            Self::Filesystem(name) => {
                let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
                let found = known.split_whitespace().any(|word| word == name);
                (!found).then(|| format!("{name} in the kernel"))
            }
            Self::LoopMounts => {
                let script = "f=$(mktemp) && truncate -s 4M $f && mke2fs -q -t ext4 $f && \
                    mount -o loop $f /mnt; status=$?; rm -f $f; exit $status";
                let probe = ["--mount", "sh", "-c", script];
                let path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
                let works = succeeds(Command::new("unshare").args(probe).env("PATH", path));
                (!works).then(|| "root, loop devices and ext4".to_owned())
            }
        }
    }
}

/// Where the program `name` is: in `PATH`, or in the directories for administration that an
/// ordinary user's `PATH` leaves out.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administration = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(administration)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
