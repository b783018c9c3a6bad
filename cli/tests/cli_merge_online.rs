//! `usnap serve --merge`: clients are served while the COW file is merged into the origin. Whatever
//! ends the server, everything that was acknowledged is there, however it goes on.
//!
//! `USNAP_TEST_SCALE=full` kills it a hundred times.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use usnap_test_support::lab::text;
use usnap_test_support::pattern::random_file;
use usnap_test_support::{
    KIB, Lab, MIB, Need, RawClient, Rng, Scale, Scratch, Server, Tool, missing,
};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

const CHUNK: u64 = 4 * KIB;
/// The origin ends inside a chunk.
const ORIGIN_BYTES: u64 = 64 * MIB + 512;

/// An origin, a COW file of it with many scattered chunks, and what both show.
struct Bench {
    scratch: Scratch,
    content: Vec<u8>,
    rng: Rng,
}

impl Bench {
    fn new(name: &str, chunks: usize, seed: u64) -> Result<Self> {
        let scratch = LAB.scratch(name)?;
        let origin = scratch.join("disk.img");
        random_file(&origin, ORIGIN_BYTES, 1)?;
        let content = fs::read(&origin)?;
        let rng = Rng::new(seed);
        let mut bench = Self {
            scratch,
            content,
            rng,
        };
        let server = LAB.serve(&origin)?.cow(&bench.path("c.cow")).start()?;
        let mut client = RawClient::connect(&server.socket())?;
        let order = bench.rng.permutation(ORIGIN_BYTES / CHUNK);
        for chunk in &order[..chunks] {
            let data = bench.rng.bytes(usize::try_from(CHUNK)?);
            let at = usize::try_from(chunk * CHUNK)?;
            bench.content[at..at + data.len()].copy_from_slice(&data);
            client.write_at(chunk * CHUNK, &data)?;
        }
        client.disconnect()?;
        server.stop()?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn serve(&self, args: &[&str]) -> Result<Server> {
        let server = LAB.serve(&self.path("disk.img"))?.cow(&self.path("c.cow"));
        server.args(args).start()
    }

    fn status(&self) -> Result<Value> {
        let cow = self.path("c.cow");
        let said = LAB.usnap(&["status", "--json", text(&cow)?]).ok()?;
        Ok(serde_json::from_str(&said)?)
    }

    /// A write of some sectors at random, or a look at them.
    fn step(&mut self, client: &mut RawClient) -> Result<()> {
        let len = 512 * (1 + self.rng.below(40));
        let offset = self.rng.below((ORIGIN_BYTES - len) / 512) * 512;
        let at = usize::try_from(offset)?;
        let mut data = self.rng.bytes(usize::try_from(len)?);
        if self.rng.below(3) > 0 {
            client.write_at(offset, &data)?;
            self.content[at..at + data.len()].copy_from_slice(&data);
        } else {
            client.read_at(offset, &mut data)?;
            ensure!(
                data == self.content[at..at + data.len()],
                "byte {at} reads otherwise"
            );
        }
        Ok(())
    }

    fn wait_until_done(&self) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let status = self.status()?;
            match status["merge"]["state"].as_str() {
                Some("done") => return Ok(status),
                Some("running") if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                _ => bail!("{status}"),
            }
        }
    }

    fn expect_content(&self, server: &Server) -> Result<()> {
        let mut client = RawClient::connect(&server.socket())?;
        let found = client.read_all()?;
        client.disconnect()?;
        let differs = found.iter().zip(&self.content).position(|(a, b)| a != b);
        ensure!(
            differs.is_none(),
            "byte {differs:?} is not what it should be"
        );
        Ok(())
    }

    /// The origin is what the snapshot was, and the store is empty.
    fn expect_merged(&self) -> Result<()> {
        ensure!(
            fs::read(self.path("disk.img"))? == self.content,
            "the origin"
        );
        let status = self.status()?;
        ensure!(status["exceptions_committed"] == 0, "{status}");
        ensure!(status["origin_changing"] == false, "{status}");
        LAB.check_is_clean(&self.path("c.cow"))
    }
}

#[test]
fn clients_are_served_while_it_merges_and_the_origin_behind_that() -> Result<()> {
    let mut bench = Bench::new("merge-online", 6000, 1)?;
    let server = bench.serve(&["--merge"])?;
    let mut client = RawClient::connect(&server.socket())?;
    let status = bench.status()?;
    ensure!(status["merge"]["chunks_total"] == 6000, "{status}");
    let mut steps = 0;
    while bench.status()?["merge"]["state"] == "running" {
        for _ in 0..20 {
            bench.step(&mut client)?;
        }
        steps += 20;
    }
    ensure!(steps > 20, "only {steps} steps while it merged");
    let status = bench.wait_until_done()?;
    ensure!(status["merge"]["chunks_left"] == 0, "{status}");
    let line = status["status"].as_str().context("no status")?;
    ensure!(line.starts_with("16/") && line.ends_with(" 16"), "{line}");
    for _ in 0..200 {
        bench.step(&mut client)?;
    }
    bench.expect_content(&server)?;
    client.disconnect()?;
    let log = server.stop()?;
    ensure!(log.contains("the merge is done: 6000 chunks"), "{log}");
    bench.expect_merged()?;
    // It is the store's origin: nothing speaks against it.
    let log = bench.serve(&[])?.stop()?;
    ensure!(!log.contains("WARN"), "{log}");
    Ok(())
}

