//! Operations through the whole server: `usnap serve` under callgrind.

use std::path::Path;

use anyhow::{Context, Result};
use usnap_test_support::Serve;

use crate::batches::BatchClient;
use crate::callgrind;
use crate::files::{Files, offsets};
use crate::job::Job;

/// Instructions of one operation.
pub(crate) fn count(job: Job, files: &Files, usnap: &Path) -> Result<u64> {
    let root = files.cow.parent().context("no folder")?;
    callgrind::per_operation(job.operations(), |operations, profile| {
        files.make(job)?;
        let launcher = callgrind::command(usnap.as_os_str(), profile);
        let server = Serve::wrapped(launcher, root, &files.origin)?
            .cow(&files.cow)
            // What a timer commits in between would depend on the time.
            .args(&["--commit-interval", "0"])
            .start()?;
        let mut client = BatchClient::connect(&server.socket())?;
        for batch in offsets(job, operations).chunks(job.batch()) {
            client.run(job, batch)?;
        }
        client.disconnect()?;
        server.stop().map(drop)
    })
}
