//! A COW that is full, and a filesystem that is: the write that needs room is refused, everything
//! else goes on, and when there is room again so do writes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;
use usnap_test_support::lab::{Untouched, text};
use usnap_test_support::raw_client::command;
use usnap_test_support::{
    KIB, MIB, NBD_ENOSPC, Need, RawClient, Rng, Serve, Server, Tool, missing,
};

use crate::LAB;

const CHUNK: usize = 4096;

/// A served device, and what must be read from it.
struct Device {
    client: RawClient,
    model: Vec<u8>,
}

impl Device {
    fn new(server: &Server, origin: &Path) -> Result<Self> {
        Ok(Self {
            client: RawClient::connect(&server.socket())?,
            model: fs::read(origin)?,
        })
    }

    /// Writes one chunk after the other until one is refused; returns how many were not.
    fn fill(&mut self) -> Result<usize> {
        let mut rng = Rng::new(31);
        for chunk in 0..self.model.len() / CHUNK {
            let data = rng.bytes(CHUNK);
            match self.write(chunk * CHUNK, &data)? {
                0 => {}
                error => {
                    assert_eq!(error, NBD_ENOSPC, "on the wire, for chunk {chunk}");
                    return Ok(chunk);
                }
            }
        }
        anyhow::bail!("nothing was refused")
    }

    /// Writes, and notes it when it was not refused.
    fn write(&mut self, at: usize, data: &[u8]) -> Result<u32> {
        let error =
            self.client
                .call(command::WRITE, at as u64, u32::try_from(data.len())?, data)?;
        if error == 0 {
            self.model[at..at + data.len()].copy_from_slice(data);
        }
        Ok(error)
    }

    /// Everything that needs no new chunk must work.
    fn goes_on_without_room(&mut self, filled: usize) -> Result<()> {
        ensure!(
            self.client.read_all()? == self.model,
            "something else is read than was written"
        );
        for chunk in [0, filled / 2, filled - 1] {
            assert_eq!(
                self.write(chunk * CHUNK + 17, &[0xab; 1000])?,
                0,
                "chunk {chunk} is copied"
            );
        }
        self.client.flush()?;
        assert_eq!(
            self.write(filled * CHUNK + 5, &[1])?,
            NBD_ENOSPC,
            "still full"
        );
        let end = self.model.len() - CHUNK;
        assert_eq!(
            self.client.call(command::TRIM, end as u64, 4096, &[])?,
            0,
            "a trim"
        );
        ensure!(
            self.client.read_all()? == self.model,
            "a refusal or a trim changed something"
        );
        Ok(())
    }
}

#[test]
fn a_full_cow_refuses_only_writes_that_need_a_chunk() -> Result<()> {
    if missing(&[Need::Program("qemu-io")])? {
        return Ok(());
    }
    // The second is the size at which a kernel's store dies when it is filled. Its areas of 256
    // exceptions leave room for the largest n with 2 + n + n / 256 <= 65,536.
    for (cow_size, origin_mib, capacity) in [("4M", 8, 1019), ("256M", 300, 65_279)] {
        let scratch = LAB.scratch("full")?;
        let origin = scratch.join("origin.img");
        usnap_test_support::pattern::random_file(&origin, origin_mib * MIB, 32)?;
        let untouched = Untouched::note(&origin)?;
        let cow = scratch.join("c.cow");
        let options = ["--cow-size", cow_size, "--chunk-size", "4K"];
        let server = LAB.serve(&origin)?.cow(&cow).args(&options).start()?;
        let mut device = Device::new(&server, &origin)?;
        let filled = device.fill()?;
        assert_eq!(filled, capacity, "chunks in {cow_size}");
        device.goes_on_without_room(filled)?;
        ensure!(
            is_full(&cow)?,
            "the live status does not say that it is full"
        );
        let place = format!("write {} 4k", origin_mib * MIB - 4 * KIB);
        let qemu = Tool::new("qemu-io")
            .args(["-f", "raw", "-c", &place, server.uri()])
            .run()?;
        let said = format!("{}{}", qemu.stdout, qemu.stderr);
        ensure!(said.contains("No space left on device"), "{qemu}");
        device.client.disconnect()?;
        server.stop()?;

        ensure!(
            is_full(&cow)?,
            "the status of the file does not say that it is full"
        );
        LAB.check_is_clean(&cow)?;
        let server = LAB.serve(&origin)?.cow(&cow).start()?;
        let mut again = Device::new(&server, &origin)?;
        again.model = device.model;
        again.goes_on_without_room(filled)?;
        server.stop()?;
        untouched.verify()?;
    }
    Ok(())
}

