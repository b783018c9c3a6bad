//! What a discard of whole chunks leaves: with `--discard zeroes` what dm-snapshot leaves with
//! `discard_zeroes_cow`, status and space included. (Of discards that are not aligned the kernel
//! harms other chunks; ours are tested in the engine.)

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use usnap_test_support::lab::sha256_of_bytes;
use usnap_test_support::pattern::random_file;
use usnap_test_support::raw_client::command;
use usnap_test_support::{Guest, KIB, MIB, Need, RawClient, Rng, Scratch, missing};

use crate::LAB;

const ORIGIN_BYTES: u64 = 2 * MIB;
const CHUNK_SIZES: [(&str, u64); 3] = [("512", 512), ("4K", 4 * KIB), ("64K", 64 * KIB)];
/// Sectors, whole chunks of every size; they cover mapped chunks and others.
const RANGES: [(u64, u64); 4] = [(0, 128), (640, 256), (1408, 128), (2048, 1536)];

/// A COW file in which three in four chunks are written, scattered.
fn write_store(origin: &Path, cow: &Path, chunk_bytes: u64) -> Result<()> {
    let chunk = chunk_bytes.to_string();
    let server = LAB.serve(origin)?.cow(cow);
    let server = server.args(&["--chunk-size", &chunk]).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut rng = Rng::new(chunk_bytes);
    for chunk in rng.permutation(ORIGIN_BYTES / chunk_bytes) {
        if rng.below(4) > 0 {
            let data = rng.bytes(usize::try_from(chunk_bytes)?);
            client.write_at(chunk * chunk_bytes, &data)?;
        }
    }
    client.disconnect()?;
    server.stop().map(drop)
}

/// What a server shows after the discards, and the store's status line.
fn discard(origin: &Path, cow: &Path, mode: &str) -> Result<(Vec<u8>, String)> {
    let server = LAB.serve(origin)?.cow(cow);
    let server = server.args(&["--discard", mode]).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    for (sector, sectors) in RANGES {
        let error = client.call(
            command::TRIM,
            sector * 512,
            u32::try_from(sectors * 512)?,
            &[],
        )?;
        ensure!(error == 0, "a trim got error {error}");
    }
    let shown = client.read_all()?;
    client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(cow)?;
    Ok((shown, LAB.status_line(cow)?))
}

#[test]
fn whole_chunks_are_discarded_as_the_kernel_does_and_in_the_ways_it_does_not_know() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = LAB.scratch("discard")?;
    let origin = scratch.join("origin.img");
    random_file(&origin, ORIGIN_BYTES, 1)?;
    let mut guest = Guest::new().disk("ORIGIN", &origin);
    let mut list = Vec::new();
    let mut wanted = Vec::new();
    for (name, chunk_bytes) in CHUNK_SIZES {
        let cow = scratch.join(&format!("{name}.cow"));
        write_store(&origin, &cow, chunk_bytes)?;
        let before = discard_copy(&scratch, &origin, &cow, "ignore")?;
        let zeroed = discard_copy(&scratch, &origin, &cow, "zeroes")?;
        let punched = discard_copy(&scratch, &origin, &cow, "punch")?;
        ensure!(
            zeroed == punched,
            "{name}: zeroes and punch show different things"
        );
        ensure!(zeroed.0 != before.0, "{name}: nothing was discarded");
        assert_eq!(zeroed.1, before.1, "{name}: the status changed");
        guest = guest.disk(&format!("COW{chunk_bytes}"), &cow);
        list.push(format!("{name}:COW{chunk_bytes}:{}", chunk_bytes / 512));
        wanted.push((name, zeroed));
    }
    let ranges = RANGES.map(|(sector, sectors)| format!("{sector}+{sectors}"));
    let guest = guest
        .variable("STORES", &list.join(" "))
        .variable("RANGES", &ranges.join(" "));
    let said = guest.run(&scratch, include_str!("discard.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    for (name, (content, status)) in wanted {
        let digest = sha256_of_bytes(&content)?;
        assert_eq!(said.value(&format!("{name}.sha256"))?, digest, "{name}");
        assert_eq!(said.value(&format!("{name}.status"))?, status, "{name}");
    }
    Ok(())
}

/// As `discard`, on a copy.
fn discard_copy(
    scratch: &Scratch,
    origin: &Path,
    cow: &Path,
    mode: &str,
) -> Result<(Vec<u8>, String)> {
    let copy = scratch.join("copy.cow");
    fs::copy(cow, &copy).context("cannot copy the COW file")?;
    let result = discard(origin, &copy, mode)?;
    fs::remove_file(&copy)?;
    Ok(result)
}
