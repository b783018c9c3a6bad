//! A request that fails is answered, says why, and leaves the connection in step; what can't be
//! answered ends that connection and no other.

use std::sync::atomic::{AtomicU64, Ordering};

use usnap_engine::ErrorKind;
use usnap_engine::device::BlockDevice;
use usnap_nbd::proto::client::ReplyKind;
use usnap_nbd::proto::{Errno, RequestKind};

use super::support::{Call, RawClient, Style, TestDevice, TestServer, pattern};

const MIB: u64 = 1 << 20;

/// Fails every call that touches the byte at `offset`.
fn broken_at(offset: u64, kind: ErrorKind) -> std::sync::Arc<TestDevice> {
    TestDevice::with_hook(16 * MIB, move |call| {
        let touched = match *call {
            Call::Read { offset, len }
            | Call::Write { offset, len }
            | Call::Discard { offset, len }
            | Call::Zero { offset, len, .. }
            | Call::Extent { offset, len } => offset..offset + len,
            Call::Flush => return None,
        };
        touched.contains(&offset).then_some(kind)
    })
}

fn read(len: u32) -> RequestKind {
    RequestKind::Read {
        len,
        dont_fragment: false,
    }
}

/// Asserts that the connection is still of use.
fn expect_in_step(client: &mut RawClient) {
    client.send(77, 15 * MIB, read(512));
    let reply = client.reply();
    assert_eq!((reply[0].cookie, reply[0].payload.len()), (77, 512));
}

#[test]
fn an_error_of_each_request_is_answered_and_the_connection_goes_on() {
    for style in Style::ALL {
        let server = TestServer::new(broken_at(5000, ErrorKind::Io));
        let mut client = server.raw_client(style);
        let zero = RequestKind::WriteZeroes {
            len: 8192,
            fua: false,
            no_hole: false,
            fast_zero: false,
        };
        let kinds = [
            read(8192),
            zero,
            RequestKind::Trim {
                len: 8192,
                fua: true,
            },
            RequestKind::Cache { len: 8192 },
        ];
        for (cookie, kind) in (1..).zip(kinds) {
            client.send(cookie, 0, kind);
            let reply = client.reply();
            assert_eq!(reply.len(), 1);
            assert_eq!(
                (reply[0].cookie, reply[0].errno()),
                (cookie, Some(Errno::Io)),
                "{kind:?}"
            );
            let told = String::from_utf8_lossy(&reply[0].payload).contains("the device failed");
            assert_eq!(told, style != Style::Simple, "{style:?}: {reply:?}");
        }
        if style != Style::Simple {
            client.send(
                9,
                0,
                RequestKind::BlockStatus {
                    len: 8192,
                    req_one: false,
                },
            );
            assert_eq!(client.reply()[0].errno(), Some(Errno::Io));
        }
        expect_in_step(&mut client);
        assert!(server.counters().counts().errors >= 4);
    }
}

#[test]
fn the_payload_of_a_write_that_fails_is_thrown_away_whatever_its_length() {
    for style in Style::ALL {
        let server = TestServer::new(broken_at(5000, ErrorKind::NoSpace));
        let mut client = server.raw_client(style);
        for len in [8192, 300 << 10, 9 << 20] {
            let mut bytes = client.encode(1, 0, RequestKind::Write { len, fua: false });
            bytes.extend(pattern(len as usize, 1));
            client.send_bytes(&bytes);
            assert_eq!(client.reply()[0].errno(), Some(Errno::NoSpc), "{len}");
            expect_in_step(&mut client);
        }
    }
}

#[test]
fn nothing_is_written_behind_the_piece_that_failed() {
    let device = broken_at(MIB + 1, ErrorKind::Io);
    let server = TestServer::new(device.clone());
    let mut client = server.client(Style::Simple);
    client.write_at(&pattern(5 << 20, 1), 0, true).unwrap_err();
    let expected = [
        Call::Write {
            offset: 0,
            len: MIB,
        },
        Call::Write {
            offset: MIB,
            len: MIB,
        },
    ];
    assert_eq!(device.take_calls(), expected);
}

