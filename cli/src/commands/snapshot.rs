//! `usnap snapshot`: the snapshots of an origin that is served, asked of its server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;

use super::serve_origin::spec_parser;
use crate::control;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::printable;
use crate::serve::origin::request::{Answer, List, Request};
use crate::serve::origin::spec::SnapshotSpec;

/// Add, drop and list the snapshots of an origin that is served
///
/// Asks the server of ORIGIN that `usnap serve-origin` started, as the same user, through its control
/// socket. Where none answers, nothing is done.
#[derive(clap::Args, Debug)]
#[command(arg_required_else_help = false)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(AddArgs),
    Drop(DropArgs),
    List(ListArgs),
}

/// Add a snapshot: the origin as it is at this moment
///
/// The origin is written durably, and writes to it wait, while the COW file is opened; what was
/// acknowledged before is in the snapshot, what is sent after the command has ended is not. A COW file
/// that is absent is created. One with changes in it goes on from its own moment, if it belongs to
/// this origin as it is now. The snapshot's URI is printed.
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Example: usnap snapshot add disk.img tuesday=tuesday.cow,chunk-size=16K"
)]
struct AddArgs {
    /// Image or block device that is served
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,
    /// Name of the export, and COW file
    ///
    /// Behind the path may stand, after commas: chunk-size=SIZE, cow-size=SIZE and label=TEXT for a COW
    /// file that is created, max-cow=SIZE up to which it may grow by itself, and read-only for clients
    /// that must not write to it. A comma of the path is written as two.
    #[arg(value_name = "NAME=COW[,OPTION...]", value_parser = spec_parser())]
    snapshot: SnapshotSpec,
}

/// Drop a snapshot: from now on nothing is kept for it
///
/// No client gets it any more. Those that have it are answered what they had sent, refused what they
/// send later, and disconnected. The COW file is closed and stays; it is no snapshot of the origin any
/// more as soon as that is written to. It is yours to remove.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example: usnap snapshot drop disk.img tuesday")]
struct DropArgs {
    /// Image or block device that is served
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,
    /// Name of the snapshot
    #[arg(value_name = "NAME")]
    name: String,
}

/// List the snapshots, with their URIs and how full they are
///
/// The origin comes first. A snapshot is `active`, or `dropped` with the reason: its COW had no room,
/// or failed. A dropped one answers errors until it is taken away with `usnap snapshot drop`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example: usnap snapshot list disk.img --json")]
struct ListArgs {
    /// Image or block device that is served
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How long a server may take: to open a large store, to wait for the clients of a snapshot.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Add(args) => add(args),
        Command::Drop(args) => drop_one(args),
        Command::List(args) => list(args),
    }?;
    Ok(ExitCode::Success)
}

fn add(args: &AddArgs) -> Result<()> {
    let mut spec = args.snapshot.clone();
    // The server may be somewhere else.
    spec.cow = std::path::absolute(&spec.cow).map_err(|error| {
        anyhow::Error::new(error).context(format!("cannot find {}", spec.cow.display()))
    })?;
    let name = spec.name.clone();
    let answer = ask(&args.origin, &Request::Add(spec), PATIENCE)?;
    for note in &answer.notes {
        tracing::warn!("{note}");
    }
    let list = answer.list.unwrap_or_default();
    let added = list.snapshots.into_iter().find(|one| one.name == name);
    match added.and_then(|added| added.uri) {
        Some(uri) => output::print(&printable::one_line(&uri)),
        None => Ok(()),
    }
}

fn drop_one(args: &DropArgs) -> Result<()> {
    let name = args.name.clone();
    ask(&args.origin, &Request::Drop { name }, PATIENCE).map(drop)
}

fn list(args: &ListArgs) -> Result<()> {
    let answer = ask(&args.origin, &Request::List, control::PATIENCE)?;
    let list: List = answer.list.unwrap_or_default();
    if args.json {
        output::print_json(&list)
    } else {
        output::print(&list.to_string())
    }
}

/// Asks the server of `origin`.
fn ask(origin: &Path, request: &Request, patience: Duration) -> Result<Answer> {
    let cannot = || format!("cannot ask the server of {}", origin.display());
    let line = serde_json::to_string(request)
        .map_err(|error| Failure::from(anyhow::Error::new(error).context(cannot())))?;
    let answer = control::request(origin, &line, patience).map_err(|error| {
        use io::ErrorKind as K;
        // It is there, or the file would not be found either.
        let is_served =
            origin.exists() && !matches!(error.kind(), K::NotFound | K::ConnectionRefused);
        if is_served || !origin.exists() {
            return Failure::from(anyhow::Error::new(error).context(cannot()));
        }
        Failure::new(format!("{}: there is none", cannot())).with_hint(format!(
            "usnap serve-origin {} serves it with its snapshots",
            origin.display()
        ))
    })?;
    let answer: Answer = serde_json::from_str(&answer)
        .map_err(|error| Failure::from(anyhow::Error::new(error).context(cannot())))?;
    match answer.error {
        None => Ok(answer),
        Some(error) => {
            let failure = Failure::new(error);
            Err(match answer.hint {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            })
        }
    }
}
