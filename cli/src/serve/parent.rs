//! `--exit-with-parent`: ending with the process that started us.

use anyhow::Context;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::failure::{Failure, Result};

/// Has the system send us SIGTERM when our parent ends.
pub(super) fn follow() -> Result<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot follow the parent process")?;
    // If it ended in between, no signal will come.
    if getppid() != parent {
        return Err(Failure::new(
            "cannot follow the parent process: it has ended",
        ));
    }
    Ok(())
}
