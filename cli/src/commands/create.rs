//! `usnap create`: a new, empty COW file.

use std::path::PathBuf;

use usnap_engine::device::BlockDevice;
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{self, CreateOptions, Created};
use usnap_format::{ChunkSize, Layout};

use crate::args::{chunk_size_parser, size_parser};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::printable;
use crate::serve::never_full;
use crate::size;

/// Create an empty COW file
///
/// Creates a sparse COW file in the format of the kernel's dm-snapshot target, with no changes in
/// it. An existing file is not overwritten without --force. With --origin the file remembers which
/// image it belongs to, so that a changed or another origin is noticed before it does harm.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example: usnap create changes.cow --origin disk.img --chunk-size 16K")]
pub(crate) struct Args {
    /// COW file to create
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Size of the COW file in bytes; it is sparse [default: what can never be full, with --origin]
    #[arg(long, value_name = "SIZE", value_parser = size_parser(), required_unless_present_any = ["origin", "force"])]
    size: Option<u64>,
    /// Unit of copying, a power of two of at least 512 bytes [default: 4K]
    #[arg(long, value_name = "SIZE", value_parser = chunk_size_parser())]
    chunk_size: Option<ChunkSize>,
    /// Image that the COW file is for
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<PathBuf>,
    /// Text of at most 64 bytes that status shows
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    label: String,
    /// Make an existing COW file or block device an empty one, of the size that it has
    ///
    /// For one whose beginning was zeroed, as live media and Android do to reset it, or that may
    /// go. The changes in it are lost. A file that holds something else is refused.
    #[arg(long, conflicts_with = "size")]
    force: bool,
    /// Leave the padding of the header zero, as the kernel does: no label, no origin remembered
    #[arg(long, conflicts_with = "label")]
    no_identity: bool,
}

impl Args {
    /// The chunk size that was typed.
    #[cfg(test)]
    pub(crate) fn chunk_size(&self) -> Option<ChunkSize> {
        self.chunk_size
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let tried = || format!("cannot create {}", args.cow.display());
    let (chunk_size, created) = create(args).map_err(|failure| failure.context(tried))?;
    for warning in &created.warnings {
        tracing::warn!("{warning}");
    }
    let chunks = chunk_size.whole_chunks(created.size_bytes);
    output::print(&format!(
        "created {}: {}, room for {} chunks of {}",
        printable::path(&args.cow),
        size::human(created.size_bytes),
        Layout::new(chunk_size).capacity(chunks),
        size::human(chunk_size.bytes()),
    ))?;
    Ok(ExitCode::Success)
}

fn create(args: &Args) -> Result<(ChunkSize, Created)> {
    let chunk_size = args.chunk_size.unwrap_or_default();
    let origin = args.origin.as_deref().map(Origin::open).transpose()?;
    let size_bytes = match (args.size, &origin) {
        _ if args.force => 0,
        (Some(bytes), _) => bytes,
        (None, Some(origin)) => never_full(origin.size_bytes(), chunk_size)?,
        // The parser requires one of the two.
        (None, None) => return Err(Failure::usage("neither a size nor an origin is given")),
    };
    let identity = origin
        .as_ref()
        .filter(|_| !args.no_identity)
        .map(Origin::identity);
    let options = CreateOptions {
        size_bytes,
        chunk_size,
        label: args.label.clone(),
        origin: identity.transpose()?,
        identity: !args.no_identity,
    };
    let make = if args.force {
        cow_file::create_over
    } else {
        cow_file::create
    };
    let created = make(&args.cow, &options).map_err(Failure::of_typed)?;
    Ok((chunk_size, created))
}