#[test]
fn a_full_cow_that_is_grown_takes_writes_again_without_a_restart() -> Result<()> {
    let scratch = LAB.scratch("grown")?;
    let origin = scratch.join("origin.img");
    usnap_test_support::pattern::random_file(&origin, 8 * MIB, 33)?;
    let cow = scratch.join("c.cow");
    let server = LAB
        .serve(&origin)?
        .cow(&cow)
        .args(&["--cow-size", "1M"])
        .start()?;
    let mut device = Device::new(&server, &origin)?;
    let filled = device.fill()?;
    fs::OpenOptions::new()
        .write(true)
        .open(&cow)?
        .set_len(2 * MIB)?;
    let data = Rng::new(34).bytes(200 * CHUNK);
    assert_eq!(
        device.write(filled * CHUNK, &data)?,
        0,
        "there is room for 200 chunks"
    );
    ensure!(!is_full(&cow)?, "the status still says full");
    device.client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&cow)?;
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    ensure!(
        RawClient::connect(&server.socket())?.read_all()? == device.model,
        "lost"
    );
    server.stop()?;
    Ok(())
}

#[test]
fn a_full_filesystem_refuses_new_chunks_until_it_has_room() -> Result<()> {
    if missing(&[Need::PrivateMounts])? {
        return Ok(());
    }
    let scratch = LAB.scratch("small-fs")?;
    let origin = scratch.join("origin.img");
    usnap_test_support::pattern::random_file(&origin, 32 * MIB, 35)?;
    let small = scratch.join("small");
    fs::create_dir(&small)?;
    // The server's own mounts: a filesystem of 12 MiB, most of it taken by a file.
    let script = r#"mount -t tmpfs -o size=12m none "$0" && head -c 6M /dev/zero > "$0/ballast" &&
        exec "$@""#;
    let mut launcher = Command::new("unshare");
    launcher.args(["--mount", "--map-root-user", "sh", "-c", script]);
    launcher.arg(&small).arg(LAB.program());
    let server = Serve::wrapped(launcher, LAB.root(), &origin)?
        .cow(&small.join("c.cow"))
        .start()?;
    let inside = format!("/proc/{}/root{}", server.pid(), text(&small)?);
    let inside = Path::new(&inside);

    let mut device = Device::new(&server, &origin)?;
    let filled = device.fill()?;
    ensure!(filled > 1000, "only {filled} chunks fit into 6 MiB");
    device.goes_on_without_room(filled)?;
    fs::remove_file(inside.join("ballast"))?;
    assert_eq!(
        device.write(filled * CHUNK, &[7; 100 * CHUNK])?,
        0,
        "there is room again"
    );
    device.client.flush()?;

    // What was flushed is a whole store: the copy of the file serves the same. It names a journal
    // that is not beside it, as any copy of a COW in use does.
    let copy = scratch.join("copy.cow");
    Tool::new("cp")
        .args([inside.join("c.cow"), copy.clone()])
        .ok()?;
    device.client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&copy)?;
    let server = LAB.serve(&origin)?.cow(&copy);
    let server = server.args(&["--journal", "discard"]).start()?;
    ensure!(
        RawClient::connect(&server.socket())?.read_all()? == device.model,
        "lost"
    );
    server.stop()?;
    Ok(())
}

fn is_full(cow: &Path) -> Result<bool> {
    let said = LAB.usnap(&["status", text(cow)?, "--json"]).ok()?;
    let report: Value = serde_json::from_str(&said)?;
    Ok(report["full"] == true)
}