#[test]
fn a_long_read_that_fails_half_way_keeps_what_came_before() {
    for style in [Style::Structured, Style::Extended] {
        let device = broken_at(2 * MIB + 1, ErrorKind::Io);
        let data = pattern(4 << 20, 9);
        device.memory.write_at(&data, 0).unwrap();
        let server = TestServer::new(device);
        let mut client = server.raw_client(style);
        client.send(1, 0, read(4 << 20));
        let reply = client.reply();
        assert_eq!(reply.len(), 3, "{reply:?}");
        assert!(reply[0].payload == data[..1 << 20] && reply[1].payload == data[1 << 20..2 << 20]);
        assert_eq!(reply[2].errno(), Some(Errno::Io));
        let offset = &reply[2].payload[reply[2].payload.len() - 8..];
        assert_eq!(offset, (2 * MIB).to_be_bytes(), "the error says where");
        expect_in_step(&mut client);
    }
}

#[test]
fn a_long_simple_read_that_fails_at_once_is_an_error() {
    let server = TestServer::new(broken_at(1, ErrorKind::Io));
    let mut client = server.raw_client(Style::Simple);
    client.send(1, 0, read(4 << 20));
    assert_eq!(client.reply()[0].errno(), Some(Errno::Io));
    expect_in_step(&mut client);
}

#[test]
fn a_simple_read_that_fails_behind_its_header_ends_the_connection_without_a_lie() {
    let server = TestServer::new(broken_at(2 * MIB + 1, ErrorKind::Io));
    let mut client = server.raw_client(Style::Simple);
    // A flush waits for its answer meanwhile; it must not end up between the data.
    let mut bytes = client.encode(1, 0, RequestKind::Flush);
    bytes.extend(client.encode(2, 0, read(4 << 20)));
    client.send_bytes(&bytes);
    let mut received = Vec::new();
    std::io::Read::read_to_end(&mut client.stream, &mut received).unwrap();
    let data = received.iter().filter(|&&byte| byte == 0).count();
    assert!(
        received.len() <= 2 * (1 << 20) + 32,
        "{} bytes",
        received.len()
    );
    assert!(
        received.len() - data < 32,
        "something other than the zeros of the device was sent"
    );
    expect_in_step(&mut server.raw_client(Style::Simple));
}

#[test]
fn every_kind_of_error_has_its_number() {
    for (kind, errno) in [
        (ErrorKind::Io, Errno::Io),
        (ErrorKind::NoSpace, Errno::NoSpc),
        (ErrorKind::ReadOnly, Errno::Perm),
        (ErrorKind::Latched, Errno::Io),
        (ErrorKind::OutOfRange, Errno::Inval),
        (ErrorKind::NotSupported, Errno::Io),
    ] {
        let server = TestServer::new(broken_at(0, kind));
        let mut client = server.raw_client(Style::Extended);
        let zero = |fast_zero| RequestKind::WriteZeroes {
            len: 1,
            fua: false,
            no_hole: false,
            fast_zero,
        };
        client.send(1, 0, zero(false));
        assert_eq!(client.reply()[0].errno(), Some(errno));
        client.send(2, 0, zero(true));
        let fast = if kind == ErrorKind::NotSupported {
            Errno::NotSup
        } else {
            errno
        };
        assert_eq!(
            client.reply()[0].errno(),
            Some(fast),
            "{kind:?} of a fast zero"
        );
    }
}

#[test]
fn a_header_that_makes_no_sense_ends_the_connection_after_what_was_before() {
    for style in Style::ALL {
        let server = TestServer::new(TestDevice::new(16 * MIB));
        let mut client = server.raw_client(style);
        let mut bytes = client.encode(1, 0, read(512));
        bytes.extend([0xff; 32]);
        client.send_bytes(&bytes);
        let reply = client.reply();
        assert!(matches!(reply[0].kind, ReplyKind::Data { .. }) && reply[0].payload.len() == 512);
        client.expect_closed();
        expect_in_step(&mut server.raw_client(style));
    }
}

#[test]
fn a_device_that_panics_ends_one_connection() {
    static PANICS: AtomicU64 = AtomicU64::new(0);
    let device = TestDevice::with_hook(16 * MIB, |call| {
        if matches!(call, Call::Read { offset: 666, .. }) {
            PANICS.fetch_add(1, Ordering::Relaxed);
            panic!("this panic belongs to a test");
        }
        None
    });
    let server = TestServer::new(device);
    let mut other = server.raw_client(Style::Structured);
    let mut client = server.raw_client(Style::Structured);
    server.wait_for_connected(2);
    client.send(1, 666, read(512));
    client.expect_closed();
    assert_eq!(PANICS.load(Ordering::Relaxed), 1);
    server.wait_for_connected(1);
    expect_in_step(&mut other);
    expect_in_step(&mut server.raw_client(Style::Simple));
}
