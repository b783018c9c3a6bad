//! What a process holds, as `/proc` tells it: for finding leaks.

use std::fs;

use anyhow::{Context, Result};

/// What a process held at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Memory in use (`VmRSS`), in KiB.
    pub resident_kib: u64,
}

impl Held {
    /// What process `pid` holds now.
    ///
    /// # Errors
    /// The process has ended or is somebody else's.
    pub fn by(pid: u32) -> Result<Self> {
        let count = |of: &str| -> Result<usize> {
            let directory = format!("/proc/{pid}/{of}");
            let entries = fs::read_dir(&directory);
            Ok(entries
                .with_context(|| format!("cannot read {directory}"))?
                .count())
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("cannot read the status of process {pid}"))?;
        let resident_kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .with_context(|| format!("process {pid} has ended"))?
            .parse()
            .context("VmRSS is no number")?;
        Ok(Self {
            descriptors: count("fd")?,
            threads: count("task")?,
            resident_kib,
        })
    }
}
