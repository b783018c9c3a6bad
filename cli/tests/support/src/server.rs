//! A running `usnap serve`: started, known to be ready, and ended.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::scratch::Scratch;
use crate::tool::{describe, wait};

/// How long a server may take until it says that it is ready: reading a large store included.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a server may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A `usnap serve` to be started.
pub struct Serve {
    command: Command,
    directory: Scratch,
}

/// A `usnap serve` that is ready; killed when dropped.
pub struct Server {
    child: Child,
    uri: String,
    directory: Scratch,
}

impl Serve {
    /// `program serve ORIGIN`, with a socket of its own in a directory below `root`.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn new(program: &Path, root: &Path, origin: &Path) -> Result<Self> {
        Self::wrapped(Command::new(program), root, origin)
    }

    /// The same, started by `launcher`, which gets usnap's arguments after its own.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn wrapped(launcher: Command, root: &Path, origin: &Path) -> Result<Self> {
        Self::begun(launcher, "serve", root, origin)
    }

    /// `program serve-origin ORIGIN`, likewise.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn origin(program: &Path, root: &Path, origin: &Path) -> Result<Self> {
        Self::begun(Command::new(program), "serve-origin", root, origin)
    }

    fn begun(launcher: Command, name: &str, root: &Path, origin: &Path) -> Result<Self> {
        // The path of a unix socket may be 107 bytes long, and a target directory lies deep.
        let directory = Scratch::new(short_root(root), "u")?;
        let mut command = launcher;
        command
            .arg(name)
            .arg(origin)
            .arg("--socket")
            .arg(directory.join("s"));
        Ok(Self { command, directory })
    }

    /// Keeps the changes in `cow`.
    #[must_use]
    pub fn cow(mut self, cow: &Path) -> Self {
        self.command.arg("--cow").arg(cow);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Starts it and kills it with SIGKILL after `pause`, ready or not.
    ///
    /// # Errors
    /// It can't be started.
    pub fn kill_after(mut self, pause: Duration) -> Result<()> {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.command))?;
        thread::sleep(pause);
        child.kill().context("cannot kill the server")?;
        child.wait().context("cannot wait for the server")?;
        Ok(())
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ended, or did not print its URI in time; its messages are in the error.
    pub fn start(mut self) -> Result<Server> {
        let log = self.directory.join("log");
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).context("cannot create the server's log")?)
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.command))?;
        let stdout = child
            .stdout
            .take()
            .context("the server has no standard output")?;
        let mut server = Server {
            child,
            uri: String::new(),
            directory: self.directory,
        };
        let (send, ready) = mpsc::channel();
        // Reading in a thread is what gives the wait a limit; it ends when the server does.
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            drop(send.send(read.map(|_| line)));
        });
        match ready.recv_timeout(READY_LIMIT) {
            Ok(Ok(line)) if line.starts_with("nbd") && line.ends_with('\n') => {
                line.trim_end().clone_into(&mut server.uri);
                Ok(server)
            }
            Ok(Ok(line)) if line.is_empty() => {
                let status = wait(&mut server.child, STOP_LIMIT)?;
                bail!(
                    "usnap serve ended ({status:?}) instead of serving:\n{}",
                    server.log()?
                )
            }
            other => bail!("no URI but {other:?} from usnap serve:\n{}", server.log()?),
        }
    }
}

impl Server {
    /// The URI it printed.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("s")
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error so far.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(self.directory.join("log")).context("cannot read the server's log")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .context("no such pid")?;
        kill_process(pid, signal).context("cannot signal the server")
    }

    /// Ends it with SIGTERM, expects exit code 0 and no panic, and returns its messages.
    ///
    /// # Errors
    /// It ended otherwise, or not in time.
    pub fn stop(self) -> Result<String> {
        self.signal(Signal::TERM)?;
        self.ended()
    }

    /// Waits for it to end by itself, expects exit code 0 and no panic, and returns its messages.
    ///
    /// # Errors
    /// It ended otherwise, or not in time.
    pub fn ended(mut self) -> Result<String> {
        let status = wait(&mut self.child, STOP_LIMIT)?;
        let log = self.log()?;
        let Some(status) = status else {
            bail!("usnap serve does not end:\n{log}")
        };
        ensure!(
            status.success(),
            "usnap serve ended: {}\n{log}",
            describe(status)
        );
        ensure!(!log.contains("panicked"), "a thread panicked:\n{log}");
        Ok(log)
    }

    /// Ends it with SIGTERM, expects this exit code, and returns its messages.
    ///
    /// # Errors
    /// It ended otherwise, or not in time.
    pub fn stop_with(mut self, code: i32) -> Result<String> {
        self.signal(Signal::TERM)?;
        let status = wait(&mut self.child, STOP_LIMIT)?;
        let log = self.log()?;
        ensure!(
            status.and_then(|status| status.code()) == Some(code),
            "usnap serve ended with {status:?}, not with {code}:\n{log}"
        );
        Ok(log)
    }

    /// Ends it with SIGTERM, expects exit code 0 or 1 and no panic, and returns its messages: for
    /// what may have something to complain of.
    ///
    /// # Errors
    /// It ended otherwise, or not in time.
    pub fn stop_either_way(mut self) -> Result<String> {
        self.signal(Signal::TERM)?;
        let status = wait(&mut self.child, STOP_LIMIT)?;
        let log = self.log()?;
        let ended = matches!(status.and_then(|status| status.code()), Some(0 | 1));
        ensure!(
            ended && !log.contains("panicked"),
            "usnap serve ended with {status:?}:\n{log}"
        );
        Ok(log)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// It had already ended.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait().context("cannot wait for the server")?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either may say that it is gone already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `root` where a socket's path below it stays short enough, else the system's place for such files.
fn short_root(root: &Path) -> &Path {
    const ROOM: usize = 80;
    if root.as_os_str().len() <= ROOM {
        root
    } else {
        Path::new("/tmp")
    }
}
