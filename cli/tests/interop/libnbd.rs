//! libnbd's tools: what the export says of itself, its maps, and copies of a real filesystem.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use usnap_test_support::image::ext4_of_installed_files;
use usnap_test_support::lab::{Untouched, sha256, text};
use usnap_test_support::{GIB, Need, RawClient, Rng, Scale, Tool, missing};

use crate::LAB;
use crate::data::{CHUNK, HOLE_END, HOLE_START, ORIGIN_BYTES, origin_with_a_hole};

#[test]
fn nbdinfo_finds_everything_that_the_server_can_do() -> Result<()> {
    if missing(&[Need::Program("nbdinfo")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("nbdinfo")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let named = ["--name", "disk one", "--description", "a test's disk"];
    let server = LAB
        .serve(&origin)?
        .cow(&scratch.join("c.cow"))
        .args(&named)
        .start()?;

    let info: Value = serde_json::from_str(&nbdinfo(&["--json", server.uri()])?)?;
    let export = &info["exports"][0];
    assert_eq!(export["export-name"], "disk one");
    assert_eq!(export["description"], "a test's disk");
    assert_eq!(export["export-size"], ORIGIN_BYTES);
    assert_eq!(export["is_read_only"], false);
    for can in [
        "can_flush",
        "can_fua",
        "can_trim",
        "can_zero",
        "can_cache",
        "can_df",
        "can_multi_conn",
    ] {
        assert_eq!(export[can], true, "{can} in {info}");
    }
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_preferred"], CHUNK);
    let contexts = export["contexts"].as_array().context("no contexts")?;
    for context in ["base:allocation", "qemu:allocation-depth"] {
        ensure!(
            contexts.iter().any(|known| known == context),
            "no {context} in {info}"
        );
    }
    let listed: Value = serde_json::from_str(&nbdinfo(&["--list", "--json", server.uri()])?)?;
    assert_eq!(listed["exports"][0]["export-name"], "disk one");

    // The default export is the same one; the name is not needed.
    let unnamed = format!("nbd+unix:///?socket={}", text(&server.socket())?);
    assert_eq!(
        nbdinfo(&["--size", &unnamed])?.trim(),
        ORIGIN_BYTES.to_string()
    );
    server.stop()?;

    let server = LAB.serve(&origin)?.args(&["--read-only"]).start()?;
    nbdinfo(&["--is", "readonly", server.uri()])?;
    server.stop()?;
    Ok(())
}

#[test]
fn the_maps_tell_the_origins_holes_from_data_and_copied_chunks_from_both() -> Result<()> {
    if missing(&[Need::Program("nbdinfo")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("maps")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let server = LAB.serve(&origin)?.cow(&scratch.join("c.cow")).start()?;
    let (in_data, in_hole) = (16 * CHUNK, HOLE_START + 32 * CHUNK);
    let mut client = RawClient::connect(&server.socket())?;
    client.write_at(in_data, &[1; 10])?;
    client.write_at(in_hole, &[2; 4096])?;

    let allocation = Map::of("base:allocation", server.uri())?;
    // Bit 0 is a hole, bit 1 says that it reads as zeros; a hole without zeros would make clients
    // skip the origin's data.
    assert_eq!(allocation.at(0)?, 0);
    assert_eq!(allocation.at(in_data)?, 0);
    assert_eq!(allocation.at(in_hole)?, 0);
    assert_eq!(allocation.at(HOLE_END)?, 0);
    assert_eq!(
        allocation.at(HOLE_START)? & 2,
        2,
        "the origin's hole reads as zeros"
    );
    assert_eq!(
        allocation.at(in_hole + CHUNK)? & 2,
        2,
        "so does what is left of it"
    );

    let depth = Map::of("qemu:allocation-depth", server.uri())?;
    assert_eq!(depth.at(in_data)?, 1);
    assert_eq!(depth.at(in_hole)?, 1);
    for origins in [0, in_data - 1, in_data + CHUNK, HOLE_END] {
        assert_eq!(
            depth.at(origins)?,
            2,
            "byte {origins} comes from the origin"
        );
    }
    ensure!(depth.at(HOLE_START)? != 1, "nothing was copied there");
    server.stop()?;
    Ok(())
}

#[test]
fn nbdcopy_copies_a_real_filesystem_out_and_a_changed_one_in() -> Result<()> {
    if missing(&[
        Need::Program("nbdcopy"),
        Need::Program("mke2fs"),
        Need::Program("e2fsck"),
    ])? {
        return Ok(());
    }
    let scratch = LAB.scratch("nbdcopy")?;
    let origin = ext4_of_installed_files(LAB.root())?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.join("c.cow");
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let (out, back) = (scratch.join("out.img"), scratch.join("back.img"));
    nbdcopy(server.uri(), text(&out)?)?;
    assert_eq!(sha256(&out)?, untouched.digest());

    change(&out)?;
    let changed = sha256(&out)?;
    ensure!(changed != untouched.digest(), "nothing was changed");
    nbdcopy(text(&out)?, server.uri())?;
    nbdcopy(server.uri(), text(&back)?)?;
    assert_eq!(sha256(&back)?, changed);
    server.stop()?;
    LAB.check_is_clean(&cow)?;

    // Opened again, the same.
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    fs::remove_file(&back)?;
    nbdcopy(server.uri(), text(&back)?)?;
    assert_eq!(sha256(&back)?, changed);
    server.stop()?;
    untouched.verify()
}

#[test]
fn nbdkits_self_checking_data_comes_back_as_it_went_in() -> Result<()> {
    if missing(&[Need::Program("nbdkit"), Need::Program("nbdcopy")])? {
        return Ok(());
    }
    let (size_gib, percent) = Scale::from_env()?.pick((8, 2), (256, 1));
    let scratch = LAB.scratch("sparse-random")?;
    let origin = scratch.sparse_file("origin.img", size_gib * GIB)?;
    let cow = scratch.join("c.cow");
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    // The plugin makes its data from a seed and answers EIO when another byte is written back.
    let copies = format!(
        r#"nbdcopy --destination-is-zero "$uri" "{0}" && nbdcopy "{0}" "$uri""#,
        server.uri()
    );
    Tool::new("nbdkit")
        .args(["-U", "-", "sparse-random"])
        .arg(format!("size={size_gib}G"))
        .arg(format!("percent={percent}"))
        .args(["seed=42", "--run", &copies])
        .limit(std::time::Duration::from_secs(900))
        .ok()?;
    server.stop()?;
    LAB.check_is_clean(&cow)
}

/// Overwrites some places and makes a large part zeros, as deleting and writing files would.
fn change(image: &Path) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).open(image)?;
    let len = file.metadata()?.len();
    let mut rng = Rng::new(21);
    for _ in 0..200 {
        let piece = 1 + rng.below(100_000);
        file.write_all_at(&rng.bytes(usize::try_from(piece)?), rng.below(len - piece))?;
    }
    file.write_all_at(&vec![0; 8 << 20], len / 2 + 1234)?;
    Ok(())
}

fn nbdinfo(args: &[&str]) -> Result<String> {
    Tool::new("nbdinfo").args(args).ok()
}

fn nbdcopy(from: &str, to: &str) -> Result<()> {
    Tool::new("nbdcopy").args([from, to]).ok().map(drop)
}

/// A metadata context's map of the whole export.
struct Map(Vec<Value>);

impl Map {
    fn of(context: &str, uri: &str) -> Result<Self> {
        let said = nbdinfo(&[&format!("--map={context}"), "--json", uri])?;
        let extents: Vec<Value> = serde_json::from_str(&said)?;
        let mut end = 0;
        for extent in &extents {
            ensure!(
                extent["offset"] == end,
                "a gap or an overlap at {end} in {said}"
            );
            end += extent["length"].as_u64().context("no length")?;
        }
        ensure!(end == ORIGIN_BYTES, "the map ends at {end}");
        Ok(Self(extents))
    }

    /// What the map says of the byte at `offset`.
    fn at(&self, offset: u64) -> Result<u64> {
        let within = |extent: &&Value| {
            let (start, len) = (extent["offset"].as_u64(), extent["length"].as_u64());
            start
                .zip(len)
                .is_some_and(|(start, len)| (start..start + len).contains(&offset))
        };
        let extent = self.0.iter().find(within).context("not in the map")?;
        extent["type"].as_u64().context("no type")
    }
}
