//! A server in a thread of the test.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use usnap_engine::device::BlockDevice;
use usnap_nbd::export::{Export, Exports};
use usnap_nbd::proto::client::blocking::Client;
use usnap_nbd::server::{Counters, Limits, Listen, Server};

use super::{RawClient, Style};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that listens on a socket in a directory of its own, and stops when dropped.
pub(crate) struct TestServer {
    dir: TempDir,
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub(crate) fn new(device: Arc<dyn BlockDevice>) -> Self {
        Self::with_limits(device, Limits::default())
    }

    pub(crate) fn with_limits(device: Arc<dyn BlockDevice>, limits: Limits) -> Self {
        Self::with_export(Export::new("disk", device), limits)
    }

    pub(crate) fn with_export(export: Export, limits: Limits) -> Self {
        Self::with_exports(Arc::new(Exports::new(vec![export])), limits)
    }

    pub(crate) fn with_exports(exports: Arc<Exports>, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(dir.path().join("nbd"));
        Self::running(Server::bind(listen, exports, limits).unwrap(), dir)
    }

    /// A server that listens already; `dir` goes with it.
    pub(crate) fn running(server: Server, dir: TempDir) -> Self {
        let counters = server.counters();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async {
                let stopped = async { drop(stopped.await) };
                server.run(stopped).await.unwrap();
            });
        });
        Self {
            dir,
            counters,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd")
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A connected socket, before the handshake.
    pub(crate) fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn client(&self, style: Style) -> Client<UnixStream> {
        Client::connect(self.stream(), style.options()).unwrap()
    }

    pub(crate) fn raw_client(&self, style: Style) -> RawClient {
        RawClient::connect(self.stream(), style.options())
    }

    /// Waits until that many connections are in transmission.
    pub(crate) fn wait_for_connected(&self, count: u64) {
        wait_until("the connections to be counted", || {
            self.counters.counts().connected == count
        });
    }

    /// Says that the server is to end, and returns at once.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Whether the server has ended.
    pub(crate) fn has_stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the server and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            wait_until("the server to end", || thread.is_finished());
            thread.join().unwrap();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // A test that failed has said why already.
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Waits until `condition` holds; the test fails if it does not in time.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            std::time::Instant::now() < end,
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
