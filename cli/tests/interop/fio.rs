//! fio's verification: every block carries its own checksum.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use usnap_test_support::image::ext4_of_installed_files;
use usnap_test_support::lab::Untouched;
use usnap_test_support::{Need, Scale, Tool, missing};

use crate::LAB;

#[test]
fn fio_verifies_every_block_of_a_mixed_load_at_depth_32() -> Result<()> {
    if missing(&[Need::Program("fio"), Need::Program("mke2fs")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("fio")?;
    let origin = ext4_of_installed_files(LAB.root())?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.join("c.cow");
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let done = fio(
        server.uri(),
        &["--rw=randrw", "--bsrange=512-256k", "--do_verify=1"],
    )?;
    ensure!(
        done.reads > done.writes && done.writes > 500,
        "too little was done: {done:?}"
    );
    server.stop()?;
    LAB.check_is_clean(&cow)?;
    untouched.verify()
}

#[test]
fn fio_finds_its_blocks_again_when_the_store_is_opened_anew() -> Result<()> {
    if missing(&[Need::Program("fio"), Need::Program("mke2fs")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("fio-reopen")?;
    let origin = ext4_of_installed_files(LAB.root())?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.join("c.cow");
    let write = ["--rw=randwrite", "--bs=4k", "--randseed=77"];
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let written = fio(
        server.uri(),
        &[&write[..], &["--do_verify=0", "--fsync=500"]].concat(),
    )?;
    server.stop()?;
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let found = fio(server.uri(), &[&write[..], &["--verify_only"]].concat())?;
    ensure!(
        found.reads == written.writes && found.reads > 500,
        "{written:?}, {found:?}"
    );
    server.stop()?;
    untouched.verify()
}

/// Blocks that a job read (to verify them, or as its load asks) and wrote.
#[derive(Debug)]
struct Done {
    reads: u64,
    writes: u64,
}

/// Runs one job, in which each block that is read back must be right.
fn fio(uri: &str, args: &[&str]) -> Result<Done> {
    let size_mib = Scale::from_env()?.pick(256, 512);
    let said = Tool::new("fio")
        .args([
            "--name=verify",
            "--ioengine=nbd",
            "--iodepth=32",
            "--output-format=json",
        ])
        .args([
            "--verify=crc32c",
            "--verify_state_save=0",
            "--verify_fatal=1",
        ])
        .arg(format!("--uri={uri}"))
        .arg(format!("--size={size_mib}m"))
        .args(args)
        .limit(Duration::from_secs(300))
        .ok()?;
    let json = said
        .find('{')
        .map(|start| &said[start..])
        .context("fio printed no JSON")?;
    let report: Value = serde_json::from_str(json)?;
    let job = &report["jobs"][0];
    ensure!(job["error"] == 0, "fio reports error {}", job["error"]);
    let blocks = |direction: &str| job[direction]["total_ios"].as_u64().context("no figures");
    Ok(Done {
        reads: blocks("read")?,
        writes: blocks("write")?,
    })
}
