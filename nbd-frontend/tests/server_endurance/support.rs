//! A server, a client, and what the process holds.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use usnap_engine::device::MemDevice;
use usnap_nbd::export::{Export, Exports};
use usnap_nbd::proto::client::ClientOptions;
use usnap_nbd::proto::client::blocking::Client;
use usnap_nbd::server::{Limits, Listen, Server};

/// The tests count what the whole process holds: one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client after its handshake.
pub(crate) fn connect(socket: &Path) -> Client<UnixStream> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let stream = UnixStream::connect(socket).unwrap();
        // All slots may be taken for a moment by those that have just closed.
        match Client::connect(stream, ClientOptions::new("")) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < end, "no connection: {error:?}"),
        }
    }
}

/// Runs `body` while a server listens on the socket it is given.
pub(crate) fn with_server(body: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let socket: PathBuf = dir.path().join("nbd");
    let export = Export::new("disk", Arc::new(MemDevice::new(1 << 20)));
    let exports = Arc::new(Exports::new(vec![export]));
    let server = Server::bind(Listen::Unix(socket.clone()), exports, Limits::default()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let served = server.run(async { drop(stopped.await) });
        runtime
            .enable_all()
            .build()
            .unwrap()
            .block_on(served)
            .unwrap();
    });
    body(&socket);
    drop(stop);
    thread.join().unwrap();
}

/// What this process holds.
#[derive(Debug)]
pub(crate) struct Holdings {
    pub(crate) descriptors: u64,
    pub(crate) threads: usize,
    pub(crate) resident_kib: u64,
}

impl Holdings {
    pub(crate) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count() as u64,
            threads: std::fs::read_dir("/proc/self/task").unwrap().count(),
            resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}
