//! The same fio jobs over usnap and the servers that people use instead, in turns.
//!
//! Throughput alone says little on a small machine: the client shares its processors and hides part
//! of a server's gain. So the processor time that the server spends a request stands beside it.

mod address;
mod chart;
mod claim;
mod command;
mod contender;
mod cpu;
mod disk;
mod fio;
mod job;
mod machine;
mod measure;
mod options;
mod plan;
mod readme;
mod report;
mod running;
mod sample;
#[cfg(test)]
mod smoke;
mod statistics;
mod table;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use usnap_test_support::requirements::find_program;

use crate::contender::Contender;
use crate::job::Place;
use crate::measure::{Places, measure};
use crate::options::Options;
use crate::plan::Step;
use crate::report::Report;

/// How a run ended.
enum Outcome {
    Complete,
    /// So many measurements are missing.
    Missing(usize),
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(Outcome::Complete) => ExitCode::SUCCESS,
        Ok(Outcome::Missing(count)) => {
            eprintln!("compare: {count} measurements are missing; --resume goes on");
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Outcome> {
    let begun = Instant::now();
    let steps = options.steps()?;
    if options.list {
        list(&steps);
        return Ok(Outcome::Complete);
    }
    let contenders: Vec<Contender> = Contender::ALL
        .into_iter()
        .filter(|one| steps.iter().any(|step| step.servers.contains(one)))
        .collect();
    require_programs(&contenders)?;
    let usnap = options.usnap_program(&contenders)?;
    let mut report = Report::new(options, &contenders, &steps, &usnap)?;
    if options.resume && options.json.exists() {
        report.resume(&options.json)?;
    }
    if steps.iter().any(|step| step.job.place == Place::Disk) {
        disk::require_disk(&options.disk_directory)?;
    }
    let places = Places::make(options, &steps, &usnap)?;
    let mut missing = 0;
    for round in 0..options.rounds {
        for &transport in options.transports() {
            for step in &steps {
                let servers: Vec<Contender> = in_turn(&step.servers, round)
                    .filter(|server| !report.has(transport, *server, &step.job, round))
                    .collect();
                if begun.elapsed() > options.time_limit() {
                    missing += servers.len();
                    continue;
                }
                for &server in &servers {
                    let (job, of) = (&step.job, options.rounds);
                    eprint!(
                        "\rround {}/{of}: {job}, {server}, {transport}\x1b[K",
                        round + 1
                    );
                    report.add(measure(
                        &places,
                        (transport, server, job, round),
                        options.seed,
                    )?);
                }
                if !servers.is_empty() {
                    report.save(&options.json)?;
                }
            }
        }
    }
    eprintln!("\r\x1b[K");
    drop(places);
    println!("{}", report.markdown());
    report.save(&options.json)?;
    if let Some(path) = &options.chart {
        let svg = chart::draw(&report).to_svg();
        std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if missing > 0 {
        return Ok(Outcome::Missing(missing));
    }
    if let Some(path) = &options.readme {
        readme::update(path, &report)?;
    }
    Ok(Outcome::Complete)
}

fn list(steps: &[Step]) {
    for Step { job, servers } in steps {
        let servers: Vec<String> = servers.iter().map(Contender::to_string).collect();
        println!("{job}: {}", servers.join(", "));
    }
    let count: usize = steps.iter().map(|step| step.servers.len()).sum();
    println!("{count} measurements a round and transport");
}

/// The servers, each round beginning with another one, so that none always follows the same.
fn in_turn(servers: &[Contender], round: u32) -> impl Iterator<Item = Contender> {
    let skip = usize::try_from(round).unwrap_or(0) % servers.len();
    servers
        .iter()
        .copied()
        .cycle()
        .skip(skip)
        .take(servers.len())
}

fn require_programs(contenders: &[Contender]) -> Result<()> {
    let programs = contenders
        .iter()
        .flat_map(|contender| contender.programs())
        .chain(&["fio"]);
    let mut missing: Vec<&str> = programs
        .copied()
        .filter(|name| find_program(name).is_none())
        .collect();
    missing.dedup();
    ensure!(
        missing.is_empty(),
        "not installed: {} (see --only)",
        missing.join(", ")
    );
    Ok(())
}
