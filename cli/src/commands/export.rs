//! `usnap export`: what a chain shows, as one raw image.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use usnap_engine::chain::Chain;
use usnap_engine::export;

use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output;
use crate::progress::Progress;

/// Write what an image and its COW files show to one raw image
///
/// The new image is sparse: holes and runs of zeros take no room in it. It appears under its name when
/// it is complete and on the disk, so one that is interrupted leaves nothing behind. A COW file that
/// is being served is refused, since it would be no moment's state: copy from its server instead
/// (nbdcopy). What a killed server had not committed is part of the image, as it would be of a server's.
///
/// Example: usnap export disk.img changes.cow new.img
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    chain: ChainArgs,
    /// Image to create; a block device with --force; - for standard output
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Replace OUT if it is there, or write to the block device that it is
    #[arg(long, short)]
    force: bool,
}

/// What all commands on a chain take.
#[derive(clap::Args, Debug)]
pub(crate) struct ChainArgs {
    /// Image or block device that the COW files belong to
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// A COW file between ORIGIN and COW; may be given several times, the lowest first
    #[arg(long = "layer", value_name = "COW")]
    layers: Vec<PathBuf>,
    /// Go on although the origin (or a layer) is not the one that a COW file was made for
    #[arg(long)]
    force_origin: bool,
}

impl ChainArgs {
    /// Opens it to be read; says what a person should know.
    pub(crate) fn open(&self) -> Result<Chain> {
        let opened = Chain::open(&self.origin, &self.layers, &self.cow, self.force_origin);
        let (chain, notes) = opened?;
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        Ok(chain)
    }

    pub(crate) fn cow(&self) -> &Path {
        &self.cow
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let is_stream = args.out.as_os_str() == "-";
    let interrupt = take_signals(!is_stream)?;
    let chain = args.chain.open()?;
    let mut progress = Progress::new(
        format!("exporting {}", args.chain.cow().display()),
        "MiB",
        Some(chain.device().size_bytes() >> 20),
    );
    let mut watch = |done: u64| {
        progress.set(done >> 20);
        flow(interrupt.as_ref())
    };
    if is_stream {
        let mut out = output::Stream::new();
        let written = export::to_stream(&chain, &mut out, &mut watch);
        return out.ended(written).map(|()| ExitCode::Success);
    }
    export::to_path(&chain, &args.out, args.force, &mut watch).map_err(|error| {
        let tried = || format!("cannot export to {}", args.out.display());
        told(Failure::from(error).context(tried), interrupt.as_ref())
    })?;
    Ok(ExitCode::Success)
}

/// Takes the signals over where `is_needed`: where they would leave something half made behind. Work
/// on a stream leaves nothing, and may be waiting for the other end of a pipe, where nobody looks
/// whether a signal came: there they do what they always do.
pub(crate) fn take_signals(is_needed: bool) -> Result<Option<Interrupt>> {
    let taken = is_needed.then(Interrupt::take).transpose();
    taken.map_err(|error| {
        anyhow::Error::new(error)
            .context("cannot take over the signals")
            .into()
    })
}

/// Whether to go on.
pub(crate) fn flow(interrupt: Option<&Interrupt>) -> ControlFlow<()> {
    match interrupt {
        Some(interrupt) if interrupt.is_told() => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// A failure, with the exit code of a process that was told to stop where it was.
pub(crate) fn told(failure: Failure, interrupt: Option<&Interrupt>) -> Failure {
    match interrupt {
        Some(interrupt) if interrupt.is_told() => failure.with_code(interrupt.exit_code()),
        _ => failure,
    }
}
