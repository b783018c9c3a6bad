//! What the index costs at sizes that differ a thousandfold: time to fill it, memory an exception,
//! time of a lookup and of an insertion. Each size is measured by a process of its own, so that the
//! memory is only what that size takes.

mod measure;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::measure::{Figures, Shape};

/// Prints what a lookup, an insertion and an exception cost at each size.
#[derive(Debug, Parser)]
#[command(name = "index")]
struct Options {
    /// How many exceptions
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10000,1000000,10000000,100000000",
        value_parser = clap::value_parser!(u64).range(1_000..)
    )]
    sizes: Vec<u64>,
    /// Where they lie
    #[arg(long, value_delimiter = ',', default_value = "sequential,scattered")]
    shapes: Vec<Shape>,
    /// Rounds of lookups, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure one size in this process
    #[arg(long, hide = true)]
    alone: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("index: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if !options.alone {
        println!("{}", Figures::HEADING);
    }
    for shape in &options.shapes {
        for size in &options.sizes {
            if options.alone {
                println!("{}", measure::measure(*shape, *size, options.rounds)?);
            } else {
                apart(*shape, *size, options.rounds)?;
            }
        }
    }
    Ok(())
}

/// One size in a process of its own, which prints its line itself.
fn apart(shape: Shape, size: u64, rounds: u32) -> Result<()> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let status = Command::new(own)
        .arg("--alone")
        .args(["--shapes", shape.name()])
        .args(["--sizes", &size.to_string()])
        .args(["--rounds", &rounds.to_string()])
        .status()
        .context("cannot start this program again")?;
    ensure!(status.success(), "{} {size}: {status}", shape.name());
    Ok(())
}
