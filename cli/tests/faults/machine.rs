//! What the tests that run inside the guest share.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use usnap_test_support::disks::sectors;
use usnap_test_support::guest::inside_guest;
use usnap_test_support::lab::text;
use usnap_test_support::raw_client::command;
use usnap_test_support::{Guest, Need, RawClient, Scratch, Serve, Server, Tool, missing};

use crate::LAB;

/// The error number of a failed device, on the wire.
pub(crate) const NBD_EIO: u32 = 5;
/// Where sockets and mount points are, inside.
const RUN: &str = "/run";

/// Runs the test `name` inside the guest, which `prepare` fits out; inside, does `scenario`. Returns
/// what the guest printed, or nothing inside and where there is no guest.
pub(crate) fn in_guest(
    name: &str,
    prepare: impl FnOnce(&Scratch) -> Result<Guest>,
    scenario: impl FnOnce() -> Result<()>,
) -> Result<Option<String>> {
    if inside_guest() {
        scenario()?;
        return Ok(None);
    }
    if missing(&[Need::GuestKernel, Need::Program("mke2fs")])? {
        return Ok(None);
    }
    let scratch = LAB.scratch("guest")?;
    let said = prepare(&scratch)?.run_test(&scratch, name)?;
    Ok(Some(said.text().to_owned()))
}

/// A server inside the guest.
pub(crate) fn serve(origin: &Path, cow: &Path) -> Result<Serve> {
    Ok(Serve::new(Path::new(LAB.program()), Path::new(RUN), origin)?.cow(cow))
}

/// A place for files that the guest keeps in memory.
pub(crate) fn run_dir(name: &str) -> PathBuf {
    Path::new(RUN).join(name)
}

/// What `usnap status --json` says.
pub(crate) fn status(cow: &Path) -> Result<Value> {
    let said = LAB.usnap(&["status", text(cow)?, "--json"]).ok()?;
    serde_json::from_str(&said).context("the status is no JSON")
}

/// Writes and returns the error number.
pub(crate) fn write(client: &mut RawClient, at: usize, bytes: &[u8]) -> Result<u32> {
    client.call(
        command::WRITE,
        at as u64,
        u32::try_from(bytes.len())?,
        bytes,
    )
}

/// Flushes and returns the error number.
pub(crate) fn flush(client: &mut RawClient) -> Result<u32> {
    client.call(command::FLUSH, 0, 0, &[])
}

/// Reads `len` bytes at `at`: the bytes, or the error number.
pub(crate) fn read(
    client: &mut RawClient,
    at: usize,
    len: usize,
) -> Result<std::result::Result<Vec<u8>, u32>> {
    let mut bytes = vec![0; len];
    client
        .read_or_error(at as u64, &mut bytes)
        .map(|error| match error {
            0 => Ok(bytes),
            error => Err(error),
        })
}

/// Ends a server that has something to complain of: not with success, and without a panic.
pub(crate) fn stop_failing(server: Server) -> Result<String> {
    let log = server.stop_with(1)?;
    ensure!(!log.contains("panicked"), "a thread panicked:\n{log}");
    Ok(log)
}

/// The kernel's NBD client takes the export.
pub(crate) fn attach(server: &Server, export: &Path) -> Result<()> {
    Tool::new("nbd-client")
        .arg("-unix")
        .args([&server.socket(), export])
        .ok()
        .map(drop)
}

/// It lets it go.
pub(crate) fn detach(export: &Path) -> Result<()> {
    Tool::new("nbd-client").arg("-d").arg(export).ok().map(drop)
}

/// Makes the COW device an unused one.
pub(crate) fn clear(cow: &Path) -> Result<()> {
    Tool::new("dd")
        .args(["if=/dev/zero", "bs=1M", "conv=fsync", "oflag=direct"])
        .arg(format!("of={}", text(cow)?))
        .args([&format!("count={}", sectors(cow)? / 2048), "status=none"])
        .ok()
        .map(drop)
}
