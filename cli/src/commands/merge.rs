//! `usnap merge`: a COW file back into its origin, resumable at any moment.

use std::path::PathBuf;

use usnap_engine::JournalMode;
use usnap_engine::merge::{DEFAULT_BATCH_BYTES, MAX_BATCH_BYTES, Merge, MergeEnd};
use usnap_engine::merge::{MergeOptions, Watch};

use crate::args::size_parser;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output;
use crate::printable;
use crate::progress::Progress;
use crate::size;

/// Merge a COW file back into its origin
///
/// Writes every changed chunk to the origin, which becomes what the snapshot was, and empties the COW
/// file, as the kernel's snapshot-merge does. It may be interrupted at any moment, by ^C, kill -9 or
/// a power cut: the same command goes on, and so does a kernel, with what is left. Until it has
/// come to its end the origin is a mixture that only shows the snapshot together with the COW file.
/// Nobody else may be using either of them. Other COW files of this origin do not fit it any more
/// afterwards. The data stays in the COW file until it is written to again.
#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Image or block device that the COW file belongs to; it is written to
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,
    /// Merge although the origin is not the one that the COW file was made for
    ///
    /// Its chunks are overwritten all the same. An origin that is too short is refused.
    #[arg(long)]
    force_origin: bool,
    /// How much data is copied before the origin is flushed and the COW file's entries are cleared
    ///
    /// 1G at most, and 256M unless something else is asked for. Of it 64M lie in memory. More in one
    /// batch is faster where the changes are scattered; after a kill the last batch is copied again.
    #[arg(long, value_name = "SIZE", value_parser = size_parser(), default_value_t = DEFAULT_BATCH_BYTES,
          hide_default_value = true)]
    batch: u64,
    /// What to do with the journal of a server that was killed, where it is in doubt
    ///
    /// A journal that nothing speaks against is merged unasked.
    #[arg(long, value_name = "ACTION")]
    journal: Option<Journal>,
}

/// What becomes of a journal.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Journal {
    /// Merge what it has, although something speaks against it
    Replay,
    /// Remove it: what it has is lost
    Discard,
}

const AFTER_HELP: &str = "\
Exit codes: 0 all is merged; 1 refused, with nothing changed, or failed half-way: the same command \
goes on; 130, 143 or 129 stopped by ^C, SIGTERM or SIGHUP: the same command goes on.

Example: usnap merge changes.cow disk.img";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !(1..=MAX_BATCH_BYTES).contains(&args.batch) {
        let message = format!(
            "cannot merge in batches of {}: --batch is at most {}",
            size::human(args.batch),
            size::human(MAX_BATCH_BYTES)
        );
        return Err(Failure::usage(message));
    }
    let options = MergeOptions {
        force_origin: args.force_origin,
        batch_bytes: args.batch,
        journal: match args.journal {
            None => JournalMode::Auto,
            Some(Journal::Replay) => JournalMode::Replay,
            Some(Journal::Discard) => JournalMode::Discard,
        },
    };
    let interrupt = Interrupt::take().map_err(|error| {
        Failure::from(anyhow::Error::new(error)).context(|| "cannot take the signals over".into())
    })?;
    let (merge, notes) = Merge::open(&args.cow, &args.origin, &options)?;
    for note in notes {
        tracing::warn!("{note}");
    }
    let (exceptions, chunk_bytes) = (merge.exceptions(), merge.chunk_size().bytes());
    let what = format!("merging {}", args.cow.display());
    let mut progress = Progress::new(what, "chunks", Some(exceptions));
    let mut watch = Watch {
        is_stopped: &|| interrupt.is_told(),
        merged: &mut |merged| progress.set(merged),
    };
    let ended = merge.run(&mut watch);
    drop(progress);
    let (cow, origin) = (printable::path(&args.cow), printable::path(&args.origin));
    match ended? {
        MergeEnd::Done => {
            let data = size::human(exceptions.saturating_mul(chunk_bytes));
            output::print(&format!(
                "{cow}: merged into {origin}; chunks: {exceptions}, data: {data}\n"
            ))?;
            Ok(ExitCode::Success)
        }
        MergeEnd::Stopped { left } => {
            let message = format!(
                "cannot merge {} into {}: told to stop, with {left} of {exceptions} chunks left",
                args.cow.display(),
                args.origin.display()
            );
            let hint = "nothing is lost: the same command goes on; until then the origin is to be used \
                        together with the COW file only";
            Err(Failure::new(message)
                .with_hint(hint)
                .with_code(interrupt.exit_code()))
        }
    }
}
