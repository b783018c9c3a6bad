//! Origins and COW files that are missing, in use, changed or can't be written: each is refused in
//! words, and nothing changes.

use std::fs::{self, OpenOptions};
use std::path::Path;

use anyhow::{Result, ensure};
use usnap_test_support::lab::{Untouched, text, write_file};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{MIB, Need, RawClient, Scratch, Serve, Tool, missing};

use crate::LAB;
use crate::refused::{is_refusal, refused};

const ORIGIN_BYTES: u64 = 4 * MIB;

/// An origin and a COW with some changes in it, both at rest.
struct Pair {
    scratch: Scratch,
    origin: std::path::PathBuf,
    cow: std::path::PathBuf,
    model: Vec<u8>,
}

impl Pair {
    fn make(name: &str) -> Result<Self> {
        let scratch = LAB.scratch(name)?;
        let (origin, cow) = (scratch.join("origin.img"), scratch.join("c.cow"));
        random_file(&origin, ORIGIN_BYTES, 51)?;
        let mut model = fs::read(&origin)?;
        let server = LAB.serve(&origin)?.cow(&cow).start()?;
        let mut client = RawClient::connect(&server.socket())?;
        client.write_at(100_000, &[9; 5000])?;
        model[100_000..105_000].fill(9);
        client.disconnect()?;
        server.stop()?;
        Ok(Self {
            scratch,
            origin,
            cow,
            model,
        })
    }

    /// `usnap serve` of the pair, as a call that is to fail.
    fn serve(&self) -> Result<Tool> {
        let socket = self.scratch.join("s");
        let (origin, cow) = (text(&self.origin)?, text(&self.cow)?);
        Ok(LAB.usnap(&["serve", origin, "--cow", cow, "--socket", text(&socket)?]))
    }

    /// Expects the pair to be served with its content.
    fn serves(&self, args: &[&str]) -> Result<String> {
        let server = LAB.serve(&self.origin)?.cow(&self.cow).args(args).start()?;
        let read = RawClient::connect(&server.socket())?.read_all()?;
        ensure!(
            read == self.model,
            "something else is served than was written"
        );
        server.stop()
    }
}

#[test]
fn a_missing_origin_is_named_and_no_cow_is_made_for_it() -> Result<()> {
    let pair = Pair::make("no-origin")?;
    let untouched = Untouched::note(&pair.cow)?;
    fs::remove_file(&pair.origin)?;
    refused(pair.serve()?, &[text(&pair.origin)?, "No such file"])?;
    untouched.verify()?;
    fs::remove_file(&pair.cow)?;
    refused(pair.serve()?, &[text(&pair.origin)?])?;
    ensure!(
        !pair.cow.exists(),
        "a COW was made for an origin that is not there"
    );
    Ok(())
}

#[test]
fn what_is_not_there_or_no_file_can_be_neither_shown_nor_checked() -> Result<()> {
    let scratch = LAB.scratch("no-cow")?;
    let absent = scratch.join("absent.cow");
    for command in ["status", "check", "dump"] {
        refused(
            LAB.usnap(&[command, text(&absent)?]),
            &[text(&absent)?, "No such file"],
        )?;
        refused(
            LAB.usnap(&[command, text(scratch.path())?]),
            &[text(scratch.path())?],
        )?;
    }
    ensure!(!absent.exists(), "looking at it made it");
    Ok(())
}

#[test]
fn an_origin_that_changed_since_is_refused_unless_forced() -> Result<()> {
    let mut pair = Pair::make("changed")?;
    random_file(&pair.origin, ORIGIN_BYTES, 52)?;
    let untouched = Untouched::note(&pair.cow)?;
    refused(pair.serve()?, &[text(&pair.origin)?, "--force-origin"])?;
    untouched.verify()?;
    let written = pair.model[100_000..105_000].to_vec();
    let chunks = 98_304..106_496;
    let copied = pair.model[chunks.clone()].to_vec();
    pair.model = fs::read(&pair.origin)?;
    pair.model[chunks].copy_from_slice(&copied);
    ensure!(
        pair.model[100_000..105_000] == written[..],
        "the test's arithmetic is wrong"
    );
    pair.serves(&["--force-origin"])?;
    Ok(())
}

