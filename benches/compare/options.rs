//! What the command line asks for.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use usnap_test_support::MIB;

use crate::contender::Contender;
use crate::job::Job;

/// Runs the same fio jobs over usnap and other NBD servers and prints tables of medians.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Options {
    /// Rounds; each runs every job over every server once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Seconds that a job takes which is not bounded by the image's size
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// MiB of the image that 4 KiB jobs touch; a first write touches each block once
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) size_mib: u64,
    /// MiB of the image that 256 KiB jobs touch
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) sequential_size_mib: u64,
    /// Only servers and jobs whose name contains one of these words
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
    /// The usnap to measure; without it `cargo build --release` makes one
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) usnap: Option<PathBuf>,
    /// Where the images go; a tmpfs, so that no disk is measured
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Where every single measurement goes
    #[arg(long, default_value = "compare.json", value_name = "FILE")]
    pub(crate) json: PathBuf,
    /// Seed of the image's bytes and of the order of random accesses
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Options {
    /// The servers to run.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let chosen = self.chosen(&Contender::ALL.map(|contender| contender.to_string()));
        Contender::ALL
            .into_iter()
            .zip(chosen)
            .filter(|(_, keep)| *keep)
            .map(|(one, _)| one)
            .collect()
    }

    /// The jobs to run.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let all = Job::all();
        let names: Vec<String> = all.iter().map(Job::to_string).collect();
        let chosen = self.chosen(&names);
        all.into_iter()
            .zip(chosen)
            .filter(|(_, keep)| *keep)
            .map(|(job, _)| job)
            .collect()
    }

    /// Which of `names` a word chooses; all, where no word chooses one of these.
    fn chosen(&self, names: &[String]) -> Vec<bool> {
        let picked = |name: &String| self.only.iter().any(|word| name.contains(word.as_str()));
        let picks: Vec<bool> = names.iter().map(picked).collect();
        if picks.contains(&true) {
            picks
        } else {
            vec![true; names.len()]
        }
    }

    /// The size of the image.
    pub(crate) fn origin_bytes(&self) -> u64 {
        self.size_mib.max(self.sequential_size_mib) * MIB
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
    use super::*;

    #[test]
    fn a_word_chooses_servers_or_jobs_and_leaves_the_other_kind_alone() {
        let options = Options::parse_from(["compare", "--only", "usnap"]);
        assert!(
            options
                .contenders()
                .iter()
                .all(|contender| contender.is_ours())
        );
        assert_eq!(options.contenders().len(), 2);
        assert_eq!(options.jobs().len(), Job::all().len());
        let options = Options::parse_from(["compare", "--only", "first write"]);
        assert_eq!(options.contenders().len(), Contender::ALL.len());
        assert_eq!(options.jobs().len(), 3);
    }
}
