//! How many instructions an operation takes, counted by callgrind: the same on a busy machine as on
//! a quiet one. The counts are held against those that benches/README.md records, so that a change
//! that makes an operation dearer is noticed when it is made.
//!
//! A count is the difference of two runs, one with twice as many operations as the other, divided by
//! the operations that it has more: what starts and ends a process cancels out.

mod batches;
mod callgrind;
mod engine;
mod files;
mod job;
mod options;
mod server;
mod table;
mod verdict;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use usnap_test_support::{Need, Scratch, missing};

use crate::files::Files;
use crate::job::Side;
use crate::options::{Command, Options};
use crate::table::Table;
use crate::verdict::Verdict;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.command {
        Some(Command::Operations(load)) => load.run().map(|()| true),
        None => run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("counts: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Counts, and says whether the counts are what they may be.
fn run(options: &Options) -> Result<bool> {
    if missing(&[Need::Program("valgrind")])? {
        return Ok(true);
    }
    let counts = options.counts();
    ensure!(!counts.is_empty(), "--only leaves nothing to count");
    let mut table = Table::load(&options.table)?;
    let usnap = options.usnap_program(&counts)?;
    let mut verdict = Verdict::default();
    for count in counts {
        let scratch = Scratch::new(&options.directory, "usnap-counts")?;
        let files = Files::new(&scratch);
        let measured = match count.side {
            Side::Engine => engine::count(count.job, &files),
            Side::Server => server::count(count.job, &files, &usnap),
        };
        let measured = measured.with_context(|| format!("cannot count {count}"))?;
        println!("{}", verdict.judge(count, measured, table.recorded(count)));
        table.put(count, measured);
    }
    if options.record {
        table.save(&options.table)?;
        println!("recorded in {}", options.table.display());
        return Ok(true);
    }
    print!("{}", verdict.conclusion());
    Ok(verdict.holds())
}
