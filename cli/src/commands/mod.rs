//! The commands, one file each: what can be typed, what it means, and the run of it.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod create;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod dump;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod info;
pub(crate) mod merge;
pub(crate) mod patch;
pub(crate) mod repair;
pub(crate) mod resize;
pub(crate) mod restore;
pub(crate) mod serve;
pub(crate) mod serve_origin;
mod service;
pub(crate) mod snapshot;
pub(crate) mod status;

use crate::args::Command;
use crate::exit_code::ExitCode;
use crate::failure::Result;

/// Runs the command that was typed.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(*args),
        Command::ServeOrigin(args) => serve_origin::run(*args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Create(args) => create::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Compact(args) => compact::run(&args),
        Command::Resize(args) => resize::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Patch(args) => patch::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Generate(args) => generate::run(&args),
    }
}
