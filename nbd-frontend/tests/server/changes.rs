//! Exports that come and go while a server runs: what a client is shown is what there is, and what
//! a client has that is taken away ends in order.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use usnap_nbd::export::{AddError, Export, Exports};
use usnap_nbd::proto::client::ClientOptions;
use usnap_nbd::proto::client::blocking::Client;
use usnap_nbd::proto::consts::{
    FLAG_C_FIXED_NEWSTYLE, IHAVEOPT, OPT_GO, OPT_INFO, OPT_LIST, REP_ACK, REP_ERR_UNKNOWN,
    REP_INFO, REP_SERVER,
};
use usnap_nbd::proto::{Errno, RequestKind};
use usnap_nbd::server::Limits;

use super::support::{Call, RawClient, Style, TestDevice, TestServer, pattern, wait_until};

const MIB: u64 = 1 << 20;
const READ: RequestKind = RequestKind::Read {
    len: 512,
    dont_fragment: false,
};

fn limits() -> Limits {
    Limits {
        shutdown_grace: Duration::from_millis(200),
        shutdown_timeout: Duration::from_millis(300),
        ..Limits::default()
    }
}

fn serving(names: &[&str]) -> (Arc<Exports>, TestServer) {
    let exports = names
        .iter()
        .map(|name| Export::new(*name, TestDevice::new(MIB)));
    let exports = Arc::new(Exports::new(exports.collect()));
    let server = TestServer::with_exports(Arc::clone(&exports), limits());
    (exports, server)
}

fn raw_client(server: &TestServer, style: Style, name: &str) -> RawClient {
    let options = ClientOptions {
        export_name: name.to_owned(),
        ..style.options()
    };
    RawClient::connect(server.stream(), options)
}

/// A client in its handshake, byte by byte.
struct Haggler(UnixStream);

impl Haggler {
    fn connect(server: &TestServer) -> Self {
        let mut stream = server.stream();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream
            .write_all(&FLAG_C_FIXED_NEWSTYLE.to_be_bytes())
            .unwrap();
        Self(stream)
    }

    /// The replies to an option, up to the one that ends them: types and contents.
    fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        self.0.write_all(&bytes).unwrap();
        let mut replies = Vec::new();
        loop {
            let mut header = [0; 20];
            self.0.read_exact(&mut header).unwrap();
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            let mut data = vec![0; word(16) as usize];
            self.0.read_exact(&mut data).unwrap();
            let kind = word(12);
            replies.push((kind, data));
            if ![REP_SERVER, REP_INFO].contains(&kind) {
                return replies;
            }
        }
    }

    fn names(&mut self) -> Vec<String> {
        let mut replies = self.option(OPT_LIST, &[]);
        assert_eq!(replies.pop().map(|(kind, _)| kind), Some(REP_ACK));
        let name = |(kind, data): (u32, Vec<u8>)| {
            assert_eq!(kind, REP_SERVER);
            let len = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
            String::from_utf8(data[4..4 + len].to_vec()).unwrap()
        };
        replies.into_iter().map(name).collect()
    }

    /// How `NBD_OPT_INFO` or `NBD_OPT_GO` for that export ends.
    fn asks_for(&mut self, option: u32, name: &str) -> u32 {
        let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend([0, 0]);
        self.option(option, &data).pop().unwrap().0
    }
}

#[test]
fn a_client_is_shown_what_there_is_at_that_moment() {
    let (exports, server) = serving(&["origin"]);
    let mut client = Haggler::connect(&server);
    assert_eq!(client.names(), ["origin"]);
    assert_eq!(client.asks_for(OPT_INFO, "monday"), REP_ERR_UNKNOWN);
    for name in ["monday", "tuesday"] {
        exports
            .add(Export::new(name, TestDevice::new(MIB)))
            .unwrap();
    }
    assert_eq!(client.names(), ["origin", "monday", "tuesday"]);
    assert_eq!(client.asks_for(OPT_INFO, "monday"), REP_ACK);
    drop(exports.remove("monday").unwrap());
    assert_eq!(client.names(), ["origin", "tuesday"]);
    for option in [OPT_INFO, OPT_GO] {
        assert_eq!(client.asks_for(option, "monday"), REP_ERR_UNKNOWN);
    }
    assert_eq!(client.asks_for(OPT_GO, "tuesday"), REP_ACK);
    let names: Vec<_> = exports.list().iter().map(|e| e.name().to_owned()).collect();
    assert_eq!(names, ["origin", "tuesday"]);
    assert!(exports.remove("monday").is_none());
}

