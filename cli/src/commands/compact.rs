//! `usnap compact`: a new, smaller COW file of the same snapshot.

use std::path::PathBuf;

use usnap_engine::compact::{CompactOptions, compact};
use usnap_format::ChunkSize;

use crate::args::{chunk_size_parser, size_parser};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output;
use crate::printable;
use crate::progress::Progress;
use crate::size;

/// Make a new, smaller COW file of the same snapshot
///
/// The new file holds the changed chunks in the order of the snapshot, without holes, and without
/// those that hold what the origin holds anyway. It has the same record of the origin and the same
/// label. The old file is only read. The new one appears when it is complete and durable; an
/// interruption leaves nothing behind.
#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Image that the COW file belongs to
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,
    /// COW file; nobody may be writing to it
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// COW file to create
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Another chunk size: larger chunks are filled from the origin, smaller ones are left out where
    /// they equal it [default: the old one]
    #[arg(long, value_name = "SIZE", value_parser = chunk_size_parser())]
    chunk_size: Option<ChunkSize>,
    /// Size of the new file in bytes [default: the least; it is full then]
    #[arg(long, value_name = "SIZE", value_parser = size_parser())]
    cow_size: Option<u64>,
    /// Keep chunks that hold what the origin holds
    #[arg(long)]
    keep_equal: bool,
    /// Go on although the origin is not the one on record
    #[arg(long)]
    force_origin: bool,
}

const AFTER_HELP: &str = "\
Example:
  usnap compact disk.img changes.cow smaller.cow --cow-size 10G";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = CompactOptions {
        chunk_size: args.chunk_size,
        size_bytes: args.cow_size,
        keep_equal: args.keep_equal,
        force_origin: args.force_origin,
    };
    let interrupt = Interrupt::take().map_err(|error| {
        Failure::from(anyhow::Error::new(error)).context(|| "cannot take the signals over".into())
    })?;
    let mut progress = None;
    let mut watch = |done, total| {
        let what = || format!("compacting {}", args.cow.display());
        let progress = progress.get_or_insert_with(|| Progress::new(what(), "chunks", Some(total)));
        progress.set(done);
        !interrupt.is_told()
    };
    let compacted = compact(&args.origin, &args.cow, &args.out, &options, &mut watch);
    drop(progress);
    if compacted.is_err() && interrupt.is_told() {
        let message = format!("cannot compact {}: interrupted", args.cow.display());
        return Err(Failure::new(message)
            .with_hint("nothing is left behind")
            .with_code(interrupt.exit_code()));
    }
    let compacted = compacted.map_err(Failure::of_typed)?;
    for note in &compacted.notes {
        tracing::warn!("{note}");
    }
    output::print(&format!(
        "compacted {} to {}: {}, exceptions: {} of {}, left out as the origin's: {}",
        printable::path(&args.cow),
        printable::path(&args.out),
        size::human(compacted.size_bytes),
        compacted.exceptions,
        size::human(compacted.chunk_size.bytes()),
        compacted.equal,
    ))?;
    Ok(ExitCode::Success)
}
