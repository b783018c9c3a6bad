//! The suites: what each runs, in which order, and the run of them with its summary.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::packages::find_program;
use crate::process;
use crate::tally::Tally;

/// What was asked for.
pub(crate) struct Options {
    /// Only these suites; all where empty.
    pub(crate) only: Vec<String>,
    /// Longer histories, more clients.
    pub(crate) full: bool,
    /// Install what is missing first.
    pub(crate) install: bool,
    /// Nothing may be skipped and `Cargo.lock` stays as it is.
    pub(crate) ci: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            full: false,
            install: true,
            ci: false,
        }
    }
}

struct Suite {
    name: &'static str,
    about: &'static str,
    steps: &'static [Step],
}

enum Step {
    /// `cargo` with these arguments; counts the tests it ran, or itself where it ran none.
    Cargo(&'static [&'static str]),
    /// The same, in the workspace of the fuzz targets, where there is one.
    Fuzz(&'static [&'static str]),
    /// `cargo deny`, where it is installed.
    Deny,
}

use Step::{Cargo, Deny, Fuzz};

/// Cheap ones first, so that a slip shows early.
const SUITES: &[Suite] = &[
    Suite {
        name: "tidy",
        about: "formatting and the rules of the house",
        steps: &[
            Cargo(&["fmt", "--all", "--check"]),
            Fuzz(&["fmt", "--check"]),
            Cargo(&["test", "--no-fail-fast", "-p", "xtask"]),
        ],
    },
    Suite {
        name: "lint",
        about: "clippy and documentation without a warning; the protocol without the server",
        steps: &[
            Cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]),
            Fuzz(&["clippy", "--all-targets", "--", "-D", "warnings"]),
            Cargo(&["check", "-p", "usnap-nbd", "--no-default-features"]),
            Cargo(&["doc", "--workspace", "--no-deps"]),
        ],
    },
    Suite {
        name: "deny",
        about: "licences, bans and sources of dependencies",
        steps: &[Deny],
    },
    Suite {
        name: "format",
        about: "the format: unit and property tests, the kernel's vectors",
        steps: &[Cargo(&["test", "--no-fail-fast", "-p", "usnap-format"])],
    },
    Suite {
        name: "engine",
        about: "the engine: unit, property and model tests, failing devices",
        steps: &[Cargo(&["test", "--no-fail-fast", "-p", "usnap-engine"])],
    },
    Suite {
        name: "nbd",
        about: "the protocol and the server: unit tests, hostile peers",
        steps: &[Cargo(&["test", "--no-fail-fast", "-p", "usnap-nbd"])],
    },
    Suite {
        name: "benches",
        about: "the load generator and the comparison, their own tests; each bench of a part, once",
        steps: &[
            Cargo(&["test", "--no-fail-fast", "-p", "usnap-benches"]),
            Cargo(&["test", "-p", "usnap-benches", "--benches"]),
        ],
    },
    Suite {
        name: "fuzz",
        about: "the bodies of the fuzz targets, as ordinary tests",
        steps: &[Fuzz(&["test", "--no-fail-fast"])],
    },
    Suite {
        name: "cli",
        about: "the command line's contract, man pages, the README's examples, the tests' own tools",
        steps: &[Cargo(&[
            "test",
            "--no-fail-fast",
            "-p",
            "usnap",
            "--bins",
            "--test",
            "cli_*",
        ])],
    },
    Suite {
        name: "interop",
        about: "other people's clients (libnbd, qemu, fio)",
        steps: &[Cargo(&[
            "test",
            "--no-fail-fast",
            "-p",
            "usnap",
            "--test",
            "interop",
        ])],
    },
    Suite {
        name: "kernel",
        about: "a real Linux kernel as an ordinary process: its dm-snapshot and its NBD client",
        steps: &[Cargo(&[
            "test",
            "--no-fail-fast",
            "-p",
            "usnap",
            "--test",
            "kernel",
        ])],
    },
    Suite {
        name: "differential",
        about: "random histories on the kernel's dm-snapshot and on usnap: the same bytes",
        steps: &[Cargo(&[
            "test",
            "--no-fail-fast",
            "-p",
            "usnap",
            "--test",
            "differential",
        ])],
    },
    Suite {
        name: "endurance",
        about: "many clients, many connections, ends under load: nothing leaks or is lost",
        steps: &[Cargo(&[
            "test",
            "--no-fail-fast",
            "-p",
            "usnap",
            "--test",
            "endurance",
        ])],
    },
    Suite {
        name: "faults",
        about: "real faults: kill -9, power cuts, failing and full disks; the tests' own tools",
        steps: &[
            Cargo(&["test", "--no-fail-fast", "-p", "usnap-test-support"]),
            Cargo(&["test", "--no-fail-fast", "-p", "usnap", "--test", "faults"]),
        ],
    },
    Suite {
        name: "counts",
        about: "instructions of each operation, beside those that benches/README.md records",
        steps: &[
            Cargo(&["build", "--release", "-p", "usnap"]),
            Cargo(&["run", "--release", "-p", "usnap-benches", "--bin", "counts"]),
        ],
    },
    Suite {
        name: "demo",
        about: "the demo, as built for release",
        steps: &[Cargo(&["run", "--release", "--", "demo"])],
    },
];

