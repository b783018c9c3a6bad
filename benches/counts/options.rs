//! What the command line asks for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::engine::Load;
use crate::job::{Count, Side};

/// Counts the instructions that each operation takes and holds them against benches/README.md:
/// exit code 1 where one takes more than 1.1 times as many as are recorded there.
#[derive(Debug, Parser)]
#[command(name = "counts", args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Write the counts into the table instead of holding them against it
    #[arg(long)]
    pub(crate) record: bool,
    /// Only what has one of these words in its name
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
    /// The usnap to count in; without it `cargo build --release` makes one
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) usnap: Option<PathBuf>,
    /// The document with the table
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))]
    pub(crate) table: PathBuf,
    /// Where the files go; a tmpfs, so that no disk is waited for
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    pub(crate) directory: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// What runs under callgrind
    #[command(hide = true)]
    Operations(Load),
}

impl Options {
    /// What is to be counted.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let chosen = |count: &Count| {
            let name = count.to_string();
            self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
        };
        Count::all().filter(chosen).collect()
    }

    /// The usnap to count in, built now unless one was given or none takes part.
    pub(crate) fn usnap_program(&self, counts: &[Count]) -> Result<PathBuf> {
        if let Some(program) = &self.usnap {
            ensure!(program.is_file(), "there is no {}", program.display());
            return Ok(program.clone());
        }
        if counts.iter().all(|count| count.side == Side::Engine) {
            return Ok(PathBuf::new());
        }
        let own = std::env::current_exe().context("cannot tell where this program lies")?;
        let target = own.parent().and_then(Path::parent);
        let program = target.context("no target folder")?.join("release/usnap");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = std::process::Command::new(cargo)
            .args(["build", "--quiet", "--release", "-p", "usnap"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .context("cannot run cargo")?;
        ensure!(built.success(), "cargo can't build usnap");
        ensure!(
            program.is_file(),
            "cargo puts no {}: --usnap names one that is there",
            program.display()
        );
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_choose_what_is_counted() {
        let chosen = |words: &[&str]| {
            let words = words.iter().flat_map(|word| ["--only", word]);
            Options::parse_from(["counts"].into_iter().chain(words))
                .counts()
                .len()
        };
        assert_eq!(chosen(&[]), 14);
        assert_eq!(chosen(&["engine"]), 7);
        assert_eq!(chosen(&["server: 4K read, origin", "256K"]), 5);
        assert_eq!(chosen(&["nothing of the sort"]), 0);
    }
}