#[test]
fn no_other_export_becomes_the_default_one_when_that_is_removed() {
    let (exports, server) = serving(&["origin", "monday"]);
    let mut client = Haggler::connect(&server);
    assert_eq!(client.asks_for(OPT_INFO, ""), REP_ACK);
    drop(exports.remove("origin").unwrap());
    assert_eq!(client.asks_for(OPT_INFO, ""), REP_ERR_UNKNOWN);
    assert_eq!(client.asks_for(OPT_INFO, "monday"), REP_ACK);
}

#[test]
fn a_name_that_is_taken_or_that_nobody_could_ask_for_is_refused() {
    let (exports, server) = serving(&["origin"]);
    let add = |name: &str| exports.add(Export::new(name, TestDevice::new(MIB)));
    assert_eq!(add("origin"), Err(AddError::NameTaken));
    assert_eq!(add(&"x".repeat(4097)), Err(AddError::NameUnusable));
    assert_eq!(add("a\0b"), Err(AddError::NameUnusable));
    assert_eq!(add(&"x".repeat(4096)), Ok(()));
    assert_eq!(Haggler::connect(&server).names().len(), 2);
}

#[test]
fn an_idle_connection_of_a_removed_export_is_closed_at_once_and_others_go_on() {
    let (exports, server) = serving(&["origin", "monday"]);
    let mut clients = Style::ALL.map(|style| raw_client(&server, style, "monday"));
    let mut other = raw_client(&server, Style::Structured, "origin");
    server.wait_for_connected(4);
    // So that the threads are where they wait.
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    let removed = exports.remove("monday").unwrap();
    assert!(removed.wait(&limits()));
    assert!(
        begin.elapsed() < Duration::from_millis(150),
        "took {:?}",
        begin.elapsed()
    );
    assert_eq!(removed.connection_count(), 0);
    clients.iter_mut().for_each(RawClient::expect_closed);
    other.send(1, 0, READ);
    assert!(other.reply()[0].errno().is_none());
}

/// A device whose first write waits until it is let go.
fn held_device() -> (Arc<TestDevice>, Sender<()>) {
    let (release, held) = channel();
    let held = Mutex::new(Some(held));
    let device = TestDevice::with_hook(MIB, move |call| {
        if matches!(call, Call::Write { .. })
            && let Some(held) = held.lock().unwrap().take()
        {
            _ = held.recv();
        }
        None
    });
    (device, release)
}

#[test]
fn what_was_received_is_finished_and_what_comes_later_is_refused() {
    for style in Style::ALL {
        let (exports, server) = serving(&["origin"]);
        let (device, release) = held_device();
        exports.add(Export::new("monday", device.clone())).unwrap();
        let mut client = raw_client(&server, style, "monday");
        let write = RequestKind::Write {
            len: 512,
            fua: true,
        };
        let mut bytes = Vec::new();
        for cookie in 1..=3 {
            bytes.extend(client.encode(cookie, cookie * 512, write));
            bytes.extend(pattern(512, cookie));
        }
        client.send_bytes(&bytes);
        wait_until("the device to be called", || {
            !device.take_calls().is_empty()
        });
        let removed = exports.remove("monday").unwrap();
        assert_eq!(removed.connection_count(), 1);
        let mut bytes = client.encode(4, 0, write);
        bytes.extend(pattern(512, 4));
        bytes.extend(client.encode(5, 0, READ));
        client.send_bytes(&bytes);
        let waiting = std::thread::spawn(move || removed.wait(&Limits::default()));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "nobody waited for the device");
        release.send(()).unwrap();
        for cookie in 1..=3 {
            let chunk = client.expect_chunk();
            assert!(
                chunk.is_success() && chunk.cookie == cookie,
                "{style:?}: {chunk:?}"
            );
        }
        for cookie in 4..=5 {
            let chunk = client.expect_chunk();
            let expected = (cookie, Some(Errno::Shutdown));
            assert_eq!((chunk.cookie, chunk.errno()), expected);
        }
        client.expect_closed();
        assert!(waiting.join().unwrap());
        let calls = device.take_calls();
        let writes = calls.iter().filter(|c| matches!(c, Call::Write { .. }));
        assert_eq!(writes.count(), 2);
    }
}

#[test]
fn a_device_that_hangs_is_not_waited_for() {
    let (exports, server) = serving(&["origin"]);
    let (device, release) = held_device();
    exports.add(Export::new("monday", device.clone())).unwrap();
    let mut client = raw_client(&server, Style::Simple, "monday");
    let write = RequestKind::Write {
        len: 512,
        fua: false,
    };
    let mut bytes = client.encode(1, 0, write);
    bytes.extend(pattern(512, 1));
    client.send_bytes(&bytes);
    wait_until("the device to be called", || {
        !device.take_calls().is_empty()
    });
    let removed = exports.remove("monday").unwrap();
    let begin = Instant::now();
    assert!(!removed.wait(&limits()), "the connection is still there");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(removed.connection_count(), 1);
    release.send(()).unwrap();
    wait_until("the connection to end", || removed.connection_count() == 0);
}