/// Prints the suites.
pub(crate) fn list() {
    for suite in SUITES {
        println!("{:<12} {}", suite.name, suite.about);
    }
}

/// Runs the suites that were asked for; true when nothing failed (and in CI, nothing was skipped).
pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(name) = options
        .only
        .iter()
        .find(|name| SUITES.iter().all(|s| s.name != **name))
    {
        bail!("no suite is called {name}; `cargo xtask suites` lists them");
    }
    let mut skips = SkipLog::create()?;
    let mut total = Tally::default();
    let mut table = Vec::new();
    for suite in SUITES {
        if !options.only.is_empty() && options.only.iter().all(|name| name != suite.name) {
            continue;
        }
        println!("\n== {}: {}", suite.name, suite.about);
        let begun = Instant::now();
        let mut tally = Tally::default();
        for step in suite.steps {
            tally += step.run(options, &skips)?;
        }
        tally.skipped += skips.fresh()?;
        table.push((suite.name, tally, begun.elapsed()));
        total += tally;
    }
    println!();
    for (name, tally, time) in &table {
        let ran = *tally != Tally::default();
        let outcome = if ran {
            tally.to_string()
        } else {
            "not run here".to_owned()
        };
        println!("{name:<12} {:>6.1} s   {outcome}", time.as_secs_f64());
    }
    for reason in &skips.reasons {
        println!("skipped: {reason}");
    }
    println!("\n{total}");
    Ok(total.failed == 0 && !(options.ci && total.skipped > 0))
}

impl Step {
    fn run(&self, options: &Options, skips: &SkipLog) -> Result<Tally> {
        let (arguments, in_fuzz) = match self {
            Cargo(arguments) => (*arguments, false),
            Fuzz(arguments) => (*arguments, true),
            Deny => (&["deny", "check", "licenses", "bans", "sources"][..], false),
        };
        if in_fuzz && !PathBuf::from("fuzz/Cargo.toml").is_file() {
            println!("-- there is no fuzz/ here");
            return Ok(Tally::default());
        }
        if matches!(self, Deny) && find_program("cargo-deny").is_none() {
            // Building it takes longer than all the tests, so it is run where it is.
            println!("-- cargo-deny is not installed: not checked");
            return Ok(Tally::default());
        }
        println!(
            "-- cargo {}{}",
            arguments.join(" "),
            if in_fuzz { " (in fuzz/)" } else { "" }
        );
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        if in_fuzz {
            command.current_dir("fuzz");
        }
        // `fmt` and `deny` resolve nothing, so they do not know the option.
        let (verb, rest) = arguments
            .split_first()
            .context("a step without a command")?;
        command.arg(verb);
        if options.ci && !matches!(*verb, "fmt" | "deny") {
            command.arg("--locked");
        }
        command
            .args(rest)
            .env("RUSTDOCFLAGS", "-D warnings")
            .env(SKIP_LOG, &skips.path);
        if options.ci {
            command
                .env("USNAP_FORBID_SKIPS", "1")
                .env("CARGO_INCREMENTAL", "0");
        }
        if options.full {
            command.env(SCALE, "full");
        } else if std::env::var_os(SCALE).is_none() {
            command.env(SCALE, "ci");
        }
        let outcome = process::run(&mut command)?;
        let mut tally = outcome.tests;
        // What ran no test is a check itself; so is a run that failed without a failed test
        // (it did not compile, it was ended).
        if tally == Tally::default() || (!outcome.success && tally.failed == 0) {
            tally += Tally::check(outcome.success);
        }
        Ok(tally)
    }
}

const SCALE: &str = "USNAP_TEST_SCALE";
const SKIP_LOG: &str = "USNAP_SKIP_LOG";

/// The file to which a test that skips itself appends a line: its name and what was missing.
struct SkipLog {
    path: PathBuf,
    reasons: Vec<String>,
}

impl SkipLog {
    fn create() -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
        let folder = std::path::absolute(target)?.join("xtask");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join("skipped.log");
        std::fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            path,
            reasons: Vec::new(),
        })
    }

    /// How many lines were added since the last call.
    fn fresh(&mut self) -> Result<u64> {
        let text = std::fs::read_to_string(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let reasons: Vec<String> = text.lines().map(str::to_owned).collect();
        let fresh = reasons.len().saturating_sub(self.reasons.len());
        self.reasons = reasons;
        Ok(fresh as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_suite_is_refused_before_anything_runs() {
        let options = Options {
            only: vec!["kernal".into()],
            ..Options::default()
        };
        assert!(run(&options).unwrap_err().to_string().contains("kernal"));
    }

    #[test]
    fn suites_have_different_names_and_something_to_do() {
        for (index, suite) in SUITES.iter().enumerate() {
            assert!(!suite.steps.is_empty(), "{}", suite.name);
            assert!(
                SUITES
                    .iter()
                    .skip(index + 1)
                    .all(|other| other.name != suite.name)
            );
        }
    }
}
