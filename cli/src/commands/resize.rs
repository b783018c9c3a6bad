//! `usnap resize`: a longer or shorter COW file.

use std::path::PathBuf;

use usnap_engine::resize::{NewSize, resize};

use crate::args::size_parser;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::printable;
use crate::size;

/// Make a COW file longer or shorter
///
/// What is in it stays where it is, so it gets no shorter than up to its last chunk in use; `usnap
/// compact` makes a copy that is shorter. A journal that a killed server left, and that nothing
/// speaks against, is committed first.
///
/// Nobody else may be using the file. While it is served it can be made longer all the same:
/// `truncate -s SIZE COW`; the server notices.
#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// New size in bytes
    #[arg(value_name = "SIZE", value_parser = size_parser(), required_unless_present = "shrink")]
    size: Option<u64>,
    /// Make it as short as it can be
    #[arg(long, conflicts_with = "size")]
    shrink: bool,
}

const AFTER_HELP: &str = "\
Examples:
  usnap resize changes.cow 20G
  usnap resize changes.cow --shrink";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let new_size = args.size.map_or(NewSize::Least, NewSize::Bytes);
    let resized = resize(&args.cow, new_size).map_err(Failure::of_typed)?;
    for note in &resized.notes {
        tracing::warn!("{note}");
    }
    output::print(&format!(
        "resized {} from {} to {}: exceptions: {}, room for {} chunks more of {}",
        printable::path(&args.cow),
        size::human(resized.old_bytes),
        size::human(resized.new_bytes),
        resized.exceptions,
        resized.free,
        size::human(resized.chunk_size.bytes()),
    ))?;
    Ok(ExitCode::Success)
}
