//! `usnap patch`: applies a diff of `usnap diff --with-data` to a copy of the origin.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;
use usnap_engine::patch::{DiffInput, PatchOptions, patch};

use super::export::{flow, take_signals, told};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::progress::Progress;

/// Apply a diff to a copy of the image that it was made for
///
/// DEVICE becomes what the COW files showed. It must have the size of the origin, and its content
/// wherever the diff changes nothing, as far as samples tell. A diff in a file is read through and
/// checked before anything is written; of one from standard input each record is checked before it is
/// written. Nobody else may use DEVICE meanwhile. A patch that was interrupted is repeated from the
/// beginning with the whole diff: patching twice does what patching once does.
///
/// Example: usnap patch changes.diff /dev/vg/disk
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Diff; - for standard input
    #[arg(value_name = "DIFF")]
    diff: PathBuf,
    /// Image or block device to patch
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
    /// Check the diff and the device, and write nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Patch a device that is not the one that the diff was made for; it may be larger
    #[arg(long, short)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let name = args.device.display();
    let cannot = || format!("cannot patch {name} with {}", args.diff.display());
    let (input, total) = if args.diff.as_os_str() == "-" {
        (DiffInput::Stream(Box::new(std::io::stdin())), None)
    } else {
        let file = File::open(&args.diff).with_context(cannot)?;
        let metadata = file.metadata().with_context(cannot)?;
        if metadata.is_dir() {
            return Err(Failure::new(format!("{}: the diff is a folder", cannot())));
        }
        if metadata.is_file() {
            // Read twice, unless nothing is written.
            let passes = if args.dry_run { 1 } else { 2 };
            (DiffInput::File(file), Some(metadata.len() * passes))
        } else {
            (DiffInput::Stream(Box::new(file)), None)
        }
    };
    let interrupt = take_signals(matches!(input, DiffInput::File(_)))?;
    let mut progress = Progress::new(
        format!("patching {name}"),
        "MiB",
        total.map(|bytes| bytes >> 20),
    );
    let (mut last, mut before) = (0, 0);
    let mut watch = |position: u64| {
        if position < last {
            before = last;
        }
        last = position;
        progress.set((before + position) >> 20);
        flow(interrupt.as_ref())
    };
    let options = PatchOptions {
        force: args.force,
        dry_run: args.dry_run,
    };
    let report = patch(input, &args.device, options, &mut watch)
        .map_err(|error| told(Failure::from(error.context(cannot())), interrupt.as_ref()))?;
    drop(progress);
    let verb = if args.dry_run {
        "would patch"
    } else {
        "patched"
    };
    output::print(&format!(
        "{verb} {}: {} bytes written, {} zeroed",
        crate::printable::path(&args.device),
        report.data_bytes,
        report.zero_bytes
    ))?;
    Ok(ExitCode::Success)
}
