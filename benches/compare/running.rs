//! A server that runs, from its start to its end.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{path::PathBuf, thread};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use usnap_test_support::Scratch;

use crate::address::{Address, Transport};
use crate::command::{Files, Overlay, command};
use crate::contender::Contender;
use crate::cpu::Meter;

/// A server, and the files that are its own; both go when it is dropped.
pub(crate) struct Running {
    child: Child,
    /// The process that serves, where the child only started it.
    daemon: Option<Pid>,
    address: Address,
    export: &'static str,
    meter: Meter,
    overlay: Overlay,
}

/// The longest that a server may take to listen, or to go.
const PATIENCE: Duration = Duration::from_secs(20);

impl Running {
    /// Starts `contender` over a fresh overlay and waits until it accepts connections.
    pub(crate) fn start(contender: Contender, files: &Files, transport: Transport) -> Result<Self> {
        let overlay = Overlay {
            directory: Scratch::new(&files.directory, "overlay")?,
        };
        let address = Address::new(transport, overlay.directory.path())?;
        let meter = Meter::new();
        let command = command(contender, files, &overlay, &address)?;
        let log = fs::File::create(overlay.log()).context("cannot create a log")?;
        let child = meter
            .wrap(&command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut running = Self {
            child,
            daemon: None,
            address,
            export: contender.export(),
            meter,
            overlay,
        };
        running.wait_until_ready(contender == Contender::NbdServer)?;
        Ok(running)
    }

    /// What a client is told.
    pub(crate) fn uri(&self) -> String {
        self.address.uri(self.export)
    }

    /// The processor time, user and system, that it has used so far with all its processes, those
    /// that ended too.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.meter.used()
    }

    /// The files it has made, as far as they are still there by name.
    pub(crate) fn own_files(&self) -> Result<Vec<PathBuf>> {
        let directory = self.overlay.directory.path();
        let entries = fs::read_dir(directory).context("cannot list the overlay")?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.context("cannot list the overlay")?;
            if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
        }
        Ok(files)
    }

    fn wait_until_ready(&mut self, leaves: bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // qemu-nbd may serve one client at a time, so a probe must have gone before fio comes; a
            // socket that does not exist or does not listen yet refuses.
            let listens = self.address.probe().is_ok();
            let ended = self.child.try_wait()?;
            match ended {
                Some(status) if !leaves || !status.success() => {
                    bail!("it ended ({status}) instead of serving: {}", self.log());
                }
                _ => {}
            }
            if leaves && self.daemon.is_none() {
                let said = fs::read_to_string(self.overlay.pid_file()).unwrap_or_default();
                self.daemon = said.trim().parse().ok().and_then(Pid::from_raw);
            }
            if listens && (!leaves || self.daemon.is_some()) {
                let serves = self.daemon.map_or(self.child.id(), |pid| {
                    u32::try_from(pid.as_raw_nonzero().get()).unwrap_or_default()
                });
                self.meter.watch(serves);
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("it does not listen: {}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.overlay.log()).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Any of these may say that it is gone already, which is what is wanted.
        if let Some(daemon) = self.daemon {
            let _ = kill_process(daemon, Signal::TERM);
            let deadline = Instant::now() + PATIENCE;
            while self.address.probe().is_ok() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