#[test]
fn an_origin_that_was_only_touched_is_still_the_origin() -> Result<()> {
    let pair = Pair::make("touched")?;
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    OpenOptions::new()
        .write(true)
        .open(&pair.origin)?
        .set_modified(later)?;
    pair.serves(&[])?;
    Ok(())
}

#[test]
fn an_origin_that_is_shorter_or_longer_is_refused() -> Result<()> {
    for size_bytes in [ORIGIN_BYTES - 4096, ORIGIN_BYTES + 4096] {
        let pair = Pair::make("resized")?;
        OpenOptions::new()
            .write(true)
            .open(&pair.origin)?
            .set_len(size_bytes)?;
        let untouched = [Untouched::note(&pair.cow)?, Untouched::note(&pair.origin)?];
        refused(pair.serve()?, &[text(&pair.origin)?])?;
        untouched.iter().try_for_each(Untouched::verify)?;
    }
    Ok(())
}

#[test]
fn an_empty_origin_is_nothing_to_serve() -> Result<()> {
    let pair = Pair::make("emptied")?;
    OpenOptions::new()
        .write(true)
        .open(&pair.origin)?
        .set_len(0)?;
    let untouched = Untouched::note(&pair.cow)?;
    refused(pair.serve()?, &[text(&pair.origin)?, "empty"])?;
    untouched.verify()
}

#[test]
fn a_cow_in_use_is_refused_and_its_holder_named() -> Result<()> {
    let pair = Pair::make("in-use")?;
    let server = LAB.serve(&pair.origin)?.cow(&pair.cow).start()?;
    let holder = server.pid().to_string();
    refused(pair.serve()?, &[text(&pair.cow)?, "in use", &holder])?;

    // The file, not its name, is what is in use.
    let (linked, pointed) = (
        pair.scratch.join("linked.cow"),
        pair.scratch.join("pointed.cow"),
    );
    fs::hard_link(&pair.cow, &linked)?;
    std::os::unix::fs::symlink(&pair.cow, &pointed)?;
    for name in [linked, pointed] {
        let other = Pair {
            cow: name,
            ..Pair::make("in-use-other")?
        };
        let other = Pair {
            origin: pair.origin.clone(),
            ..other
        };
        refused(other.serve()?, &["in use", &holder])?;
    }
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(client.read_all()? == pair.model, "the holder was disturbed");
    client.disconnect()?;
    server.stop()?;
    pair.serves(&[])?;
    Ok(())
}

#[test]
fn the_origin_can_not_be_its_own_cow() -> Result<()> {
    let pair = Pair::make("same")?;
    let untouched = Untouched::note(&pair.origin)?;
    let same = Pair {
        cow: pair.origin.clone(),
        ..pair
    };
    refused(same.serve()?, &[text(&same.origin)?])?;
    untouched.verify()
}

#[test]
fn create_never_overwrites() -> Result<()> {
    let pair = Pair::make("create")?;
    let other = pair.scratch.join("other");
    write_file(&other, b"something of value")?;
    let empty = pair.scratch.join("empty");
    write_file(&empty, b"")?;
    let dangling = pair.scratch.join("dangling");
    std::os::unix::fs::symlink(pair.scratch.join("nowhere"), &dangling)?;
    for existing in [&pair.cow, &pair.origin, &other, &empty] {
        let untouched = Untouched::note(existing)?;
        refused(
            LAB.usnap(&["create", text(existing)?, "--size", "1M"]),
            &[text(existing)?, "exists"],
        )?;
        untouched.verify()?;
    }
    refused(
        LAB.usnap(&["create", text(&dangling)?, "--size", "1M"]),
        &[],
    )?;
    refused(
        LAB.usnap(&["create", text(pair.scratch.path())?, "--size", "1M"]),
        &[],
    )?;
    ensure!(
        !pair.scratch.join("nowhere").exists(),
        "a file was made behind a link"
    );
    pair.serves(&[])?;
    Ok(())
}

