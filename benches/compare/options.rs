//! What the command line asks for.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::address::Transport;
use crate::contender::Contender;
use crate::job::{IMAGE_KIB, Job};
use crate::plan::{Set, Step, steps};

/// Runs the same fio jobs over usnap and other NBD servers in turns, and prints medians and ratios.
///
/// A round runs each job over its servers back to back, over fresh files. One measurement takes a
/// second or two: a round of the default set about two minutes and a half, its seven rounds under
/// twenty minutes; `--set quick --rounds 3` four. Exit code 3 says that `--limit` ended it early.
///
/// Example: compare --set claims --rounds 9
#[derive(Debug, Parser)]
#[command(name = "compare", verbatim_doc_comment)]
pub(crate) struct Options {
    /// Which jobs and servers
    #[arg(long, value_enum, default_value = "main")]
    pub(crate) set: Set,
    /// Rounds; each runs every job over every server once
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// What carries the requests
    #[arg(long, value_enum, default_value = "unix")]
    pub(crate) transport: Transports,
    /// Only servers and jobs whose name contains one of these words
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
    /// Print the jobs with their servers, and measure nothing
    #[arg(long)]
    pub(crate) list: bool,
    /// Go on with the rounds that the JSON file lacks
    #[arg(long)]
    pub(crate) resume: bool,
    /// Begin no job after this many seconds; `--resume` goes on later
    #[arg(long, value_name = "SECONDS")]
    pub(crate) limit: Option<u64>,
    /// MiB of the image; what each job touches of it goes along
    #[arg(long, default_value_t = IMAGE_KIB / 1024, value_parser = clap::value_parser!(u64).range(16..))]
    pub(crate) size_mib: u64,
    /// The binary to measure; without, the release build is made first
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) usnap: Option<PathBuf>,
    /// Where the images go; a tmpfs, so that no disk is measured
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Where they go for jobs with fsync and for cold ones; on a disk that does little else
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    pub(crate) disk_directory: PathBuf,
    /// Where every single measurement goes
    #[arg(long, default_value = "compare.json", value_name = "FILE")]
    pub(crate) json: PathBuf,
    /// Draw the chart here
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) chart: Option<PathBuf>,
    /// Put figures between this file's markers, and the chart below its folder's benches/
    #[arg(long, value_name = "FILE.md")]
    pub(crate) readme: Option<PathBuf>,
    /// Seed of the image's bytes and of the order of random accesses
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// A choice of transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transports {
    /// A unix socket
    Unix,
    /// TCP over the loopback device
    Tcp,
    /// One after the other
    Both,
}

impl Options {
    /// The jobs to run, and over which servers.
    pub(crate) fn steps(&self) -> Result<Vec<Step>> {
        let names = || {
            let jobs = Job::all().into_iter().map(|job| job.to_string());
            jobs.chain(Contender::ALL.map(|server| server.to_string()))
        };
        for word in &self.only {
            ensure!(
                names().any(|name| name.contains(word.as_str())),
                "no job and no server is called anything with `{word}`: see --list --set all"
            );
        }
        let mut steps = steps(self.set, &self.only);
        ensure!(!steps.is_empty(), "--only leaves nothing of this set");
        for step in &mut steps {
            step.job = step.job.of_image(self.size_mib);
        }
        Ok(steps)
    }

    /// What carries requests, in turn.
    pub(crate) fn transports(&self) -> &'static [Transport] {
        match self.transport {
            Transports::Unix => &[Transport::Unix],
            Transports::Tcp => &[Transport::Tcp],
            Transports::Both => &[Transport::Unix, Transport::Tcp],
        }
    }

    /// How long jobs may begin.
    pub(crate) fn time_limit(&self) -> Duration {
        self.limit.map_or(Duration::MAX, Duration::from_secs)
    }

    /// What rounds must have in common to be put together.
    pub(crate) fn parameters(&self) -> String {
        format!("image of {} MiB, seed {}", self.size_mib, self.seed)
    }

    /// The usnap to measure, built now unless one was given or none takes part.
    pub(crate) fn usnap_program(&self, contenders: &[Contender]) -> Result<PathBuf> {
        if let Some(program) = &self.usnap {
            ensure!(program.is_file(), "there is no {}", program.display());
            return Ok(program.clone());
        }
        let beside = std::env::current_exe().context("cannot tell where this program lies")?;
        let program = beside.with_file_name("usnap");
        if contenders.iter().any(|contender| contender.is_ours()) {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo)
                .args(["build", "--quiet", "--release", "-p", "usnap"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .context("cannot run cargo")?;
            ensure!(
                built.success(),
                "cargo can't build usnap; --usnap names one that is there"
            );
            ensure!(
                program.is_file(),
                "cargo puts no usnap beside this program; run it with `cargo run --release`"
            );
        }
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_a_word_that_names_nothing_is_refused() -> Result<()> {
        Options::command().debug_assert();
        let options = Options::parse_from(["compare", "--only", "usnap", "--set", "claims"]);
        assert!(
            options
                .steps()?
                .iter()
                .all(|step| step.servers.iter().all(|one| one.is_ours()))
        );
        let options = Options::parse_from(["compare", "--only", "unsap"]);
        assert!(options.steps().is_err());
        Ok(())
    }

    #[test]
    fn a_smaller_image_makes_every_job_smaller() -> Result<()> {
        let options = Options::parse_from(["compare", "--size-mib", "16", "--set", "all"]);
        for step in options.steps()? {
            let job = step.job;
            assert!(job.span_kib <= 16 * 1024, "{job}");
            let unit = u64::from(job.block_kib) * u64::from(job.connections);
            assert_eq!(job.span_kib % unit, 0, "{job}");
        }
        Ok(())
    }
}
