//! Operations on the engine alone: this program runs itself under callgrind, with one thread.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use usnap_engine::device::BlockDevice as _;

use crate::callgrind;
use crate::files::{Files, offsets};
use crate::job::Job;

/// Does operations: what is counted.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    #[arg(long)]
    job: Job,
    #[arg(long)]
    operations: usize,
    #[arg(long)]
    origin: PathBuf,
    #[arg(long)]
    cow: PathBuf,
}

impl Load {
    pub(crate) fn run(&self) -> Result<()> {
        let files = Files {
            origin: self.origin.clone(),
            cow: self.cow.clone(),
        };
        // Made for the longer run in either, so that making them cancels out.
        let offsets = offsets(self.job, 2 * self.job.operations());
        let offsets = offsets.get(..self.operations).context("too many")?;
        let snapshot = files.open()?;
        let mut buf = vec![0xAA; usize::try_from(self.job.len())?];
        for &offset in offsets {
            if self.job.is_read() {
                snapshot.read_at(&mut buf, offset)?;
            } else {
                snapshot.write_at(&buf, offset)?;
            }
        }
        // A first write is not done before its exception is committed.
        snapshot.close()?;
        Ok(())
    }
}

/// Instructions of one operation.
pub(crate) fn count(job: Job, files: &Files) -> Result<u64> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    callgrind::per_operation(job.operations(), |operations, profile: &Path| {
        files.make(job)?;
        let name = clap::ValueEnum::to_possible_value(&job).context("a job without a name")?;
        let output = callgrind::command(own.as_os_str(), profile)
            .args(["operations", "--job", name.get_name(), "--operations"])
            .arg(operations.to_string())
            .arg("--origin")
            .arg(&files.origin)
            .arg("--cow")
            .arg(&files.cow)
            .output()
            .context("cannot run valgrind")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "valgrind: {}\n{said}",
            output.status
        );
        Ok(())
    })
}
