//! `--single`: one client on standard input and output.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use anyhow::Context;
use rustix::fs::{FileType, fstat};
use usnap_nbd::server::{Limits, serve_single};

use super::host::Offer;
use super::signals::Signals;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};

/// Serves the client until it goes or a signal comes.
pub(super) async fn serve(
    offer: &impl Offer,
    limits: Limits,
    signals: &mut Signals,
) -> Result<ExitCode> {
    if io::stdin().is_terminal() {
        return Err(Failure::usage("cannot serve a client on a terminal")
            .with_hint("--single is for programs that start their server, such as nbdsh"));
    }
    refuse_deaf_output()?;
    let failed = "cannot use standard input and output";
    let input = io::stdin().as_fd().try_clone_to_owned().context(failed)?;
    let output = io::stdout().as_fd().try_clone_to_owned().context(failed)?;
    offer.keep_new_files();
    serve_single(input, output, offer.exports(), limits, signals.next()).await?;
    Ok(ExitCode::Success)
}

/// Refuses an output that nobody reads: no client could ever be served.
fn refuse_deaf_output() -> Result<()> {
    let failed = "cannot write to standard output";
    let output = io::stdout();
    // Writes nothing, and fails where something would.
    rustix::io::write(&output, &[]).context(failed)?;
    let metadata = fstat(&output).context(failed)?;
    let is_device = FileType::from_raw_mode(metadata.st_mode) == FileType::CharacterDevice;
    // Where it was closed, /dev/null is in its place.
    if is_device && !output.is_terminal() {
        return Err(Failure::new(format!(
            "{failed}: it is closed, or a device without a reader"
        ))
        .with_hint("--single is for programs that start their server, such as nbdsh"));
    }
    Ok(())
}
