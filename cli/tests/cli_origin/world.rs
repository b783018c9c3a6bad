//! An origin that is served, beside bytes in memory that tell what it must hold.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use usnap_test_support::raw_client::command;
use usnap_test_support::tool::Output;
use usnap_test_support::{Lab, RawClient, Rng, Scratch, Server, lab};

pub(crate) const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
/// Not a multiple of any chunk size that is used here.
pub(crate) const SIZE_BYTES: usize = (12 << 20) + 1536;

/// A folder with an origin, and what must be in it.
pub(crate) struct World {
    pub(crate) scratch: Scratch,
    /// The origin.
    pub(crate) bytes: Vec<u8>,
    pub(crate) rng: Rng,
}

impl World {
    pub(crate) fn new(name: &str, seed: u64) -> Result<Self> {
        let scratch = LAB.scratch(name)?;
        let mut rng = Rng::new(seed);
        let bytes = rng.bytes(SIZE_BYTES);
        lab::write_file(&scratch.join("o.img"), &bytes)?;
        Ok(Self {
            scratch,
            bytes,
            rng,
        })
    }

    pub(crate) fn origin(&self) -> PathBuf {
        self.scratch.join("o.img")
    }

    /// The path of a snapshot's COW.
    pub(crate) fn cow(&self, name: &str) -> PathBuf {
        self.scratch.join(&format!("{name}.cow"))
    }

    /// A snapshot as it is typed, `rest` behind the path of its COW.
    pub(crate) fn spec(&self, name: &str, rest: &str) -> String {
        format!("{name}={}{rest}", self.cow(name).display())
    }

    /// Serves the origin with these snapshots and arguments.
    pub(crate) fn serve(&self, specs: &[String], args: &[&str]) -> Result<Server> {
        let mut all: Vec<&str> = args.to_vec();
        for spec in specs {
            all.extend(["--snapshot", spec]);
        }
        LAB.serve_origin(&self.origin())?.args(&all).start()
    }

    /// Runs `usnap snapshot WORD ORIGIN ...`.
    pub(crate) fn snapshot(&self, word: &str, args: &[&str]) -> Result<Output> {
        let origin = self.origin();
        LAB.usnap(&["snapshot", word, lab::text(&origin)?])
            .args(args)
            .run()
    }

    /// Does so, and expects it to be done.
    pub(crate) fn done(&self, word: &str, args: &[&str]) -> Result<String> {
        let output = self.snapshot(word, args)?;
        ensure!(output.status.success(), "{output}");
        Ok(output.stdout)
    }

    /// What `usnap snapshot list --json` says of the snapshot called `name`.
    pub(crate) fn listed(&self, name: &str) -> Result<Value> {
        let list: Value = serde_json::from_str(&self.done("list", &["--json"])?)?;
        let snapshots = list["snapshots"].as_array().context("no snapshots")?;
        let found = snapshots.iter().find(|one| one["name"] == name);
        found
            .cloned()
            .with_context(|| format!("no {name} in {list}"))
    }

    /// Changes the origin `count` times through `client`: writes of any place and length, and now
    /// and then zeros, a trim and a flush.
    pub(crate) fn change(&mut self, client: &mut RawClient, count: usize) -> Result<()> {
        for _ in 0..count {
            let longest = [512, 5000, 70_000, 200_000][index(self.rng.below(4))];
            let len = index(self.rng.below(longest)) + 1;
            let at = index(self.rng.below(SIZE_BYTES as u64 - len as u64 + 1));
            let what = self.rng.below(20);
            let range = &mut self.bytes[at..at + len];
            let (offset, length) = (at as u64, u32::try_from(len)?);
            let error = match what {
                0 => {
                    range.fill(0);
                    client.call(command::WRITE_ZEROES, offset, length, &[])?
                }
                1 => {
                    // Its content is the system's choice from now on; it is written next.
                    client.call(command::TRIM, offset, length, &[])?;
                    self.rng.fill(range);
                    client.call(command::WRITE, offset, length, range)?
                }
                2 => client.call(command::FLUSH, 0, 0, &[])?,
                _ => {
                    self.rng.fill(range);
                    client.call(command::WRITE, offset, length, range)?
                }
            };
            ensure!(error == 0, "change {what} of {len} at {at}: error {error}");
        }
        Ok(())
    }
}

pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// All that an export shows.
pub(crate) fn read(server: &Server, name: &str) -> Result<Vec<u8>> {
    RawClient::connect_to(&server.socket(), name)?.read_all()
}

/// Expects an export to show exactly that.
pub(crate) fn shows(server: &Server, name: &str, expected: &[u8]) -> Result<()> {
    same(&read(server, name)?, expected).with_context(|| format!("export {name:?}"))
}

/// Expects the same bytes, and says where the first other one is.
pub(crate) fn same(found: &[u8], expected: &[u8]) -> Result<()> {
    ensure!(found.len() == expected.len(), "{} bytes", found.len());
    let other = found.iter().zip(expected).position(|(a, b)| a != b);
    match other {
        None => Ok(()),
        Some(at) => anyhow::bail!("other bytes from {at} on"),
    }
}