#[test]
fn an_export_that_takes_a_removed_ones_name_is_another_one() {
    let (exports, server) = serving(&["origin"]);
    let (device, release) = held_device();
    exports.add(Export::new("monday", device.clone())).unwrap();
    let mut old = raw_client(&server, Style::Structured, "monday");
    let write = RequestKind::Write {
        len: 512,
        fua: false,
    };
    let mut bytes = old.encode(1, 0, write);
    bytes.extend(pattern(512, 1));
    old.send_bytes(&bytes);
    wait_until("the device to be called", || {
        !device.take_calls().is_empty()
    });
    let removed = exports.remove("monday").unwrap();
    let again = Export::new("monday", TestDevice::new(2 * MIB));
    exports.add(again).unwrap();
    let mut new = raw_client(&server, Style::Structured, "monday");
    assert_eq!(new.negotiated.size_bytes, 2 * MIB);
    release.send(()).unwrap();
    assert!(old.expect_chunk().is_success());
    old.expect_closed();
    assert!(removed.wait(&limits()));
    new.send(1, 0, READ);
    assert!(new.reply()[0].errno().is_none());
    // The one that was removed is offered anew like any other.
    drop(exports.remove("monday").unwrap());
    exports.add(removed.export().clone()).unwrap();
    let mut third = raw_client(&server, Style::Structured, "monday");
    assert_eq!(third.negotiated.size_bytes, MIB);
    third.send(1, 0, READ);
    assert!(third.reply()[0].errno().is_none());
}

/// Each generation's export has a size of its own: who gets one negotiated and another one served
/// would see it.
#[test]
fn clients_that_connect_while_exports_come_and_go_get_the_one_they_were_told_of() {
    let (exports, server) = serving(&["origin"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut served = 0;
                    while !over.load(Ordering::Relaxed) {
                        let options = ClientOptions::new("monday");
                        let Ok(mut client) = Client::connect(server.stream(), options) else {
                            continue;
                        };
                        let size_bytes = client.negotiated().size_bytes;
                        let mut last = [0; 512];
                        if client.read_at(&mut last, size_bytes - 512).is_ok() {
                            let generation = u16::try_from(size_bytes / 512).unwrap();
                            assert_eq!(last[..2], generation.to_be_bytes());
                            served += 1;
                        }
                    }
                    served
                })
            })
            .collect();
        let _over = RunsOut(&over);
        for generation in 1..=300_u16 {
            let size_bytes = u64::from(generation) * 512;
            let device = TestDevice::new(size_bytes);
            usnap_engine::device::BlockDevice::write_at(
                &device.memory,
                &generation.to_be_bytes(),
                size_bytes - 512,
            )
            .unwrap();
            exports.add(Export::new("monday", device)).unwrap();
            std::thread::sleep(Duration::from_millis(1));
            let removed = exports.remove("monday").unwrap();
            assert!(removed.wait(&Limits::default()));
            // A client that was told of it and not served yet may hold it for a moment.
            wait_until("the device to be free", || {
                Arc::strong_count(removed.export().device()) == 1
            });
        }
        drop(_over);
        let served: u32 = clients.into_iter().map(|c| c.join().unwrap()).sum();
        assert!(served > 0, "no client was served at all");
    });
}

/// Ends the clients' loops, also where the test fails.
struct RunsOut<'a>(&'a AtomicBool);

impl Drop for RunsOut<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// As a snapshot that is dropped because it is full: it stays an export, and says so.
#[test]
fn an_export_whose_device_came_to_its_end_answers_eio_and_stays() {
    let (exports, server) = serving(&["origin"]);
    let ended = Arc::new(AtomicBool::new(false));
    let sign = Arc::clone(&ended);
    let device = TestDevice::with_hook(MIB, move |_| {
        sign.load(Ordering::Relaxed)
            .then_some(usnap_engine::ErrorKind::Io)
    });
    exports.add(Export::new("monday", device)).unwrap();
    let mut client = raw_client(&server, Style::Extended, "monday");
    client.send(1, 0, READ);
    assert!(client.reply()[0].errno().is_none());
    ended.store(true, Ordering::Relaxed);
    for mut client in [client, raw_client(&server, Style::Extended, "monday")] {
        client.send(2, 0, READ);
        assert_eq!(client.expect_chunk().errno(), Some(Errno::Io));
        let write = RequestKind::Write {
            len: 512,
            fua: false,
        };
        let mut bytes = client.encode(3, 0, write);
        bytes.extend(pattern(512, 1));
        client.send_bytes(&bytes);
        assert_eq!(client.expect_chunk().errno(), Some(Errno::Io));
    }
}
