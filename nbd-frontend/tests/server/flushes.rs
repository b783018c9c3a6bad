//! What is answered as durable was flushed before, and flushes are shared where they can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use usnap_engine::ErrorKind;
use usnap_nbd::proto::client::blocking::Zeroing;
use usnap_nbd::proto::{Errno, RequestKind};

use super::support::{Call, Style, TestDevice, TestServer, pattern};

const MIB: u64 = 1 << 20;

fn flushes(device: &TestDevice) -> usize {
    device
        .take_calls()
        .into_iter()
        .filter(|&call| call == Call::Flush)
        .count()
}

#[test]
fn each_durable_request_is_followed_by_a_flush_before_its_answer() {
    for style in Style::ALL {
        let device = TestDevice::new(4 * MIB);
        let server = TestServer::new(device.clone());
        let mut client = server.client(style);
        client.write_at(&pattern(4096, 1), 0, true).unwrap();
        assert_eq!(
            device.take_calls(),
            [
                Call::Write {
                    offset: 0,
                    len: 4096
                },
                Call::Flush
            ]
        );
        client.write_at(&pattern(3 << 20, 1), 0, true).unwrap();
        assert_eq!(device.take_calls().last(), Some(&Call::Flush));
        client.trim(0, 4096, true).unwrap();
        assert_eq!(
            device.take_calls(),
            [
                Call::Discard {
                    offset: 0,
                    len: 4096
                },
                Call::Flush
            ]
        );
        let how = Zeroing {
            fua: true,
            no_hole: false,
            fast_zero: false,
        };
        client.write_zeroes(0, 4096, how).unwrap();
        assert_eq!(device.take_calls().last(), Some(&Call::Flush));
        client.flush().unwrap();
        assert_eq!(device.take_calls(), [Call::Flush]);
    }
}

#[test]
fn what_does_not_ask_for_it_is_not_flushed() {
    let device = TestDevice::new(4 * MIB);
    let server = TestServer::new(device.clone());
    let mut client = server.client(Style::Extended);
    client.write_at(&pattern(4096, 1), 0, false).unwrap();
    client.trim(0, 4096, false).unwrap();
    client.read_at(&mut [0; 512], 0).unwrap();
    assert_eq!(flushes(&device), 0);
}

#[test]
fn durable_writes_that_come_together_share_a_flush() {
    let device = TestDevice::new(4 * MIB);
    let server = TestServer::new(device.clone());
    let mut client = server.raw_client(Style::Structured);
    let mut bytes = Vec::new();
    for cookie in 1..=20 {
        let write = RequestKind::Write {
            len: 512,
            fua: true,
        };
        bytes.extend(client.encode(cookie, cookie * 4096, write));
        bytes.extend(pattern(512, cookie));
    }
    bytes.extend(client.encode(21, 0, RequestKind::Flush));
    client.send_bytes(&bytes);
    for _ in 1..=21 {
        assert!(client.expect_chunk().is_success());
    }
    let calls = device.take_calls();
    let count = calls.iter().filter(|&&call| call == Call::Flush).count();
    // All in one send; the server may have received them in two.
    assert!(
        (1..=3).contains(&count),
        "{count} flushes for 21 requests in one send"
    );
    assert_eq!(
        calls.last(),
        Some(&Call::Flush),
        "a write behind the last flush was answered"
    );
}

#[test]
fn more_durable_writes_than_the_server_keeps_are_all_answered() {
    let device = TestDevice::new(4 * MIB);
    let server = TestServer::new(device.clone());
    let mut client = server.raw_client(Style::Simple);
    let mut bytes = Vec::new();
    for cookie in 1..=1000 {
        bytes.extend(client.encode(cookie, 0, RequestKind::Flush));
    }
    client.send_bytes(&bytes);
    for _ in 1..=1000 {
        assert!(client.expect_chunk().is_success());
    }
    let count = flushes(&device);
    assert!(
        (1000 / 128..100).contains(&count),
        "{count} flushes for 1000 requests"
    );
}

#[test]
fn a_flush_that_fails_is_told_to_everybody_who_waited_for_it() {
    for style in Style::ALL {
        let device = TestDevice::with_hook(MIB, |call| {
            (*call == Call::Flush).then_some(ErrorKind::NoSpace)
        });
        let server = TestServer::new(device);
        let mut client = server.raw_client(style);
        let mut bytes = client.encode(
            1,
            0,
            RequestKind::Write {
                len: 512,
                fua: true,
            },
        );
        bytes.extend(pattern(512, 1));
        bytes.extend(client.encode(2, 0, RequestKind::Flush));
        bytes.extend(client.encode(
            3,
            0,
            RequestKind::Trim {
                len: 512,
                fua: true,
            },
        ));
        bytes.extend(client.encode(
            4,
            0,
            RequestKind::Trim {
                len: 512,
                fua: false,
            },
        ));
        client.send_bytes(&bytes);
        let mut answers: Vec<_> = (1..=4)
            .map(|_| client.expect_chunk())
            .map(|chunk| (chunk.cookie, chunk.errno()))
            .collect();
        answers.sort_by_key(|&(cookie, _)| cookie);
        let full = Some(Errno::NoSpc);
        assert_eq!(
            answers,
            [(1, full), (2, full), (3, full), (4, None)],
            "{style:?}"
        );
    }
}

#[test]
fn a_durable_write_that_fails_is_not_flushed_into_a_success() {
    let device = TestDevice::with_hook(MIB, |call| {
        matches!(call, Call::Write { .. }).then_some(ErrorKind::Io)
    });
    let server = TestServer::new(device);
    let mut client = server.raw_client(Style::Structured);
    let mut bytes = client.encode(
        1,
        0,
        RequestKind::Write {
            len: 512,
            fua: true,
        },
    );
    bytes.extend(pattern(512, 1));
    client.send_bytes(&bytes);
    assert_eq!(client.reply()[0].errno(), Some(Errno::Io));
}

#[test]
fn a_client_that_waits_in_the_middle_of_a_write_gets_its_flush() {
    let device = TestDevice::new(MIB);
    let server = TestServer::new(device);
    let mut client = server.raw_client(Style::Simple);
    let mut bytes = client.encode(1, 0, RequestKind::Flush);
    bytes.extend(client.encode(
        2,
        0,
        RequestKind::Write {
            len: 512,
            fua: false,
        },
    ));
    bytes.extend([7; 100]);
    client.send_bytes(&bytes);
    assert_eq!(client.expect_chunk().cookie, 1);
    client.send_bytes(&[7; 412]);
    assert_eq!(client.expect_chunk().cookie, 2);
}

#[test]
fn a_flush_covers_what_another_connection_was_told_is_written() {
    let written = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&written);
    let device = TestDevice::with_hook(MIB, move |call| {
        match call {
            Call::Write { .. } => seen.store(true, Ordering::SeqCst),
            Call::Flush => assert!(seen.load(Ordering::SeqCst)),
            _ => {}
        }
        None
    });
    let server = TestServer::new(device);
    let (mut one, mut other) = (server.client(Style::Extended), server.client(Style::Simple));
    one.write_at(&pattern(512, 1), 0, false).unwrap();
    other.flush().unwrap();
    assert!(written.load(Ordering::SeqCst));
}
