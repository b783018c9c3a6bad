//! `usnap generate`: man pages and completions from the definition of the command line. Hidden: for
//! those who package usnap, and for the test that the committed ones are current.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit_code::ExitCode;
use crate::failure::Result;

/// Write man pages and completions into the folders man and completions of a folder
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Folder to write to
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    man_pages(&args.folder.join("man"))?;
    completions(&args.folder.join("completions"))?;
    Ok(ExitCode::Success)
}

fn man_pages(folder: &Path) -> anyhow::Result<()> {
    make(folder)?;
    // Built, so that each page has the options that all commands share.
    let mut cli = Cli::command();
    cli.build();
    let commands = cli
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .cloned();
    for command in commands.collect::<Vec<_>>() {
        pages(folder, command, "usnap")?;
    }
    page(folder, Cli::command(), "usnap")
}

/// The page of a command, and those of the commands below it.
fn pages(folder: &Path, command: clap::Command, above: &str) -> anyhow::Result<()> {
    let name = format!("{above}-{}", command.get_name());
    for below in command.get_subcommands() {
        pages(folder, below.clone(), &name)?;
    }
    page(folder, command.display_name(name.clone()), &name)
}

fn page(folder: &Path, command: clap::Command, name: &str) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .title(name.to_uppercase())
        .manual("usnap")
        .render(&mut text)
        .with_context(|| format!("cannot make the man page of {name}"))?;
    write(&folder.join(format!("{name}.1")), &text)
}

fn completions(folder: &Path) -> anyhow::Result<()> {
    make(folder)?;
    for (shell, name) in [
        (Shell::Bash, "usnap.bash"),
        (Shell::Zsh, "_usnap"),
        (Shell::Fish, "usnap.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "usnap", &mut text);
        write(&folder.join(name), &text)?;
    }
    Ok(())
}

fn make(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
