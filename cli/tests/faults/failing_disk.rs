//! A disk that fails under the COW: for a while, in places, or for good. The one request learns of
//! it, a flush that failed is never forgotten, and what was flushed is there when the disk is well.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use usnap_test_support::disks::{Mapped, Mount, device, drop_caches, fsck, sectors};
use usnap_test_support::lab::text;
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, MIB, RawClient, Rng, Scratch, Server};

use crate::LAB;
use crate::machine::{NBD_EIO, flush, in_guest, read, run_dir, serve, status, stop_failing, write};
use crate::written::{Change, Content, Written};

const CHUNK: usize = 4096;
const ORIGIN_BYTES: u64 = 8 * MIB;
/// Chunks that are written and flushed before anything fails.
const FLUSHED: usize = 300;
/// Chunks that are written while the disk fails.
const DOOMED: usize = 40;

fn prepare(scratch: &Scratch) -> Result<Guest> {
    let origin = scratch.join("origin.img");
    random_file(&origin, ORIGIN_BYTES, 11)?;
    let disk = scratch.sparse_file("disk.img", 48 * MIB)?;
    let guest = Guest::new()
        .disk("DISK", &disk)
        .variable("ORIGIN", text(&origin)?)
        .module("md/dm-flakey")
        .module("md/dm-dust");
    Ok(guest)
}

/// The tables of one disk: well, failing in some way.
struct Tables {
    well: String,
    sectors: u64,
    disk: String,
}

impl Tables {
    fn new() -> Result<Self> {
        let disk = device("DISK")?;
        let sectors = sectors(&disk)?;
        let disk = text(&disk)?.to_owned();
        Ok(Self {
            well: format!("0 {sectors} linear {disk} 0"),
            sectors,
            disk,
        })
    }

    /// Every write fails, reads do not.
    fn no_writes(&self) -> String {
        let Self { sectors, disk, .. } = self;
        format!("0 {sectors} flakey {disk} 0 0 3600 1 error_writes")
    }

    /// Nothing works.
    fn dead(&self) -> String {
        format!("0 {} error", self.sectors)
    }
}

/// Chunk `index` of those written, from the device's end so that they are not the origin's first.
fn place(index: usize) -> usize {
    usize::try_from(ORIGIN_BYTES).unwrap_or(0) - (index + 1) * 2 * CHUNK
}

/// Writes and flushes, so that there is something to keep.
fn flush_some(client: &mut RawClient, written: &mut Written) -> Result<()> {
    let mut rng = Rng::new(12);
    for index in 0..FLUSHED {
        let data = rng.bytes(CHUNK);
        let change = Change::new(place(index), CHUNK, Content::Bytes(data.clone()));
        let id = written.begin(&change).context("busy")?;
        ensure!(write(client, place(index), &data)? == 0);
        written.done(id);
    }
    ensure!(flush(client)? == 0, "the first flush");
    Ok(())
}

/// Writes that are not flushed: new chunks and old ones. Answered or not, they are in doubt.
fn write_in_doubt(client: &mut RawClient, written: &mut Written) -> Result<()> {
    let mut rng = Rng::new(13);
    for index in FLUSHED - DOOMED / 2..FLUSHED + DOOMED / 2 {
        let data = rng.bytes(CHUNK);
        let change = Change::new(place(index), CHUNK, Content::Bytes(data.clone()));
        let id = written.begin(&change).context("busy")?;
        let error = write(client, place(index), &data)?;
        ensure!(matches!(error, 0 | NBD_EIO), "a write: error {error}");
        written.refused(id);
    }
    Ok(())
}