#[test]
fn who_is_told_to_end_leaves_a_store_that_is_served_and_merged_on() -> Result<()> {
    let mut bench = Bench::new("merge-online-stop", 8000, 2)?;
    let server = bench.serve(&["--merge"])?;
    let mut client = RawClient::connect(&server.socket())?;
    for _ in 0..30 {
        bench.step(&mut client)?;
    }
    while bench.status()?["exceptions_committed"] == 8000 {
        bench.step(&mut client)?;
    }
    client.disconnect()?;
    server.stop()?;
    let left = bench.status()?["exceptions_committed"].as_u64();
    ensure!(
        left.is_some_and(|left| left > 0),
        "nothing is left to go on with"
    );
    // Known again, half-way: it is compared and fits.
    let server = bench.serve(&[])?;
    bench.expect_content(&server)?;
    let log = server.stop()?;
    ensure!(!log.contains("WARN"), "{log}");
    let (cow, origin) = (bench.path("c.cow"), bench.path("disk.img"));
    LAB.usnap(&["merge", text(&cow)?, text(&origin)?]).ok()?;
    bench.expect_merged()
}

#[test]
fn kill_9_while_it_merges_loses_nothing_however_it_goes_on() -> Result<()> {
    let rounds = Scale::from_env()?.pick(6, 100);
    let mut half_way = 0;
    for round in 0..rounds {
        let mut bench = Bench::new("merge-online-kill", 5000, 10 + round)?;
        let server = bench.serve(&["--merge"])?;
        let pause = bench.rng.below(400);
        let mut client = RawClient::connect(&server.socket())?;
        let deadline = Instant::now() + Duration::from_millis(pause);
        while Instant::now() < deadline {
            bench.step(&mut client)?;
        }
        server.kill()?;
        let left = bench.status()?["exceptions_committed"].as_u64();
        half_way += u64::from(left.is_some_and(|left| 0 < left && left < 5000));
        // First as a snapshot over the half-merged origin, or at once as a merge.
        if round % 2 == 0 {
            let server = bench.serve(&[])?;
            bench.expect_content(&server)?;
            let mut client = RawClient::connect(&server.socket())?;
            for _ in 0..50 {
                bench.step(&mut client)?;
            }
            client.disconnect()?;
            server.stop()?;
        }
        if round % 3 == 0 {
            let (cow, origin) = (bench.path("c.cow"), bench.path("disk.img"));
            LAB.usnap(&["merge", text(&cow)?, text(&origin)?]).ok()?;
        } else {
            let server = bench.serve(&["--merge"])?;
            bench.expect_content(&server)?;
            bench.wait_until_done()?;
            bench.expect_content(&server)?;
            server.stop()?;
        }
        bench.expect_merged()?;
    }
    ensure!(
        half_way > 0,
        "in {rounds} rounds it was never killed half-way"
    );
    Ok(())
}

#[test]
fn fio_verifies_what_it_writes_while_it_merges() -> Result<()> {
    if missing(&[Need::Program("fio")])? {
        return Ok(());
    }
    let mut bench = Bench::new("merge-online-fio", 8000, 3)?;
    let server = bench.serve(&["--merge"])?;
    let said = Tool::new("fio")
        .args(["--name=verify", "--ioengine=nbd", "--iodepth=16"])
        .args([
            "--rw=randrw",
            "--bsrange=512-64k",
            "--size=64m",
            "--fsync=200",
        ])
        .args([
            "--verify=crc32c",
            "--verify_state_save=0",
            "--verify_fatal=1",
        ])
        .args(["--do_verify=1", "--output-format=json"])
        .arg(format!("--uri={}", server.uri()))
        .limit(Duration::from_secs(300))
        .ok()?;
    let json = said.find('{').map(|start| &said[start..]);
    let report: Value = serde_json::from_str(json.context("fio printed no JSON")?)?;
    ensure!(report["jobs"][0]["error"] == 0, "{said}");
    bench.wait_until_done()?;
    let mut client = RawClient::connect(&server.socket())?;
    bench.content = client.read_all()?;
    client.disconnect()?;
    server.stop()?;
    bench.expect_merged()
}
