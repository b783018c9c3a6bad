//! One client on descriptors that are there already.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use usnap_nbd::export::{Export, Exports};
use usnap_nbd::proto::RequestKind;
use usnap_nbd::proto::client::blocking::Client;
use usnap_nbd::server::{Limits, serve_single};

use super::support::{Style, TestDevice, pattern, wait_until};

/// A server on two descriptors.
struct Single {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Single {
    fn new(input: OwnedFd, output: OwnedFd, limits: Limits) -> Self {
        let export = Export::new("disk", TestDevice::new(8 << 20));
        let exports = Arc::new(Exports::new(vec![export]));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let stopped = async {
                if stopped.await.is_err() {
                    // The test has nothing to say: the client decides when it ends.
                    std::future::pending::<()>().await;
                }
            };
            let served = serve_single(input, output, exports, limits, stopped);
            runtime
                .enable_all()
                .build()
                .unwrap()
                .block_on(served)
                .unwrap();
        });
        Self { stop, thread }
    }

    fn expect_end(self) {
        let Self { stop, thread } = self;
        wait_until("the server to end", || thread.is_finished());
        thread.join().unwrap();
        drop(stop);
    }

    fn stop(self) {
        let Self { stop, thread } = self;
        stop.send(()).unwrap();
        wait_until("the server to end", || thread.is_finished());
        thread.join().unwrap();
    }
}

/// The client's end of two pipes.
struct Pipes {
    from_server: std::io::PipeReader,
    to_server: std::io::PipeWriter,
}

impl Read for Pipes {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.from_server.read(buf)
    }
}

impl Write for Pipes {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.to_server.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn on_pipes(limits: Limits) -> (Single, Pipes) {
    let (input, to_server) = std::io::pipe().unwrap();
    let (from_server, output) = std::io::pipe().unwrap();
    (
        Single::new(input.into(), output.into(), limits),
        Pipes {
            from_server,
            to_server,
        },
    )
}

fn on_socket(limits: Limits) -> (Single, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (
        Single::new(theirs.try_clone().unwrap().into(), theirs.into(), limits),
        ours,
    )
}

fn use_it(client: &mut Client<impl Read + Write>) {
    let data = pattern(3 << 20, 1);
    client.write_at(&data, 12_345, true).unwrap();
    let mut read = vec![0; data.len()];
    client.read_at(&mut read, 12_345).unwrap();
    assert!(read == data);
}

#[test]
fn a_client_on_pipes_is_served_until_it_disconnects() {
    for style in Style::ALL {
        let (server, pipes) = on_pipes(Limits::default());
        let mut client = Client::connect(pipes, style.options()).unwrap();
        use_it(&mut client);
        client.disconnect().unwrap();
        server.expect_end();
    }
}

#[test]
fn a_client_on_a_socket_is_served_until_it_closes() {
    for style in Style::ALL {
        let (server, socket) = on_socket(Limits::default());
        let mut client = Client::connect(socket, style.options()).unwrap();
        use_it(&mut client);
        drop(client);
        server.expect_end();
    }
}

#[test]
fn the_end_of_the_server_comes_while_its_client_says_nothing() {
    let (server, pipes) = on_pipes(Limits::default());
    let mut client = Client::connect(pipes, Style::Structured.options()).unwrap();
    use_it(&mut client);
    server.stop();
    client.flush().unwrap_err();

    let (server, socket) = on_socket(Limits::default());
    let mut client = Client::connect(socket, Style::Structured.options()).unwrap();
    use_it(&mut client);
    server.stop();
    client.flush().unwrap_err();

    // Still in its handshake.
    let (server, _pipes) = on_pipes(Limits::default());
    server.stop();
}

#[test]
fn a_client_that_never_shakes_hands_is_not_waited_for() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let (server, _pipes) = on_pipes(limits);
    server.expect_end();
    let (server, _socket) = on_socket(limits);
    server.expect_end();
}

#[test]
fn a_client_that_does_not_read_its_replies_is_not_waited_for_on_a_pipe() {
    let limits = Limits {
        shutdown_grace: Duration::from_millis(50),
        shutdown_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    for style in Style::ALL {
        let (server, pipes) = on_pipes(limits);
        let mut client = Client::connect(pipes, style.options()).unwrap();
        for _ in 0..4 {
            let read = RequestKind::Read {
                len: 4 << 20,
                dont_fragment: false,
            };
            client.submit(0, read, &[]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
        let begin = Instant::now();
        server.stop();
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(5), "{style:?}: {took:?}");
    }
}