/// After a flush that failed: no later one succeeds, committed chunks are read, all of it is said.
fn is_latched(
    server: &Server,
    client: &mut RawClient,
    cow: &Path,
    written: &Written,
) -> Result<()> {
    for _ in 0..3 {
        ensure!(flush(client)? == NBD_EIO, "a later flush");
    }
    let error = write(client, place(1000), &[1; CHUNK])?;
    ensure!(error == NBD_EIO, "a later write: error {error}");
    let model = written.known();
    for index in 0..FLUSHED - DOOMED / 2 {
        let at = place(index);
        let found = read(client, at, CHUNK)?;
        ensure!(
            found.as_deref() == Ok(&model[at..at + CHUNK]),
            "committed chunk {index}: {:?}",
            found.err()
        );
    }
    for index in FLUSHED..FLUSHED + DOOMED / 2 {
        let found = read(client, place(index), CHUNK)?;
        ensure!(found == Err(NBD_EIO), "chunk {index} was never committed");
    }
    let report = status(cow)?;
    ensure!(report["latched"].is_string(), "the status: {report}");
    let log = server.log()?;
    ensure!(log.contains("fail"), "the log: {log}");
    Ok(())
}

/// Serves the store again, on a disk that is well, and holds it against what may be there. What the
/// failed flush left in the page cache is not trusted, and served only after a word from the user.
fn serves_again(origin: &Path, cow: &Path, written: &Written) -> Result<()> {
    let refused = serve(origin, cow)?.start().err();
    let said = format!("{:#}", refused.context("a latched store is served again")?);
    ensure!(said.contains("--journal=discard"), "{said}");
    let server = serve(origin, cow)?.args(&["--journal=discard"]).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let wrong = written.judge(&client.read_all()?);
    ensure!(
        wrong.is_empty(),
        "{} sectors: {:?}",
        wrong.len(),
        &wrong[..1]
    );
    let error = write(&mut client, place(1000), &[1; CHUNK])?;
    ensure!(error == 0, "a write: error {error}");
    ensure!(flush(&mut client)? == 0, "a flush");
    let content = client.read_all()?;
    client.disconnect()?;
    server.stop()?;
    // What was served was on the disk, not only in the page cache.
    drop_caches()?;
    LAB.check_is_clean(cow)?;
    let server = serve(origin, cow)?.start()?;
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(
        client.read_all()? == content,
        "the disk holds something else"
    );
    client.disconnect()?;
    server.stop().map(drop)
}

/// The course of a test: `fails` is the disk's table for a while, `on_file` whether the COW is a file
/// of a filesystem on it or the disk itself.
fn course(on_file: bool, fails: impl Fn(&Tables) -> String) -> Result<()> {
    let tables = Tables::new()?;
    let origin = device("ORIGIN")?;
    let disk = Mapped::create("disk", &tables.well)?;
    let point = run_dir("point");
    let mount = on_file
        .then(|| Mount::new_ext4(disk.path(), &point))
        .transpose()?;
    let cow = mount
        .as_ref()
        .map_or(disk.path().to_owned(), |mount| mount.join("c.cow"));

    let server = serve(&origin, &cow)?
        .args(&["--chunk-size", "4K", "--commit-interval", "0"])
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut written = Written::new(std::fs::read(&origin)?);
    flush_some(&mut client, &mut written)?;
    drop_caches()?;
    // So that what is committed is cached: a dead disk could not serve it.
    client.read_all()?;

    disk.change(&fails(&tables))?;
    write_in_doubt(&mut client, &mut written)?;
    ensure!(flush(&mut client)? == NBD_EIO, "the flush that fails");
    is_latched(&server, &mut client, &cow, &written)?;
    // The disk is well again; what the flush lost is not.
    disk.change(&tables.well)?;
    is_latched(&server, &mut client, &cow, &written)?;
    client.disconnect()?;
    stop_failing(server)?;

    if let Some(mount) = mount {
        mount.unmount()?;
        fsck(disk.path(), true)?;
        let mount = Mount::new(&["-t", "ext4", text(disk.path())?], &point)?;
        serves_again(&origin, &cow, &written)?;
        mount.unmount()?;
        fsck(disk.path(), false)?;
    } else {
        serves_again(&origin, &cow, &written)?;
    }
    disk.remove()
}

#[test]
fn writes_that_fail_under_the_filesystem_of_the_cow_latch_it() -> Result<()> {
    let name = "failing_disk::writes_that_fail_under_the_filesystem_of_the_cow_latch_it";
    in_guest(name, prepare, || course(true, Tables::no_writes)).map(drop)
}

