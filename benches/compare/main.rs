//! The same fio jobs over usnap and the servers that people use instead, in turns.
//!
//! Throughput alone says little on a small machine: the client shares its processors and hides part
//! of a server's gain. So the processor time that the server spends a request stands beside it.

mod contender;
mod fio;
mod job;
mod options;
mod report;
mod sample;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use usnap_test_support::Scratch;
use usnap_test_support::pattern::random_file;
use usnap_test_support::requirements::find_program;

use crate::contender::{Contender, Files};
use crate::job::Job;
use crate::options::Options;
use crate::report::Report;
use crate::sample::Sample;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let contenders = options.contenders();
    let jobs = options.jobs();
    ensure!(
        !contenders.is_empty() && !jobs.is_empty(),
        "--only leaves nothing to run"
    );
    require_programs(&contenders)?;
    let usnap = options.usnap_program(&contenders)?;

    let scratch = Scratch::new(&options.directory, "usnap-compare")?;
    let origin = scratch.join("origin.img");
    random_file(&origin, options.origin_bytes(), options.seed)?;
    let files = Files {
        directory: scratch.path().to_owned(),
        origin,
        usnap,
    };

    let mut samples = Vec::new();
    for round in 0..options.rounds {
        for job in &jobs {
            for contender in in_turn(&contenders, round) {
                eprint!(
                    "\rround {}/{}: {job}, {contender}\x1b[K",
                    round + 1,
                    options.rounds
                );
                samples.push(measure(contender, job, options, &files, round)?);
            }
        }
    }
    eprintln!("\r\x1b[K");
    let report = Report::new(options, &contenders, &jobs, &files, samples)?;
    println!("{}", report.markdown());
    report.save(&options.json)
}

/// One job over one contender's fresh overlay.
fn measure(
    contender: Contender,
    job: &Job,
    options: &Options,
    files: &Files,
    round: u32,
) -> Result<Sample> {
    let run = || -> Result<Sample> {
        let server = contender.start(files)?;
        if job.needs_written_blocks() {
            fio::run(&Job::fill(), options, server.socket(), round)?;
        }
        let before = server.cpu()?;
        let done = fio::run(job, options, server.socket(), round)?;
        let cpu = server.cpu()? - before;
        Ok(Sample::new(contender, job, round, &done, cpu))
    };
    run().with_context(|| format!("{job} over {contender}"))
}

/// The contenders, each round beginning with another one, so that none always follows the same.
fn in_turn(contenders: &[Contender], round: u32) -> impl Iterator<Item = Contender> {
    let skip = usize::try_from(round).unwrap_or(0) % contenders.len();
    contenders
        .iter()
        .copied()
        .cycle()
        .skip(skip)
        .take(contenders.len())
}

fn require_programs(contenders: &[Contender]) -> Result<()> {
    let programs = contenders
        .iter()
        .flat_map(|contender| contender.programs())
        .chain(&["fio"]);
    let missing: Vec<&str> = programs
        .copied()
        .filter(|name| find_program(name).is_none())
        .collect();
    ensure!(
        missing.is_empty(),
        "not installed: {} (see --only)",
        missing.join(", ")
    );
    ensure!(
        Path::new("/proc/self/stat").exists(),
        "the servers' processor time needs /proc"
    );
    Ok(())
}
