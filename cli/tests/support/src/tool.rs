//! Runs a program to its end, with a time limit, and reports all of it when it did not do as told.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::requirements::find_program;

/// Longer than any of the tools needs, so that what hangs fails rather than blocks the suite.
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// One call of a program.
pub struct Tool {
    command: Command,
    input: Option<Vec<u8>>,
    limit: Duration,
}

/// What a program said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// The command line, for messages.
    pub command: String,
}

impl Tool {
    /// The program `name`, looked for as [`find_program`] does.
    pub fn new(name: impl AsRef<Path>) -> Self {
        let name = name.as_ref();
        let found = name
            .to_str()
            .filter(|plain| !plain.contains('/'))
            .and_then(find_program);
        let command = Command::new(found.as_deref().unwrap_or(name));
        Self {
            command,
            input: None,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Gives it this standard input; without, it is empty.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Kills it and fails after this time.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// It can't be started, or did not end within the limit.
    pub fn run(mut self) -> Result<Output> {
        let line = format!("{:?}", self.command);
        let mut stdout = tempfile::tempfile().context("cannot create a file for output")?;
        let mut stderr = tempfile::tempfile().context("cannot create a file for output")?;
        self.command
            .stdin(input_file(self.input.as_deref())?)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            // So that a time-out ends its children too.
            .process_group(0);
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        let ended = wait(&mut child, self.limit)?;
        if ended.is_none() {
            end_group(&mut child)?;
        }
        let (stdout, stderr) = (text_of(&mut stdout)?, text_of(&mut stderr)?);
        let Some(status) = ended else {
            bail!(
                "{line} did not end within {:?}\n{stdout}{stderr}",
                self.limit
            )
        };
        Ok(Output {
            status,
            stdout,
            stderr,
            command: line,
        })
    }

    /// Runs it and returns its standard output.
    ///
    /// # Errors
    /// As [`Tool::run`], or its exit status is not 0.
    pub fn ok(self) -> Result<String> {
        let output = self.run()?;
        ensure!(output.status.success(), "{output}");
        Ok(output.stdout)
    }

    /// Runs it and expects this exit code.
    ///
    /// # Errors
    /// As [`Tool::run`], or it ended otherwise.
    pub fn fails_with(self, code: i32) -> Result<Output> {
        let output = self.run()?;
        ensure!(
            output.status.code() == Some(code),
            "exit code {code} was expected of {output}"
        );
        Ok(output)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            status,
            stdout,
            stderr,
            command,
        } = self;
        write!(
            f,
            "{command}: {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}

/// Waits for `child`, at most `limit`; `None` when it still runs.
///
/// # Errors
/// The system can't say.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Says how `status` came about, a signal by its number.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    status.signal().map_or_else(
        || status.to_string(),
        |signal| format!("killed by {signal}"),
    )
}

fn end_group(child: &mut Child) -> Result<()> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("no such pid")?;
    kill_process_group(pid, Signal::KILL).context("cannot kill a child that hangs")?;
    child.wait().context("cannot wait for a child")?;
    Ok(())
}

fn input_file(input: Option<&[u8]>) -> Result<Stdio> {
    let Some(input) = input else {
        return Ok(Stdio::null());
    };
    let mut file = tempfile::tempfile().context("cannot create a file for input")?;
    file.write_all(input)?;
    file.rewind()?;
    Ok(file.into())
}

fn text_of(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