#[test]
fn writes_that_fail_on_the_cow_device_latch_it() -> Result<()> {
    let name = "failing_disk::writes_that_fail_on_the_cow_device_latch_it";
    in_guest(name, prepare, || course(false, Tables::no_writes)).map(drop)
}

#[test]
fn a_disk_that_dies_under_the_filesystem_of_the_cow_latches_it() -> Result<()> {
    let name = "failing_disk::a_disk_that_dies_under_the_filesystem_of_the_cow_latches_it";
    in_guest(name, prepare, || course(true, Tables::dead)).map(drop)
}

#[test]
fn a_disk_that_dies_as_the_cow_device_latches_it() -> Result<()> {
    let name = "failing_disk::a_disk_that_dies_as_the_cow_device_latches_it";
    in_guest(name, prepare, || course(false, Tables::dead)).map(drop)
}

/// Where the chunk at `at` lies on the COW, as `dump` says.
fn new_chunk_of(cow: &Path, at: usize) -> Result<u64> {
    let said = LAB.usnap(&["dump", text(cow)?]).ok()?;
    let old_chunk = format!("{} -> ", at / CHUNK);
    let new_chunk = said.lines().find_map(|line| line.strip_prefix(&old_chunk));
    new_chunk
        .with_context(|| format!("no exception {old_chunk}in\n{said}"))?
        .parse()
        .context("no chunk number")
}

#[test]
fn a_bad_block_fails_the_reads_of_its_chunk_and_no_others() -> Result<()> {
    let name = "failing_disk::a_bad_block_fails_the_reads_of_its_chunk_and_no_others";
    in_guest(name, prepare, bad_block).map(drop)
}

fn bad_block() -> Result<()> {
    let tables = Tables::new()?;
    let origin = device("ORIGIN")?;
    let table = format!("0 {} dust {} 0 512", tables.sectors, tables.disk);
    let disk = Mapped::create("disk", &table)?;
    let cow = disk.path();
    let server = serve(&origin, cow)?.args(&["--chunk-size", "4K"]).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut written = Written::new(std::fs::read(&origin)?);
    flush_some(&mut client, &mut written)?;
    client.disconnect()?;
    server.stop()?;

    let bad = place(100);
    let sector = new_chunk_of(cow, bad)? * (CHUNK as u64 / 512) + 3;
    disk.message(&["addbadblock", &sector.to_string()])?;
    disk.message(&["enable"])?;
    drop_caches()?;
    let server = serve(&origin, cow)?.start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let model = written.known();
    for at in (0..model.len()).step_by(CHUNK) {
        let found = read(&mut client, at, CHUNK)?;
        if at == bad {
            ensure!(found == Err(NBD_EIO), "the chunk with the bad block");
        } else {
            ensure!(
                found.as_deref() == Ok(&model[at..at + CHUNK]),
                "chunk {}: {:?}",
                at / CHUNK,
                found.err()
            );
        }
    }
    // One byte of it needs the rest, which can't be read; all of it does not.
    let error = write(&mut client, bad + 7, &[1])?;
    ensure!(matches!(error, 0 | NBD_EIO), "a byte: error {error}");
    let whole = Rng::new(14).bytes(CHUNK);
    ensure!(write(&mut client, bad, &whole)? == 0, "the chunk anew");
    ensure!(
        flush(&mut client)? == 0,
        "a flush: a bad read latches nothing"
    );
    ensure!(
        read(&mut client, bad, CHUNK)? == Ok(whole),
        "the chunk that was written anew"
    );
    client.disconnect()?;
    server.stop()?;

    // A bad block in the metadata: the store is not served without what it says.
    disk.message(&["addbadblock", &(CHUNK as u64 / 512 + 1).to_string()])?;
    drop_caches()?;
    let refused = serve(&origin, cow)?.start().err();
    let said = format!(
        "{:#}",
        refused.context("a store whose area can't be read is served")?
    );
    ensure!(said.contains("cannot"), "{said}");
    disk.message(&["removebadblock", &(CHUNK as u64 / 512 + 1).to_string()])?;
    drop_caches()?;
    LAB.check_is_clean(cow)?;
    disk.remove()
}
