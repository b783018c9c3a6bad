//! Saying that clients can connect: on standard output, in the pid file, to the service manager.

use std::ffi::OsString;

use anyhow::Context;
use sd_notify::NotifyState;
use tempfile::TempDir;
use usnap_nbd::server::{Address, Listen, Server};

use super::pid_file::PidFile;
use super::{Place, Service};
use crate::failure::{Failure, Result};
use crate::output;
use crate::private_dir;

/// The socket's name in a folder of its own.
const SOCKET: &str = "socket";

/// Where to listen, and the folder that goes away with the server, if it is one of its own.
pub(super) fn listen_at(place: &Place) -> Result<(Listen, Option<TempDir>)> {
    match place {
        Place::Private => {
            let dir = private_dir::create_random(SOCKET)
                .context("cannot make a private folder for the socket")?;
            Ok((Listen::Unix(dir.path().join(SOCKET)), Some(dir)))
        }
        Place::Unix(path) => Ok((Listen::Unix(path.clone()), None)),
        Place::Tcp(address) => Ok((Listen::Tcp(*address), None)),
        Place::Activated => Ok((Listen::Activated, None)),
        // Decided before anybody asks.
        Place::Single => Err(Failure::usage("cannot listen on standard input")),
    }
}

/// What users of the server need to know, fixed before it runs.
pub(super) struct Ready {
    uri: Option<String>,
    name: String,
    addresses: Vec<Address>,
}

impl Ready {
    /// Of the export called `name`.
    pub(super) fn new(name: &str, server: &Server) -> Self {
        Self {
            uri: server.uri(name),
            name: name.to_owned(),
            addresses: server.addresses(),
        }
    }

    /// Writes the pid file, prints the URI (unless standard output is a command's) and tells the
    /// service manager. The pid file goes away with what is returned.
    pub(super) fn tell(&self, service: &Service) -> Result<Option<PidFile>> {
        let pid_file = service
            .pid_file
            .as_deref()
            .map(PidFile::write)
            .transpose()?;
        match &self.uri {
            // Whoever started us may have gone; clients can come all the same.
            Some(uri) if service.run.is_none() => match output::print(uri) {
                Err(failure) if !failure.is_quiet() => return Err(failure),
                _ => {}
            },
            Some(_) => {}
            None => tracing::info!("ready, on a socket that no URI leads to"),
        }
        notify(NotifyState::Ready);
        Ok(pid_file)
    }

    /// The variables for the command of `--run`, named as nbdkit names them.
    pub(super) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let unix = self.addresses.iter().find_map(|address| match address {
            // As it is: it need not be UTF-8.
            Address::Unix(path) => Some(path.clone().into_os_string()),
            Address::Tcp(_) => None,
        });
        let port = self.addresses.iter().find_map(|address| match address {
            Address::Tcp(address) => Some(OsString::from(address.port().to_string())),
            Address::Unix(_) => None,
        });
        vec![
            ("uri", self.uri.clone().unwrap_or_default().into()),
            ("unixsocket", unix.unwrap_or_default()),
            ("port", port.unwrap_or_default()),
            ("exportname", self.name.clone().into()),
        ]
    }
}

/// Tells the service manager that the end has begun.
pub(super) fn tell_stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}
