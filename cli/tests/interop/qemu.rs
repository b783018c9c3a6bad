//! qemu's block layer as the client: the newest headers, writes of zeros, images compared whole.

use anyhow::{Result, ensure};
use serde_json::Value;
use usnap_test_support::image::ext4_of_installed_files;
use usnap_test_support::lab::{Untouched, sha256, text};
use usnap_test_support::{MIB, Need, Tool, missing};

use crate::LAB;
use crate::data::{HOLE_END, HOLE_START, ORIGIN_BYTES, origin_with_a_hole};

#[test]
fn qemu_negotiates_extended_headers_and_both_contexts() -> Result<()> {
    if missing(&[Need::Program("qemu-nbd")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("qemu-list")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let server = LAB.serve(&origin)?.cow(&scratch.join("c.cow")).start()?;
    let listed = Tool::new("qemu-nbd")
        .args(["--list", "-k", text(&server.socket())?])
        .ok()?;
    for expected in [
        "transaction size: 64-bit",
        "base:allocation",
        "qemu:allocation-depth",
        "fast-zero",
    ] {
        ensure!(listed.contains(expected), "no `{expected}` in\n{listed}");
    }
    server.stop()?;
    Ok(())
}

#[test]
fn qemu_io_reads_what_it_wrote_zeroed_and_discarded_around() -> Result<()> {
    if missing(&[Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("qemu-io")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.join("c.cow");
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    qemu_io(
        server.uri(),
        &[
            "write -P 0xa1 0 64k",
            "write -P 0xa2 100k 1",
            "write -P 0xa3 3M 1M",
            "read -P 0xa1 0 64k",
            "read -P 0xa2 100k 1",
            // Zeros over whole chunks, over parts of chunks, over the origin's data; with and
            // without leave to give the space back.
            "write -z 8k 8k",
            "write -z 17k 500",
            "write -z -u 3M 256k",
            "write -z 6M 300k",
            "read -P 0 8k 8k",
            "read -P 0xa1 16k 1k",
            "read -P 0 17k 500",
            "read -P 0 3M 256k",
            "read -P 0xa3 3328k 64k",
            "read -P 0 6M 300k",
            // A discard may leave anything in its range, and nothing else anywhere.
            "discard 32k 8k",
            "discard 3500k 5k",
            "read -P 0xa1 24k 8k",
            "read -P 0xa1 40k 24k",
            "read -P 0xa3 3480k 20k",
            "read -P 0xa3 3505k 7k",
            "flush",
            "aio_write -P 0xa4 5M 128k",
            "aio_write -P 0xa5 5248k 128k",
            "aio_flush",
            "write -f -P 0xa6 7M 4k",
        ],
    )?;
    server.stop()?;
    LAB.check_is_clean(&cow)?;

    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    qemu_io(
        server.uri(),
        &[
            "read -P 0xa1 0 8k",
            "read -P 0 8k 8k",
            "read -P 0 17k 500",
            "read -P 0 3M 256k",
            "read -P 0xa3 3328k 64k",
            "read -P 0 6M 300k",
            "read -P 0xa1 24k 8k",
            "read -P 0xa1 40k 24k",
            "read -P 0xa4 5M 128k",
            "read -P 0xa5 5248k 128k",
            "read -P 0xa6 7M 4k",
        ],
    )?;
    server.stop()?;
    untouched.verify()
}

#[test]
fn qemu_io_discards_do_what_the_server_was_told() -> Result<()> {
    if missing(&[Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("qemu-io-discard")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    for (mode, after) in [("punch", "0"), ("zeroes", "0"), ("ignore", "0xb1")] {
        let kept = scratch.join(&format!("{mode}.cow"));
        for keeping in [&["--transient"][..], &["--cow", text(&kept)?]] {
            let server = LAB.serve(&origin)?.args(keeping);
            let server = server.args(&["--discard", mode]).start()?;
            let discarded = format!("read -P {after} 36k 8k");
            qemu_io(
                server.uri(),
                &[
                    "write -P 0xb1 32k 16k",
                    // Two whole chunks, and a part on either side.
                    "discard 35k 10k",
                    "read -P 0xb1 32k 4k",
                    &discarded,
                    "read -P 0xb1 44k 4k",
                    "flush",
                ],
            )?;
            server.stop()?;
        }
        LAB.check_is_clean(&kept)?;
    }
    Ok(())
}

#[test]
fn qemu_img_maps_compares_and_converts_a_real_filesystem() -> Result<()> {
    if missing(&[
        Need::Program("qemu-img"),
        Need::Program("qemu-io"),
        Need::Program("mke2fs"),
    ])? {
        return Ok(());
    }
    let scratch = LAB.scratch("qemu-img")?;
    let origin = ext4_of_installed_files(LAB.root())?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.join("c.cow");
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let size_bytes = std::fs::metadata(&origin)?.len();
    map_covers(server.uri(), size_bytes)?;
    let compare = || Tool::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]);
    let compared = compare().args([text(&origin)?, server.uri()]).ok()?;
    ensure!(compared.contains("Images are identical"), "{compared}");

    // Its image format on our device and off it again.
    let copy = scratch.join("copy.qcow2");
    qemu_convert(&["-f", "raw", "-O", "qcow2", server.uri(), text(&copy)?])?;
    qemu_io(server.uri(), &["write -P 0x77 1M 512k", "write -z 2M 16k"])?;
    let compared = compare()
        .args([text(&origin)?, server.uri()])
        .fails_with(1)?;
    ensure!(compared.stdout.contains("Content mismatch"), "{compared}");
    qemu_convert(&["-n", "-f", "qcow2", "-O", "raw", text(&copy)?, server.uri()])?;
    compare().args([text(&origin)?, server.uri()]).ok()?;

    qemu_io(server.uri(), &["write -P 0x78 4M 64k"])?;
    let changed = scratch.join("changed.img");
    qemu_convert(&["-f", "raw", "-O", "raw", server.uri(), text(&changed)?])?;
    server.stop()?;
    LAB.check_is_clean(&cow)?;
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    compare().args([text(&changed)?, server.uri()]).ok()?;
    ensure!(
        sha256(&changed)? != untouched.digest(),
        "the write was lost"
    );
    server.stop()?;
    untouched.verify()
}

#[test]
fn qemu_img_sees_holes_as_zeros_and_copied_chunks_as_data() -> Result<()> {
    if missing(&[Need::Program("qemu-img"), Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("qemu-map")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let server = LAB.serve(&origin)?.cow(&scratch.join("c.cow")).start()?;
    qemu_io(server.uri(), &["write -P 1 3M 64k"])?;
    let extents = map_covers(server.uri(), ORIGIN_BYTES)?;
    let data_at = |offset: u64| {
        let within = |extent: &&Value| {
            let (start, len) = (extent["start"].as_u64(), extent["length"].as_u64());
            start
                .zip(len)
                .is_some_and(|(start, len)| (start..start + len).contains(&offset))
        };
        extents
            .iter()
            .find(within)
            .and_then(|extent| extent["data"].as_bool())
    };
    for (offset, is_data) in [
        (0, true),
        (HOLE_START, false),
        (3 * MIB, true),
        (3 * MIB + (64 << 10), false),
        (HOLE_END, true),
    ] {
        assert_eq!(
            data_at(offset),
            Some(is_data),
            "byte {offset} in {extents:?}"
        );
    }
    server.stop()?;
    Ok(())
}

fn qemu_io(uri: &str, commands: &[&str]) -> Result<()> {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let said = Tool::new("qemu-io")
        .args(["-f", "raw", "-d", "unmap"])
        .args(commands)
        .arg(uri)
        .run()?;
    // It says so, and its exit status does not always tell.
    let failed = ["verification failed", "failed:", "error"]
        .iter()
        .any(|word| said.stdout.contains(word) || said.stderr.contains(word));
    ensure!(said.status.success() && !failed, "{said}");
    Ok(())
}

fn qemu_convert(args: &[&str]) -> Result<()> {
    Tool::new("qemu-img")
        .arg("convert")
        .args(args)
        .ok()
        .map(drop)
}

/// The map, which must cover the export without a gap.
fn map_covers(uri: &str, size_bytes: u64) -> Result<Vec<Value>> {
    let said = Tool::new("qemu-img")
        .args(["map", "-f", "raw", "--output=json", uri])
        .ok()?;
    let extents: Vec<Value> = serde_json::from_str(&said)?;
    let mut end = 0;
    for extent in &extents {
        ensure!(
            extent["start"] == end,
            "a gap or an overlap at {end} in {said}"
        );
        end += extent["length"].as_u64().unwrap_or(0);
    }
    ensure!(end == size_bytes, "the map ends at {end}, not {size_bytes}");
    Ok(extents)
}
