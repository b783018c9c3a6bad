//! `usnap status`: how full a store is, asked of its server or read from the file.

use std::path::PathBuf;

use usnap_engine::device::holder;

use crate::control;
use crate::exit_code::ExitCode;
use crate::failure::Result;
use crate::output;
use crate::report::Report;

/// Show how full a COW file is
///
/// The first line is what `dmsetup status` prints behind the target's name: sectors allocated, a
/// slash, sectors in all, sectors of metadata; or `Invalid`. A server that has the file open is
/// asked; otherwise what was committed to the file is shown, and that is said.
///
/// The room for changes is what the COW may hold or what its filesystem has left, whichever is
/// less; a server also tells how long it lasts at the rate of the last half a minute. In JSON that
/// is `space`, with `limited_by` (`cow`, `filesystem` or `memory`).
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let live = control::ask(&args.cow);
    // An answer that can't be read is another version's; the file can be.
    let report = match live.and_then(|answer| serde_json::from_str::<Report>(&answer).ok()) {
        Some(report) => report,
        None => Report {
            in_use_by: holder(&args.cow),
            ..Report::at_rest(&usnap_engine::dump::status(&args.cow)?)
        },
    };
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&report.to_string())?;
    }
    Ok(ExitCode::Success)
}
