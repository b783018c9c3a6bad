//! Listening sockets: made, found dead and replaced, handed over by a service manager, removed.

use std::fs::Metadata;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    sockopt,
};

use super::error::{Result, ServerError};
use crate::proto::uri::NbdUri;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A unix socket at this path, for its owner only (mode 0600). The socket of a server that
    /// is gone is replaced, anything else there is left alone.
    Unix(PathBuf),
    /// A TCP port; port 0 is any free one.
    Tcp(SocketAddr),
    /// The sockets that a service manager listens on already (`LISTEN_FDS`).
    Activated,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket's absolute path.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl Address {
    /// The URI under which clients reach the export of that name (empty: the default one).
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        match self {
            Self::Unix(path) => NbdUri::unix(path.as_os_str().as_bytes(), export),
            Self::Tcp(address) => NbdUri::tcp(address.ip().to_string(), address.port(), export),
        }
        .to_string()
    }
}

/// One listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    /// The path's guard is only there where the socket was made here.
    Unix(UnixListener, Option<BoundPath>),
    Tcp(TcpListener),
}

impl Listener {
    /// Where it listens; `None` for a unix socket without a path.
    pub(super) fn address(&self) -> Option<Address> {
        match self {
            Self::Unix(_, Some(bound)) => Some(Address::Unix(bound.path.clone())),
            Self::Unix(listener, None) => listener
                .local_addr()
                .ok()?
                .as_pathname()
                .map(|p| Address::Unix(p.to_path_buf())),
            Self::Tcp(listener) => listener.local_addr().ok().map(Address::Tcp),
        }
    }
}

