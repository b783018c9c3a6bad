//! `usnap status`: how full a store is, asked of its server or read from the file.

use std::path::PathBuf;

use usnap_engine::device::holder;

use crate::control;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::report::Report;
use crate::serve::origin::request::Answer;

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
#[command(after_long_help = "Example: usnap status changes.cow --json")]
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
    let report = match live.as_deref().map(serde_json::from_str::<Report>) {
        Some(Ok(report)) => report,
        Some(Err(_)) if live.is_some_and(|answer| is_of_origin(&answer)) => {
            return Err(Failure::new(format!(
                "cannot show the status of {}: it is no COW but an origin, served with its \
                 snapshots",
                args.cow.display()
            ))
            .with_hint(format!("usnap snapshot list {}", args.cow.display())));
        }
        _ => Report {
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

/// Whether that is what the server of an origin answers.
fn is_of_origin(answer: &str) -> bool {
    serde_json::from_str::<Answer>(answer).is_ok_and(|answer| answer.list.is_some())
}
