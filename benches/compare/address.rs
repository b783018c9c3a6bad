//! Where a server listens.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What carries the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// A unix socket.
    Unix,
    /// TCP over the loopback device.
    Tcp,
}

/// One server's own address.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// A socket's path.
    Unix(PathBuf),
    /// A port of 127.0.0.1.
    Tcp(u16),
}

impl Address {
    /// An address that nobody listens at yet; sockets go into `directory`.
    pub(crate) fn new(transport: Transport, directory: &Path) -> Result<Self> {
        match transport {
            Transport::Unix => Ok(Self::Unix(directory.join("s"))),
            Transport::Tcp => {
                // The system hands out another port each time, so that it is free a moment later.
                let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
                let address = probe.and_then(|probe| probe.local_addr());
                Ok(Self::Tcp(
                    address.context("cannot find a free port")?.port(),
                ))
            }
        }
    }

    /// Connects once and hangs up.
    pub(crate) fn probe(&self) -> io::Result<()> {
        match self {
            Self::Unix(socket) => UnixStream::connect(socket).map(drop),
            Self::Tcp(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).map(drop),
        }
    }

    /// The URI of an export there.
    pub(crate) fn uri(&self, export: &str) -> String {
        match self {
            Self::Unix(socket) => format!("nbd+unix:///{export}?socket={}", socket.display()),
            Self::Tcp(port) => format!("nbd://127.0.0.1:{port}/{export}"),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        })
    }
}