/// A socket's path, removed when dropped unless something else is there by then.
#[derive(Debug)]
pub(super) struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl BoundPath {
    fn new(path: PathBuf) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(&path)?;
        Ok(Self {
            path,
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    fn is_ours(&self, metadata: &Metadata) -> bool {
        (metadata.dev(), metadata.ino()) == (self.device, self.inode)
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| self.is_ours(&metadata)) {
            // Nobody is left to hear of it; the next server replaces what stays behind.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Makes or takes over the sockets to listen on.
pub(super) fn listen_on(place: Listen) -> Result<Vec<Listener>> {
    match place {
        Listen::Unix(path) => Ok(vec![listen_unix(&path)?]),
        Listen::Tcp(address) => Ok(vec![listen_tcp(address)?]),
        Listen::Activated => take_activated(),
    }
}

/// How many connections may wait to be accepted; the kernel's own limit is no lower.
const BACKLOG: i32 = 128;

fn listen_tcp(address: SocketAddr) -> Result<Listener> {
    TcpListener::bind(address).map(Listener::Tcp).map_err(|e| {
        let in_use = e.kind() == io::ErrorKind::AddrInUse;
        let error = ServerError::io(format!("cannot listen on {address}"), e);
        if in_use {
            error.with_hint("choose another port, or 0 for any free one")
        } else {
            error
        }
    })
}

fn listen_unix(path: &Path) -> Result<Listener> {
    let failed = |e: io::Error| ServerError::io(format!("cannot listen on {}", path.display()), e);
    let path = std::path::absolute(path).map_err(failed)?;
    let address = SocketAddrUnix::new(&path).map_err(|e| match e {
        Errno::NAMETOOLONG => failed(e.into())
            .with_hint("a socket's path has at most 107 bytes: choose a shorter one"),
        _ => failed(e.into()),
    })?;
    let socket = match bind_private(&address) {
        Err(Errno::ADDRINUSE) => {
            remove_dead(&path, &address)?;
            bind_private(&address)
        }
        result => result,
    }
    .map_err(|e| {
        let error = failed(e.into());
        if e == Errno::NOENT {
            error.with_hint("make the directory first")
        } else {
            error
        }
    })?;
    let bound = BoundPath::new(path.clone()).map_err(failed)?;
    listen(&socket, BACKLOG).map_err(|e| failed(e.into()))?;
    Ok(Listener::Unix(UnixListener::from(socket), Some(bound)))
}

/// Binds a new socket that only its owner may connect to.
fn bind_private(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Before the path exists: bind makes it with the socket's mode (less the umask), so there is
    // no moment in which others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, address)?;
    Ok(socket)
}

/// Removes the socket of a server that is gone.
fn remove_dead(path: &Path, address: &SocketAddrUnix) -> Result<()> {
    let taken =
        |what: &str| ServerError::new(format!("cannot listen on {}: {what}", path.display()));
    let failed = |e: io::Error| ServerError::io(format!("cannot listen on {}", path.display()), e);
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.file_type().is_socket() {
        return Err(taken("there is a file that is no socket")
            .with_hint("choose another path, or remove the file"));
    }
    // A server that has just bound its socket does not listen yet: ask twice.
    for pause in [Duration::from_millis(50), Duration::ZERO] {
        if answers(address).map_err(failed)? {
            return Err(taken("a server listens there already")
                .with_hint("choose another path, or stop that server"));
        }
        std::thread::sleep(pause);
    }
    std::fs::remove_file(path).map_err(failed)
}

/// Whether somebody listens; a full backlog counts.
fn answers(address: &SocketAddrUnix) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, address) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn take_activated() -> Result<Vec<Listener>> {
    let mut fds = ListenFd::from_env();
    if fds.len() == 0 {
        return Err(
            ServerError::new("cannot take over sockets: none were passed (LISTEN_FDS)")
                .with_hint("start it from a systemd socket unit or systemd-socket-activate"),
        );
    }
    (0..fds.len())
        .map(|index| {
            let failed =
                |e| ServerError::io(format!("cannot take over socket {index} of LISTEN_FDS"), e);
            let missing = || failed(io::ErrorKind::NotFound.into());
            if let Ok(listener) = fds.take_unix_listener(index) {
                let listener = listener.ok_or_else(missing)?;
                refuse_deaf(&listener, index)?;
                return Ok(Listener::Unix(listener, None));
            }
            let listener = fds
                .take_tcp_listener(index)
                .map_err(failed)?
                .ok_or_else(missing)?;
            refuse_deaf(&listener, index)?;
            Ok(Listener::Tcp(listener))
        })
        .collect()
}

/// Refuses a socket that is only bound: nobody could ever connect, and we would wait for ever.
fn refuse_deaf(socket: &impl AsFd, index: usize) -> Result<()> {
    if sockopt::socket_acceptconn(socket).unwrap_or(true) {
        return Ok(());
    }
    Err(ServerError::new(format!(
        "cannot take over socket {index} of LISTEN_FDS: it does not listen"
    ))
    .with_hint("whoever passes a socket has to call listen(2) on it first"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn path_in(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("s")
    }

    #[test]
    fn only_its_owner_may_connect_to_a_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = listen_unix(&path_in(&dir)).unwrap();
        let mode = std::fs::metadata(path_in(&dir))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn the_socket_is_removed_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        drop(listen_unix(&path_in(&dir)).unwrap());
        assert!(!path_in(&dir).exists());
    }

    #[test]
    fn what_took_the_sockets_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen_unix(&path_in(&dir)).unwrap();
        std::fs::write(dir.path().join("new"), "theirs").unwrap();
        std::fs::rename(dir.path().join("new"), path_in(&dir)).unwrap();
        drop(listener);
        assert_eq!(std::fs::read(path_in(&dir)).unwrap(), b"theirs");
    }

    #[test]
    fn a_dead_servers_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(path_in(&dir)).unwrap());
        assert!(path_in(&dir).exists());
        let _listener = listen_unix(&path_in(&dir)).unwrap();
        std::os::unix::net::UnixStream::connect(path_in(&dir)).unwrap();
    }

    #[test]
    fn a_live_servers_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = listen_unix(&path_in(&dir)).unwrap();
        let error = listen_unix(&path_in(&dir)).unwrap_err();
        assert!(
            error.to_string().contains("a server listens there already"),
            "{error}"
        );
        assert!(error.hint().is_some());
        std::os::unix::net::UnixStream::connect(path_in(&dir)).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(path_in(&dir), "data").unwrap();
        let error = listen_unix(&path_in(&dir)).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(std::fs::read(path_in(&dir)).unwrap(), b"data");
    }

    #[test]
    fn a_missing_directory_and_a_long_path_get_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let missing = listen_unix(&dir.path().join("none/s")).unwrap_err();
        assert_eq!(missing.hint(), Some("make the directory first"));
        let long = listen_unix(&dir.path().join("x".repeat(200))).unwrap_err();
        assert!(
            long.hint().is_some_and(|hint| hint.contains("107")),
            "{long:?}"
        );
    }

    #[test]
    fn a_tcp_port_in_use_gets_a_hint() {
        let first = listen_tcp(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let Some(Address::Tcp(address)) = first.address() else {
            panic!("no TCP address")
        };
        assert_ne!(address.port(), 0);
        assert!(listen_tcp(address).unwrap_err().hint().is_some());
    }
}