#[test]
fn a_read_only_filesystem_is_said_and_does_not_hinder_its_origins() -> Result<()> {
    if missing(&[Need::PrivateMounts])? {
        return Ok(());
    }
    let pair = Pair::make("read-only")?;
    let untouched = [Untouched::note(&pair.cow)?, Untouched::note(&pair.origin)?];
    let directory = text(pair.scratch.path())?;
    let socket = Path::new("/tmp").join(format!("usnap-test-{}", std::process::id()));
    for cow in [pair.cow.clone(), pair.scratch.join("new.cow")] {
        let serve = [
            "serve",
            text(&pair.origin)?,
            "--cow",
            text(&cow)?,
            "--socket",
            text(&socket)?,
        ];
        let output = Tool::new("unshare")
            .args(read_only(directory))
            .args(serve)
            .run()?;
        is_refusal(&output, &[text(&cow)?, "ead-only"])?;
        ensure!(!socket.exists(), "a socket was left behind");
    }
    let new = pair.scratch.join("created.cow");
    let create = ["create", text(&new)?, "--size", "1M"];
    let output = Tool::new("unshare")
        .args(read_only(directory))
        .args(create)
        .run()?;
    is_refusal(&output, &[text(&new)?, "ead-only"])?;

    // Only the COW needs to be written.
    let elsewhere = LAB.scratch("elsewhere")?;
    let mut launcher = std::process::Command::new("unshare");
    launcher.args(read_only(directory));
    let cow = elsewhere.join("c.cow");
    let server = Serve::wrapped(launcher, LAB.root(), &pair.origin)?
        .cow(&cow)
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    client.write_at(0, &[1; 4096])?;
    client.disconnect()?;
    server.stop()?;
    untouched.iter().try_for_each(Untouched::verify)
}

#[test]
fn what_was_flushed_survives_a_kill() -> Result<()> {
    let mut pair = Pair::make("killed")?;
    let server = LAB.serve(&pair.origin)?.cow(&pair.cow).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    for place in [0_usize, 300_001, 3_000_000] {
        client.write_at(place as u64, &[4; 10_000])?;
        pair.model[place..place + 10_000].fill(4);
    }
    client.flush()?;
    server.kill()?;
    LAB.check_is_clean(&pair.cow)?;
    pair.serves(&[])?;
    Ok(())
}

#[test]
fn an_origin_of_any_size_is_served_to_its_last_byte() -> Result<()> {
    let scratch = LAB.scratch("odd")?;
    for size_bytes in [1, 511, 512, 4095, 4097, 1_000_003] {
        let (origin, cow) = (scratch.join("odd.img"), scratch.join("odd.cow"));
        random_file(&origin, size_bytes, size_bytes)?;
        let untouched = Untouched::note(&origin)?;
        let mut model = fs::read(&origin)?;
        let server = LAB.serve(&origin)?.cow(&cow).start()?;
        let mut client = RawClient::connect(&server.socket())?;
        assert_eq!(client.size_bytes(), size_bytes);
        ensure!(
            client.read_all()? == model,
            "{size_bytes} bytes: the origin is not served"
        );
        let last = model.len() - 1;
        model[last] ^= 0xff;
        client.write_at(last as u64, &model[last..])?;
        client.disconnect()?;
        server.stop()?;
        LAB.check_is_clean(&cow)?;
        let server = LAB.serve(&origin)?.cow(&cow).start()?;
        let read = RawClient::connect(&server.socket())?.read_all()?;
        ensure!(read == model, "{size_bytes} bytes: the last byte was lost");
        server.stop()?;
        untouched.verify()?;
        fs::remove_file(&cow)?;
    }
    Ok(())
}

/// Arguments for `unshare` that make `directory` read-only for the usnap that follows.
fn read_only(directory: &str) -> Vec<&str> {
    let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
    vec![
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        directory,
        LAB.program(),
    ]
}
