//! One measurement: a fresh server, what has to be written before, the job, and the counters around it.

use std::path::Path;

use anyhow::{Context, Result};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{MIB, Scratch};

use crate::address::Transport;
use crate::command::Files;
use crate::contender::Contender;
use crate::disk;
use crate::fio;
use crate::job::{Job, Place};
use crate::options::Options;
use crate::plan::Step;
use crate::running::Running;
use crate::sample::Sample;

/// The images, in memory and on a disk; they go when this is dropped.
#[derive(Default)]
pub(crate) struct Places {
    memory: Option<(Files, Scratch)>,
    disk: Option<(Files, Scratch)>,
}

impl Places {
    /// Makes the images where `steps` need them.
    pub(crate) fn make(options: &Options, steps: &[Step], usnap: &Path) -> Result<Self> {
        let make = |place| -> Result<Option<(Files, Scratch)>> {
            if steps.iter().all(|step| step.job.place != place) {
                return Ok(None);
            }
            let directory = match place {
                Place::Memory => &options.directory,
                Place::Disk => &options.disk_directory,
            };
            let scratch = Scratch::new(directory, "usnap-compare")?;
            let origin = scratch.join("origin.img");
            let size_bytes = options.size_mib * MIB;
            random_file(&origin, size_bytes, options.seed)?;
            let files = Files {
                directory: scratch.path().to_owned(),
                origin,
                copy: scratch.join("copy.img"),
                size_bytes,
                usnap: usnap.to_owned(),
            };
            Ok(Some((files, scratch)))
        };
        Ok(Self {
            memory: make(Place::Memory)?,
            disk: make(Place::Disk)?,
        })
    }

    fn files(&self, place: Place) -> Result<&Files> {
        let made = match place {
            Place::Memory => &self.memory,
            Place::Disk => &self.disk,
        };
        let made = made.as_ref().context("no image was made there")?;
        Ok(&made.0)
    }
}

/// Runs one job over one server's fresh overlay.
pub(crate) fn measure(
    places: &Places,
    which: (Transport, Contender, &Job, u32),
    seed: u64,
) -> Result<Sample> {
    let (transport, contender, job, round) = which;
    let run = || -> Result<Sample> {
        let files = places.files(job.place)?;
        let server = Running::start(contender, files, transport)?;
        let uri = server.uri();
        // Another order in each round, the same for all servers.
        let seed = seed + u64::from(round);
        if let Some(fill) = job.fill() {
            fio::run(&fill, &uri, seed)?;
        }
        if job.cold {
            let image = if contender.needs_copy() {
                &files.copy
            } else {
                &files.origin
            };
            disk::forget(image)?;
            for path in server.own_files()? {
                disk::forget(&path)?;
            }
        }
        let flushes = || match job.fsync_every {
            Some(_) => disk::flush_count(&files.directory),
            None => Ok(None),
        };
        let (cpu_before, flushes_before) = (server.cpu()?, flushes()?);
        let done = fio::run(job, &uri, seed)?;
        let (cpu_after, flushes_after) = (server.cpu()?, flushes()?);
        let flushed = flushes_after.zip(flushes_before);
        let flushed = flushed.map(|(after, before)| after.saturating_sub(before));
        let cpu = cpu_after.saturating_sub(cpu_before);
        Ok(Sample::new(which, &done, cpu, flushed))
    };
    run().with_context(|| format!("cannot measure {job} over {contender} ({transport})"))
}
