//! Running a command: its output passed on line by line and counted, with a time limit.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::tally::Tally;

/// No suite takes half as long on two cores; one that does hangs, and is to fail by name rather
/// than use up the time of the whole run.
const TIME_LIMIT: Duration = Duration::from_secs(40 * 60);

/// What came of a command.
pub(crate) struct Outcome {
    /// It exited with 0, in time.
    pub(crate) success: bool,
    /// The sum of the result lines in its output.
    pub(crate) tests: Tally,
}

/// Runs `command` to its end; its standard output is passed on and counted.
pub(crate) fn run(command: &mut Command) -> Result<Outcome> {
    // A group of its own, so that the limit ends its children too.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let Some(stdout) = child.stdout.take() else {
        anyhow::bail!(
            "cannot read what {} prints",
            command.get_program().display()
        );
    };
    let (sender, lines) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout)
            .split(b'\n')
            .map_while(|line| line.ok())
        {
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                break;
            }
        }
    });
    let deadline = Instant::now() + TIME_LIMIT;
    let mut tests = Tally::default();
    let in_time = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                tests += Tally::of_line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => {
                println!("xtask: ended after {} minutes", TIME_LIMIT.as_secs() / 60);
                end_group(&child);
                break false;
            }
        }
    };
    let status = child.wait().context("cannot wait for the command")?;
    if in_time {
        let _ = reader.join();
    }
    Ok(Outcome {
        success: in_time && status.success(),
        tests,
    })
}

/// Runs a program to its end with our own input and output.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> Result<bool> {
    let status = Command::new(program).args(arguments).status();
    Ok(status
        .with_context(|| format!("cannot run {program}"))?
        .success())
}

fn end_group(child: &Child) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_has_the_exit_status_and_the_counts() {
        let script =
            "echo 'test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured'; exit 4";
        let outcome = run(Command::new("sh").args(["-c", script])).unwrap();
        assert!(!outcome.success);
        assert_eq!(
            outcome.tests,
            Tally {
                passed: 3,
                failed: 1,
                skipped: 0
            }
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_that_names_it() {
        let error = run(&mut Command::new("no-such-program-here"))
            .err()
            .unwrap();
        assert!(
            format!("{error:#}").contains("no-such-program-here"),
            "{error:#}"
        );
    }
}
