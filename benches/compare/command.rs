//! How each server is called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use usnap_test_support::requirements::find_program;
use usnap_test_support::{Scratch, Tool};

use crate::address::Address;
use crate::contender::Contender;

/// The image that all overlays lie over, and what else contenders share at one place.
#[derive(Debug)]
pub(crate) struct Files {
    /// Where overlays go.
    pub(crate) directory: PathBuf,
    /// The image; nobody writes to it.
    pub(crate) origin: PathBuf,
    /// A copy of it, for servers without copy-on-write. Written over again and again: what it holds
    /// does not matter.
    pub(crate) copy: PathBuf,
    /// Bytes of both.
    pub(crate) size_bytes: u64,
    /// The usnap that is measured.
    pub(crate) usnap: PathBuf,
}

/// The files of one server's own.
pub(crate) struct Overlay {
    pub(crate) directory: Scratch,
}

impl Overlay {
    /// Where its messages go.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Where a server that leaves its parent writes its process id.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }

    /// The file of changes of the servers that have one by name.
    pub(crate) fn changes(&self) -> PathBuf {
        self.directory.join("changes")
    }
}

/// The command that serves `files` at `address`; makes what has to be there before.
pub(crate) fn command(
    contender: Contender,
    files: &Files,
    overlay: &Overlay,
    address: &Address,
) -> Result<Command> {
    let command = match contender {
        Contender::NbdkitNull => nbdkit(overlay, address, &["null", &size(files)]),
        Contender::NbdkitMemory => nbdkit(overlay, address, &["memory", &size(files)]),
        Contender::NbdkitFile => {
            let mut command = nbdkit(overlay, address, &["file"]);
            command.arg(copy(files)?);
            command
        }
        Contender::NbdkitCow4 => nbdkit_cow(files, overlay, address, "4096"),
        Contender::NbdkitCow64 => nbdkit_cow(files, overlay, address, "65536"),
        Contender::QemuRaw => qemu(address, "raw", copy(files)?),
        Contender::QemuQcow2 => qcow2(files, overlay, address, &[])?,
        Contender::QemuSubclusters => qcow2(files, overlay, address, &["-o", "extended_l2=on"])?,
        Contender::NbdServer => nbd_server(files, overlay, address)?,
        Contender::UsnapPersistent | Contender::UsnapPersistent16 => {
            let mut command = usnap(contender, files, address);
            command.arg("--cow").arg(overlay.changes());
            command
        }
        Contender::UsnapTransient | Contender::UsnapTransient16 => {
            let mut command = usnap(contender, files, address);
            command.arg("--transient");
            command
        }
    };
    Ok(command)
}

/// More clients than any job has connections, for servers that must be told.
const CLIENTS: &str = "100";

fn program(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| name.into()))
}

fn size(files: &Files) -> String {
    format!("size={}", files.size_bytes)
}

fn copy(files: &Files) -> Result<&Path> {
    if !files.copy.exists() {
        fs::copy(&files.origin, &files.copy).context("cannot copy the image")?;
    }
    Ok(&files.copy)
}

fn nbdkit(overlay: &Overlay, address: &Address, arguments: &[&str]) -> Command {
    let mut nbdkit = program("nbdkit");
    // Its cow filter's file goes to TMPDIR, which must be the same kind of filesystem as for others.
    nbdkit
        .env("TMPDIR", overlay.directory.path())
        .arg("--foreground");
    match address {
        Address::Unix(socket) => nbdkit.arg("--unix").arg(socket),
        Address::Tcp(port) => nbdkit
            .arg(format!("--port={port}"))
            .arg("--ipaddr=127.0.0.1"),
    };
    nbdkit.args(arguments);
    nbdkit
}

fn nbdkit_cow(files: &Files, overlay: &Overlay, address: &Address, block: &str) -> Command {
    let mut nbdkit = nbdkit(overlay, address, &["--filter=cow", "file"]);
    nbdkit
        .arg(&files.origin)
        .arg(format!("cow-block-size={block}"));
    nbdkit
}

fn qemu(address: &Address, format: &str, image: &Path) -> Command {
    let mut qemu = program("qemu-nbd");
    qemu.args(["--persistent", "--shared", CLIENTS, "--export-name="]);
    qemu.arg(format!("--format={format}"));
    match address {
        Address::Unix(socket) => qemu.arg("--socket").arg(socket),
        Address::Tcp(port) => qemu.arg(format!("--port={port}")).arg("--bind=127.0.0.1"),
    };
    qemu.arg(image);
    qemu
}

fn qcow2(files: &Files, overlay: &Overlay, address: &Address, how: &[&str]) -> Result<Command> {
    let changes = overlay.changes();
    Tool::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw"])
        .args(how)
        .arg("-b")
        .args([&files.origin, &changes])
        .ok()?;
    Ok(qemu(address, "qcow2", &changes))
}

fn nbd_server(files: &Files, overlay: &Overlay, address: &Address) -> Result<Command> {
    let listen = match address {
        Address::Unix(socket) => format!("unixsock = {}", socket.display()),
        Address::Tcp(port) => format!("listenaddr = 127.0.0.1\nport = {port}"),
    };
    let configuration = format!(
        "[generic]\n{listen}\n[{}]\nexportname = {}\ncopyonwrite = true\ncowdir = {}\n\
         flush = true\n",
        Contender::NbdServer.export(),
        files.origin.display(),
        overlay.directory.path().display(),
    );
    let path = overlay.directory.join("configuration");
    fs::write(&path, configuration).context("cannot write a configuration")?;
    let mut server = program("nbd-server");
    server.arg("-C").arg(path).arg("-p").arg(overlay.pid_file());
    Ok(server)
}

fn usnap(contender: Contender, files: &Files, address: &Address) -> Command {
    let mut usnap = Command::new(&files.usnap);
    usnap.arg("serve").arg(&files.origin);
    usnap.args(["--chunk-size", contender.chunk_size().unwrap_or("4K")]);
    match address {
        Address::Unix(socket) => usnap.arg("--socket").arg(socket),
        Address::Tcp(port) => usnap.args(["--listen", &format!("127.0.0.1:{port}")]),
    };
    usnap
}
