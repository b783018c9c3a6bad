//! The end of a server: what it received is finished, what comes later is refused, nobody is
//! waited for forever.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use usnap_nbd::proto::client::blocking::Client;
use usnap_nbd::proto::{Errno, RequestKind};
use usnap_nbd::server::Limits;

use super::support::{Call, Style, TestDevice, TestServer, pattern, wait_until};

const MIB: u64 = 1 << 20;

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
fn idle_connections_are_closed_at_once_and_the_socket_is_gone() {
    let mut server = TestServer::new(TestDevice::new(MIB));
    let mut clients: Vec<_> = Style::ALL
        .into_iter()
        .map(|s| server.raw_client(s))
        .collect();
    server.wait_for_connected(3);
    // So that the threads are where they wait.
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    server.stop();
    assert!(
        begin.elapsed() < Duration::from_millis(400),
        "took {:?}",
        begin.elapsed()
    );
    clients.iter_mut().for_each(|client| client.expect_closed());
    assert!(!server.socket().exists());
}

#[test]
fn what_was_received_is_finished_and_what_comes_later_is_refused() {
    for style in Style::ALL {
        let (device, release) = held_device();
        let mut server = TestServer::new(device.clone());
        let mut client = server.raw_client(style);
        let mut bytes = Vec::new();
        for cookie in 1..=3 {
            let write = RequestKind::Write {
                len: 512,
                fua: true,
            };
            bytes.extend(client.encode(cookie, cookie * 512, write));
            bytes.extend(pattern(512, cookie));
        }
        client.send_bytes(&bytes);
        wait_until("the device to be called", || {
            !device.take_calls().is_empty()
        });
        server.begin_stop();
        wait_until("the socket to go", || !server.socket().exists());
        let mut bytes = client.encode(
            4,
            0,
            RequestKind::Write {
                len: 512,
                fua: false,
            },
        );
        bytes.extend(pattern(512, 4));
        bytes.extend(client.encode(
            5,
            0,
            RequestKind::Read {
                len: 1,
                dont_fragment: false,
            },
        ));
        client.send_bytes(&bytes);
        std::thread::sleep(Duration::from_millis(50));
        assert!(
            !server.has_stopped(),
            "the server did not wait for its device"
        );
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
            assert_eq!(
                (chunk.cookie, chunk.errno()),
                (cookie, Some(Errno::Shutdown))
            );
        }
        client.expect_closed();
        server.stop();
        let written = |call: &Call| matches!(call, Call::Write { .. });
        assert_eq!(
            device
                .take_calls()
                .iter()
                .filter(|call| written(call))
                .count(),
            2
        );
    }
}

#[test]
fn a_write_that_is_half_way_may_be_finished() {
    let device = TestDevice::new(MIB);
    let mut server = TestServer::new(device.clone());
    let mut client = server.raw_client(Style::Simple);
    let mut bytes = client.encode(
        1,
        0,
        RequestKind::Write {
            len: 8192,
            fua: false,
        },
    );
    bytes.extend(pattern(4096, 1));
    client.send_bytes(&bytes);
    std::thread::sleep(Duration::from_millis(50));
    server.begin_stop();
    wait_until("the socket to go", || !server.socket().exists());
    client.send_bytes(&pattern(4096, 2));
    assert!(client.reply()[0].is_success());
    client.expect_closed();
    assert_eq!(
        device.take_calls(),
        [Call::Write {
            offset: 0,
            len: 8192
        }]
    );
}

#[test]
fn a_write_that_is_never_finished_is_not_waited_for() {
    let device = TestDevice::new(MIB);
    let limits = Limits {
        shutdown_grace: Duration::from_millis(100),
        ..Limits::default()
    };
    let mut server = TestServer::with_limits(device.clone(), limits);
    let mut client = server.raw_client(Style::Simple);
    let mut bytes = client.encode(
        1,
        0,
        RequestKind::Write {
            len: 8192,
            fua: false,
        },
    );
    bytes.extend(pattern(4096, 1));
    client.send_bytes(&bytes);
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    server.stop();
    assert!(begin.elapsed() < Duration::from_secs(5));
    client.expect_closed();
    assert_eq!(device.take_calls(), [], "half a write was done");
}

#[test]
fn a_client_that_does_not_read_its_replies_is_cut() {
    let limits = Limits {
        shutdown_grace: Duration::from_millis(50),
        shutdown_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let mut server = TestServer::with_limits(TestDevice::new(4 * MIB), limits);
    let mut client = server.raw_client(Style::Simple);
    for cookie in 1..=20 {
        client.send(
            cookie,
            0,
            RequestKind::Read {
                len: 4 << 20,
                dont_fragment: false,
            },
        );
    }
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    server.stop();
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn handshakes_are_refused_and_then_ended() {
    let limits = Limits {
        shutdown_grace: Duration::from_millis(300),
        ..Limits::default()
    };
    let mut server = TestServer::with_limits(TestDevice::new(MIB), limits);
    let polite = server.stream();
    let mut silent = server.stream();
    // The greetings are there: both are being served.
    let mut greeting = [0; 18];
    std::io::Read::read_exact(&mut silent, &mut greeting).unwrap();
    wait_until("both to be accepted", || {
        server.counters().counts().accepted == 2
    });
    server.begin_stop();
    wait_until("the socket to go", || !server.socket().exists());
    let error = Client::connect(polite, Style::Structured.options()).unwrap_err();
    let chain = format!("{error:?}").to_lowercase();
    assert!(chain.contains("shutdown"), "{chain}");
    let begin = Instant::now();
    server.stop();
    assert!(begin.elapsed() < Duration::from_secs(5));
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut silent, &mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn under_load_everything_answered_is_on_the_device() {
    let device = TestDevice::new(64 * MIB);
    let mut server = TestServer::new(device.clone());
    let writers: Vec<_> = (0..4_u64)
        .map(|index| {
            let mut client = server.client(Style::ALL[usize::try_from(index % 3).unwrap()]);
            std::thread::spawn(move || {
                let mut written = Vec::new();
                for round in 0.. {
                    let offset = index * 16 * MIB + (round % 4096) * 4096;
                    let data = pattern(4096, index << 32 | round);
                    if client.write_at(&data, offset, false).is_err() {
                        return written;
                    }
                    written.push((offset, data));
                }
                written
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    server.stop();
    for writer in writers {
        let written = writer.join().unwrap();
        assert!(!written.is_empty());
        let last: std::collections::HashMap<_, _> = written.into_iter().collect();
        for (offset, data) in last {
            let mut found = vec![0; data.len()];
            usnap_engine::device::BlockDevice::read_at(&device.memory, &mut found, offset).unwrap();
            assert!(found == data, "an answered write at {offset} is not there");
        }
    }
}
