//! Connections are counted, limited, timed and independent of each other.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use usnap_nbd::proto::client::blocking::Client;
use usnap_nbd::proto::{Errno, RequestKind};
use usnap_nbd::server::Limits;

use super::support::{Call, Style, TestDevice, TestServer, pattern};

const MIB: u64 = 1 << 20;

fn is_closed(stream: &mut std::os::unix::net::UnixStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok()
}

#[test]
fn one_connection_too_many_is_closed_at_once_and_a_slot_is_free_again_after_any_end() {
    let limits = Limits {
        max_connections: 3,
        ..Limits::default()
    };
    let server = TestServer::with_limits(TestDevice::new(MIB), limits);
    let in_handshake = server.stream();
    let idle = server.client(Style::Simple);
    let broken = server.raw_client(Style::Extended);
    server.wait_for_connected(2);
    assert!(Client::connect(server.stream(), Style::Simple.options()).is_err());
    assert_eq!(server.counters().counts().turned_away, 1);

    idle.disconnect().unwrap();
    drop(in_handshake);
    drop(broken);
    server.wait_for_connected(0);
    let mut clients = Vec::new();
    for _ in 0..3 {
        // The slot of the one that was in its handshake has no counter to wait for.
        let end = Instant::now() + Duration::from_secs(20);
        let client = loop {
            match Client::connect(server.stream(), Style::Simple.options()) {
                Ok(client) => break client,
                Err(error) => assert!(Instant::now() < end, "no slot is free: {error}"),
            }
        };
        clients.push(client);
    }
    server.wait_for_connected(3);
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = TestServer::with_limits(TestDevice::new(MIB), limits);
    let begin = Instant::now();
    let mut silent = server.stream();
    let mut slow = server.stream();
    // Says something now and then, and never comes to an end.
    slow.write_all(&3_u32.to_be_bytes()).unwrap();
    slow.write_all(b"IHAVEOPT").unwrap();
    assert!(is_closed(&mut silent) && is_closed(&mut slow));
    assert!(begin.elapsed() >= Duration::from_millis(200));
    // Whoever is through with it has all the time in the world.
    let mut client = server.client(Style::Structured);
    std::thread::sleep(Duration::from_millis(300));
    client.read_at(&mut [0; 512], 0).unwrap();
}

#[test]
fn a_client_that_vanishes_with_replies_in_flight_is_no_harm() {
    let device = TestDevice::new(16 * MIB);
    let server = TestServer::new(device);
    for style in Style::ALL {
        for _ in 0..10 {
            let mut client = server.raw_client(style);
            let mut bytes = Vec::new();
            for cookie in 1..=100 {
                let read = RequestKind::Read {
                    len: 1 << 20,
                    dont_fragment: false,
                };
                bytes.extend(client.encode(cookie, 0, read));
            }
            // The header and half of the payload of one that will never be whole.
            bytes.extend(client.encode(
                101,
                0,
                RequestKind::Write {
                    len: 8192,
                    fua: true,
                },
            ));
            bytes.extend(pattern(4096, 1));
            client.send_bytes(&bytes);
        }
    }
    server.wait_for_connected(0);
    server
        .client(Style::Structured)
        .read_at(&mut [0; 512], 0)
        .unwrap();
}

#[test]
fn sixty_four_clients_at_once_each_read_what_they_wrote() {
    let device = TestDevice::new(64 * MIB);
    let server = TestServer::new(device);
    std::thread::scope(|scope| {
        for index in 0..64_u64 {
            let server = &server;
            scope.spawn(move || {
                let style = Style::ALL[usize::try_from(index % 3).unwrap()];
                let mut client = server.client(style);
                for round in 0..20 {
                    let data = pattern(10_000, index * 100 + round);
                    let offset = index * MIB + round * 10_000;
                    client.write_at(&data, offset, round % 5 == 0).unwrap();
                    let mut read = vec![0; data.len()];
                    client.read_at(&mut read, offset).unwrap();
                    assert!(read == data, "client {index}, round {round}");
                }
                client.disconnect().unwrap();
            });
        }
    });
    server.wait_for_connected(0);
    assert_eq!(server.counters().counts().errors, 0);
}

#[test]
fn a_connection_that_waits_for_the_device_holds_up_no_other() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let device = TestDevice::with_hook(MIB, move |call| {
        if matches!(call, Call::Read { offset: 666, .. }) {
            // Ends when the test lets go.
            _ = held.lock().unwrap().recv();
        }
        None
    });
    let server = TestServer::new(device);
    let mut waiting = server.raw_client(Style::Simple);
    waiting.send(
        1,
        666,
        RequestKind::Read {
            len: 8,
            dont_fragment: false,
        },
    );
    let mut other = server.client(Style::Simple);
    other.read_at(&mut [0; 512], 0).unwrap();
    release.send(()).unwrap();
    assert!(waiting.reply()[0].is_success());
}

#[test]
fn an_export_that_is_not_there_is_refused_and_the_connection_stays_usable() {
    let server = TestServer::new(TestDevice::new(MIB));
    let mut options = Style::Extended.options();
    options.export_name = "other".to_owned();
    assert!(Client::connect(server.stream(), options.clone()).is_err());
    options.export_name = "disk".to_owned();
    let mut client = Client::connect(server.stream(), options).unwrap();
    assert_eq!(client.negotiated().size_bytes, MIB);
    let error = client.read_at(&mut [0; 1], MIB).unwrap_err();
    let usnap_nbd::proto::client::blocking::ClientError::Refused(refusal) = error else {
        panic!("{error}")
    };
    assert_eq!(refusal.errno, Errno::Inval);
}
