//! However a session's bytes are cut on their way, the answers are the same.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use usnap_nbd::proto::RequestKind;

use super::support::{Style, TestDevice, TestServer, pattern};

const MIB: u64 = 1 << 20;

/// Requests of every kind, the refused and the late ones included, ending with a disconnect.
fn session(client: &mut super::support::RawClient, with_status: bool) -> Vec<u8> {
    let zero = |fua| RequestKind::WriteZeroes {
        len: 4096,
        fua,
        no_hole: false,
        fast_zero: false,
    };
    let write = |len, fua| RequestKind::Write { len, fua };
    let read = |len| RequestKind::Read {
        len,
        dont_fragment: false,
    };
    let mut kinds = vec![
        (0, write(777, false)),
        (0, read(1000)),
        (4096, write(4096, true)),
        (MIB, write(512, false)),
        (MIB, read(512)),
        (0, zero(true)),
        (
            0,
            RequestKind::Trim {
                len: 100,
                fua: false,
            },
        ),
        (0, RequestKind::Flush),
        (0, RequestKind::Cache { len: 4096 }),
        (4000, read(5000)),
        (0, write(0, false)),
    ];
    if with_status {
        kinds.push((
            0,
            RequestKind::BlockStatus {
                len: 65536,
                req_one: false,
            },
        ));
    }
    kinds.push((0, RequestKind::Disconnect));
    let mut bytes = Vec::new();
    for (cookie, (offset, kind)) in (1..).zip(kinds) {
        bytes.extend(client.encode(cookie, offset, kind));
        if let RequestKind::Write { len, .. } = kind {
            bytes.extend(pattern(len as usize, cookie));
        }
    }
    bytes
}

/// What a fresh server answers to the session when it is sent in pieces of `len` bytes.
fn answers(style: Style, len: usize) -> Vec<Vec<u8>> {
    // The end of the device is in the session: a write there is refused, its payload with it.
    let server = TestServer::new(TestDevice::new(MIB));
    let mut client = server.raw_client(style);
    let bytes = session(&mut client, style != Style::Simple);
    for piece in bytes.chunks(len) {
        client.stream.write_all(piece).unwrap();
        if len < 100 {
            // Gives the server a chance to receive just this.
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = client.chunk() {
        chunks.push(format!("{chunk:?}").into_bytes());
    }
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    // Answers may overtake each other where a flush is waited for; each must be the same.
    chunks.sort();
    chunks
}

#[test]
fn the_answers_do_not_depend_on_how_the_requests_are_cut() {
    for style in Style::ALL {
        let whole = answers(style, usize::MAX);
        assert!(whole.len() >= 11);
        for len in [1, 2, 27, 28, 29, 1000] {
            assert_eq!(answers(style, len), whole, "{style:?} in pieces of {len}");
        }
    }
}
