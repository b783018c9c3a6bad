//! The command of `--run`: started when the server is ready, its exit status ours.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::oneshot;

use super::shell::shell;
use crate::exit_code::ExitCode;

/// How long the command may take to end when we are told to end.
const GRACE: Duration = Duration::from_secs(5);

/// A running command.
pub(super) struct RunCommand {
    pid: Pid,
    /// Whether it leads a process group of its own.
    leads_group: bool,
    exited: oneshot::Receiver<std::io::Result<ExitStatus>>,
}

impl RunCommand {
    /// Starts `command` in a shell with `variables` set.
    pub(super) fn start(command: &OsStr, variables: &[(&str, OsString)]) -> Result<Self> {
        // A group of its own lets us end all of it; but such a group may not read the terminal.
        let leads_group = !std::io::stdin().is_terminal();
        let mut shell = shell(command);
        shell.envs(variables.iter().map(|(name, value)| (name, value)));
        if leads_group {
            shell.process_group(0);
        }
        let child = shell.spawn().context("cannot run /bin/sh for --run")?;
        let pid = Pid::from_child(&child);
        let exited = wait_on_thread(child).context("cannot start a thread")?;
        Ok(Self {
            pid,
            leads_group,
            exited,
        })
    }

    /// Waits for the end of the command.
    pub(super) async fn wait(&mut self) -> ExitCode {
        match (&mut self.exited).await {
            Ok(Ok(status)) => exit_code(status),
            // Cannot be: the child is ours, and the thread sends before it ends.
            Ok(Err(_)) | Err(_) => ExitCode::Failed,
        }
    }

    /// Asks the command to end, and after a while ends it.
    pub(super) async fn end(&mut self) -> ExitCode {
        self.signal(Signal::TERM);
        match tokio::time::timeout(GRACE, self.wait()).await {
            Ok(code) => code,
            Err(_) => {
                tracing::warn!("the command of --run did not end in time");
                self.signal(Signal::KILL);
                self.wait().await
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let sent = if self.leads_group {
            kill_process_group(self.pid, signal)
        } else {
            kill_process(self.pid, signal)
        };
        if let Err(error) = sent {
            tracing::debug!("cannot signal the command of --run: {error}");
        }
    }
}

fn wait_on_thread(
    mut child: Child,
) -> std::io::Result<oneshot::Receiver<std::io::Result<ExitStatus>>> {
    let (sender, exited) = oneshot::channel();
    std::thread::Builder::new()
        .name("wait-for-command".to_owned())
        .spawn(move || {
            // Nobody waits any more when we exit at once.
            let _ = sender.send(child.wait());
        })?;
    Ok(exited)
}

/// As a shell tells it: a signal's number is added to 128.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::Failed, ExitCode::Child)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(command: &str, end: bool) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let variables = [("uri", "nbd://x".into())];
            let mut child = RunCommand::start(command.as_ref(), &variables).unwrap();
            if end {
                child.end().await
            } else {
                child.wait().await
            }
        })
    }

    #[test]
    fn the_exit_status_is_the_commands() {
        assert_eq!(ran("exit 0", false), ExitCode::Child(0));
        assert_eq!(ran("exit 42", false), ExitCode::Child(42));
        assert_eq!(ran("kill -9 $$", false), ExitCode::Child(137));
    }

    #[test]
    fn the_variables_are_set() {
        assert_eq!(ran("test \"$uri\" = nbd://x", false), ExitCode::Child(0));
    }

    #[test]
    fn a_command_that_goes_on_is_ended() {
        assert_eq!(ran("sleep 100", true), ExitCode::Child(143));
    }
}
