//! usnap: a copy-on-write block device in userspace. What was typed (`args`) is turned into what it
//! means (each command's plan), then run; every failure ends as one line and an exit code.
// They panic where nobody reads; `output` has what does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod bench;
mod commands;
mod control;
mod exit_code;
mod failure;
mod file_size_limit;
mod interrupt;
mod journal_status;
mod logging;
mod output;
mod printable;
mod private_dir;
mod progress;
mod report;
mod serve;
mod size;

use clap::Parser;

fn main() -> std::process::ExitCode {
    file_size_limit::make_an_error();
    let result = args::Cli::try_parse()
        .map_err(failure::Failure::from)
        .and_then(|cli| {
            logging::start(&cli.logging);
            commands::run(cli.command)
        });
    match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
    .into()
}
