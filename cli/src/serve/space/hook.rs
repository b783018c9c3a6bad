//! The commands of `--on-space`: run in the background when a share of the room is passed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::serve::shell::shell;

/// How long commands may go on when the server ends; those that were just started should get to
/// their work.
const GRACE: Duration = Duration::from_secs(5);
/// How long they may take to end when they are told to.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What was typed behind `--on-space`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OnSpace {
    /// From 1 to 100.
    pub(crate) percent: u64,
    pub(crate) command: OsString,
}

/// Reads `PERCENT:COMMAND`.
///
/// # Errors
/// Says what is expected.
pub(crate) fn parse(text: &OsStr) -> Result<OnSpace, String> {
    let expected = || "not PERCENT:COMMAND, with a percentage from 1 to 100".to_owned();
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|&byte| byte == b':');
    let (percent, command) = colon
        .and_then(|colon| bytes.split_at_checked(colon))
        .ok_or_else(expected)?;
    let command = command.get(1..).unwrap_or_default();
    let percent = std::str::from_utf8(percent).ok();
    let percent = percent
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(expected)?;
    if command.iter().all(u8::is_ascii_whitespace) {
        return Err("the command is empty".to_owned());
    }
    Ok(OnSpace {
        percent,
        command: OsString::from_vec(command.to_owned()),
    })
}

/// A command, and its process while it runs: one at a time.
pub(super) struct Hook {
    on_space: OnSpace,
    running: Option<Child>,
}

impl Hook {
    pub(super) fn new(on_space: OnSpace) -> Self {
        Self {
            on_space,
            running: None,
        }
    }

    pub(super) fn percent(&self) -> u64 {
        self.on_space.percent
    }

    /// Starts the command, unless it still runs from the last time.
    pub(super) fn start(&mut self, variables: &[(&str, OsString)]) {
        self.reap();
        let command = self.on_space.command.display();
        if self.running.is_some() {
            tracing::warn!("`{command}` of --on-space still runs, so it is not started again");
            return;
        }
        match self.spawn(variables) {
            Ok(child) => self.running = Some(child),
            Err(error) => tracing::error!("cannot run `{command}` of --on-space: {error}"),
        }
    }

    fn spawn(&self, variables: &[(&str, OsString)]) -> io::Result<Child> {
        // Standard output may be a client's, or a URI's.
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        shell(&self.on_space.command)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output)
            .process_group(0)
            .spawn()
    }

    /// Takes note of the command's end, if it came.
    pub(super) fn reap(&mut self) {
        let Some(child) = &mut self.running else {
            return;
        };
        let ended = match child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => status,
            // Cannot be: it is our child, and nobody else waits for it.
            Err(_) => ExitStatus::default(),
        };
        if !ended.success() {
            let command = self.on_space.command.display();
            tracing::warn!("`{command}` of --on-space failed: {ended}");
        }
        self.running = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.running {
            // It may have ended by itself at this moment.
            let _ = kill_process_group(Pid::from_child(child), signal);
        }
    }
}

/// Waits for all of them, and ends those that take too long.
pub(super) fn end_all(hooks: &mut [Hook]) {
    if have_ended(hooks, GRACE) {
        return;
    }
    hooks.iter().for_each(|hook| hook.signal(Signal::TERM));
    if have_ended(hooks, LAST_WORDS) {
        return;
    }
    hooks.iter().for_each(|hook| hook.signal(Signal::KILL));
    have_ended(hooks, LAST_WORDS);
}

fn have_ended(hooks: &mut [Hook], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        hooks.iter_mut().for_each(Hook::reap);
        if hooks.iter().all(|hook| hook.running.is_none()) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_and_a_command_are_read_up_to_the_first_colon() {
        let read = |text: &str| parse(text.as_ref()).map(|it| (it.percent, it.command));
        assert_eq!(read("80:true"), Ok((80, "true".into())));
        assert_eq!(read("1: echo a:b; c"), Ok((1, " echo a:b; c".into())));
        assert_eq!(read("100:x"), Ok((100, "x".into())));
        for text in [
            "", ":", "80", "80:", "80:  ", ":true", "0:x", "101:x", "-1:x", "+1:x", "8%:x", "a:x",
            "1.5:x",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let odd = OsStr::from_bytes(b"5:\xff");
        assert_eq!(parse(odd).map(|it| it.command.into_vec()), Ok(vec![0xff]));
    }

    #[test]
    fn a_command_that_does_not_end_is_ended_with_its_children() {
        let mut hook = Hook::new(parse("1:sleep 1000 & sleep 1000".as_ref()).unwrap());
        hook.start(&[]);
        let group = hook.running.as_ref().map(Pid::from_child).unwrap();
        hook.signal(Signal::TERM);
        assert!(have_ended(&mut [hook], Duration::from_secs(20)));
        let deadline = Instant::now() + Duration::from_secs(20);
        while rustix::process::test_kill_process_group(group).is_ok() {
            assert!(Instant::now() < deadline, "a child lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_command_is_not_started_while_it_still_runs() {
        let mut hook = Hook::new(parse("1:sleep 1000".as_ref()).unwrap());
        hook.start(&[]);
        let first = hook.running.as_ref().map(Child::id);
        hook.start(&[]);
        assert_eq!(hook.running.as_ref().map(Child::id), first);
        hook.signal(Signal::KILL);
        assert!(have_ended(&mut [hook], Duration::from_secs(20)));
    }
}
