//! What the repository does to itself: `cargo xtask test` installs what the tests need, runs every
//! suite and ends with one line of counts.

mod packages;
mod process;
mod suites;
mod tally;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--suite NAME]... [--full] [--no-install]
             install what the tests need (Debian, as root), run the suites, count
  ci         the same with Cargo.lock as it is and no test skipped
  install    only install what the tests need
  counts [--record] [--only WORD]...
             hold the instructions of each operation against benches/README.md, or
             record them there
  generate   write the man pages and completions anew
  suites     list the suites";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    // Every command below is run from the top of the repository, wherever cargo was called.
    if let Some(top) = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent() {
        std::env::set_current_dir(top)?;
    }
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("test") => {
            let options = test_options(arguments)?;
            if options.install {
                packages::install();
            }
            suites::run(&options)
        }
        Some("ci") => {
            packages::install();
            suites::run(&suites::Options {
                ci: true,
                ..suites::Options::default()
            })
        }
        Some("install") => Ok(packages::install()),
        Some("counts") => {
            let mut command = vec!["run", "--quiet", "--release", "-p", "usnap-benches"];
            command.extend(["--bin", "counts", "--"]);
            let rest: Vec<String> = arguments.collect();
            command.extend(rest.iter().map(String::as_str));
            process::succeeds("cargo", &command)
        }
        Some("generate") => process::succeeds(
            "cargo",
            &[
                "run",
                "--quiet",
                "--package",
                "usnap",
                "--",
                "generate",
                "cli",
            ],
        ),
        Some("suites") => {
            suites::list();
            Ok(true)
        }
        Some("-h" | "--help" | "help") => {
            println!("{USAGE}");
            Ok(true)
        }
        Some(other) => bail!("unknown command {other}\n{USAGE}"),
        None => bail!("no command\n{USAGE}"),
    }
}

fn test_options(mut arguments: impl Iterator<Item = String>) -> Result<suites::Options> {
    let mut options = suites::Options::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--suite" => match arguments.next() {
                Some(name) => options.only.push(name),
                None => bail!("--suite needs a name; `cargo xtask suites` lists them"),
            },
            "--full" => options.full = true,
            "--no-install" => options.install = false,
            other => bail!("unknown option {other}\n{USAGE}"),
        }
    }
    Ok(options)
}
