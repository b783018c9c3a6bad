//! Many requests in flight: against our server's half in every style, and against replies written
//! by hand, cut anywhere.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};

use usnap_nbd::proto::client::blocking::ClientError;
use usnap_nbd::proto::client::pipeline::Pipeline;
use usnap_nbd::proto::client::{ClientNegotiated, ClientOptions};
use usnap_nbd::proto::{Errno, Features, ReplyStyle, RequestKind, TransmissionFlags};

use crate::support::loopback::Loopback;
use crate::support::wire::Bytes;
use crate::support::{DISK_BYTES, Shelf};

const STYLES: [ReplyStyle; 3] = [
    ReplyStyle::Simple,
    ReplyStyle::Structured,
    ReplyStyle::Extended,
];
const BLOCK: u32 = 4096;

fn read(len: u32) -> RequestKind {
    RequestKind::Read {
        len,
        dont_fragment: false,
    }
}

fn write(len: u32) -> RequestKind {
    RequestKind::Write { len, fua: false }
}

/// Sends what is queued and receives until nothing is in flight; the contents by slot.
fn settle(pipeline: &mut Pipeline, stream: &mut Loopback) -> HashMap<usize, (u64, Vec<u8>)> {
    let mut ended = HashMap::new();
    while pipeline.in_flight() > 0 {
        while !pipeline.outgoing().is_empty() {
            let len = stream.write(pipeline.outgoing()).unwrap();
            pipeline.sent(len);
        }
        let len = stream.read(pipeline.room()).unwrap();
        assert!(len > 0, "the server has no more to say");
        pipeline
            .received(len, |end| {
                let data = end.result.unwrap().to_vec();
                let before = ended.insert(end.slot, (end.request.offset, data));
                assert!(before.is_none(), "ended twice");
            })
            .unwrap();
    }
    ended
}

#[test]
fn what_was_written_at_depth_is_read_at_depth() {
    for style in STYLES {
        for (piece, keeps) in [(usize::MAX, true), (7, true), (1, true), (13, false)] {
            let mut stream = Loopback::new(Shelf::default(), Features::default(), piece);
            let options = ClientOptions {
                structured: style == ReplyStyle::Structured,
                extended: style == ReplyStyle::Extended,
                ..ClientOptions::new("disk")
            };
            let mut pipeline = Pipeline::connect(&mut stream, options, 8, keeps).unwrap();
            assert_eq!(pipeline.negotiated().reply_style, style);
            for round in 0..3_u64 {
                let byte = |slot: u64| u8::try_from(round * 8 + slot + 1).unwrap();
                for at in 0..8_u64 {
                    let fill = |place: &mut [u8]| place.fill(byte(at));
                    let offset = at * u64::from(BLOCK);
                    pipeline.queue(offset, write(BLOCK), fill).unwrap();
                }
                assert!(!pipeline.has_room());
                let full = pipeline.queue(0, read(1), |_| {});
                assert!(matches!(full, Err(ClientError::NothingInFlight)));
                assert_eq!(settle(&mut pipeline, &mut stream).len(), 8);
                for at in 0..8_u64 {
                    let offset = at * u64::from(BLOCK);
                    pipeline.queue(offset, read(BLOCK), |_| {}).unwrap();
                }
                for (offset, data) in settle(&mut pipeline, &mut stream).into_values() {
                    let expected = if keeps {
                        vec![byte(offset / u64::from(BLOCK)); BLOCK as usize]
                    } else {
                        Vec::new()
                    };
                    assert_eq!(data, expected);
                }
            }
        }
    }
}

#[test]
fn a_request_that_the_server_refuses_ends_with_its_error() {
    for style in STYLES {
        let mut stream = Loopback::new(Shelf::default(), Features::default(), usize::MAX);
        let options = ClientOptions {
            structured: style == ReplyStyle::Structured,
            extended: style == ReplyStyle::Extended,
            ..ClientOptions::new("disk")
        };
        let mut pipeline = Pipeline::connect(&mut stream, options, 2, true).unwrap();
        pipeline.queue(DISK_BYTES, read(512), |_| {}).unwrap();
        stream.write_all(pipeline.outgoing()).unwrap();
        pipeline.sent(pipeline.outgoing().len());
        let len = stream.read(pipeline.room()).unwrap();
        let mut errors = Vec::new();
        let each = |end: usnap_nbd::proto::client::pipeline::Ended<'_>| {
            errors.push(end.result.map(drop).unwrap_err().errno);
        };
        pipeline.received(len, each).unwrap();
        assert_eq!(errors, [Errno::Inval]);
        assert_eq!(pipeline.in_flight(), 0);
    }
}

fn pipeline(style: ReplyStyle) -> Pipeline {
    let negotiated = ClientNegotiated {
        size_bytes: 1 << 20,
        flags: TransmissionFlags(!2),
        block_sizes: None,
        reply_style: style,
        contexts: Vec::new(),
        canonical_name: None,
        description: None,
    };
    Pipeline::new(negotiated, 4, true)
}

/// The cookie of the request that was queued last.
fn last_cookie(pipeline: &Pipeline, header_len: usize) -> u64 {
    let out = pipeline.outgoing();
    let header = &out[out.len() - header_len..];
    u64::from_be_bytes(header[8..16].try_into().unwrap())
}

fn simple(error: u32, cookie: u64) -> Vec<u8> {
    Bytes::default().u32(0x6744_6698).u32(error).u64(cookie).0
}

/// Feeds `bytes` in pieces of this size; how many requests ended.
fn feed(pipeline: &mut Pipeline, bytes: &[u8], piece: usize) -> Result<usize, ClientError> {
    let mut count = 0;
    for part in bytes.chunks(piece) {
        pipeline.room()[..part.len()].copy_from_slice(part);
        pipeline.received(part.len(), |_| count += 1)?;
    }
    Ok(count)
}

#[test]
fn replies_to_nothing_end_the_connection() {
    for piece in [1, 3, 1000] {
        let mut client = pipeline(ReplyStyle::Simple);
        assert!(feed(&mut client, &simple(0, 0), piece).is_err());

        let mut client = pipeline(ReplyStyle::Simple);
        client.queue(0, RequestKind::Flush, |_| {}).unwrap();
        let cookie = last_cookie(&client, 28);
        let twice = [simple(0, cookie), simple(0, cookie)].concat();
        assert!(feed(&mut client, &twice, piece).is_err(), "answered twice");

        // The slot is used again: the first cookie is still nobody's.
        let mut client = pipeline(ReplyStyle::Simple);
        client.queue(0, RequestKind::Flush, |_| {}).unwrap();
        let first = last_cookie(&client, 28);
        assert_eq!(feed(&mut client, &simple(0, first), piece).unwrap(), 1);
        client.queue(0, RequestKind::Flush, |_| {}).unwrap();
        assert_ne!(last_cookie(&client, 28), first);
        assert!(feed(&mut client, &simple(0, first), piece).is_err());

        let mut client = pipeline(ReplyStyle::Simple);
        client.queue(0, RequestKind::Flush, |_| {}).unwrap();
        let mut magic = simple(0, last_cookie(&client, 28));
        magic[0] ^= 1;
        assert!(feed(&mut client, &magic, piece).is_err());
    }
}

fn chunk(done: bool, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let bytes = Bytes::default().u32(0x668e_33ef).u16(done.into()).u16(kind);
    let len = u32::try_from(payload.len()).unwrap();
    bytes.u64(cookie).u32(len).bytes(payload).0
}

fn data(done: bool, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    chunk(done, 1, cookie, &Bytes::default().u64(offset).bytes(data).0)
}

#[test]
fn a_read_in_pieces_is_put_together_and_one_that_lacks_some_is_refused() {
    for piece in [1, 5, 1000] {
        let mut client = pipeline(ReplyStyle::Structured);
        client.queue(100, read(10), |_| {}).unwrap();
        let cookie = last_cookie(&client, 28);
        let hole = Bytes::default().u64(104).u32(3).0;
        let reply = [
            data(false, cookie, 107, b"end"),
            chunk(false, 2, cookie, &hole),
            data(true, cookie, 100, b"head"),
        ];
        let mut got: Vec<u8> = Vec::new();
        for part in reply.concat().chunks(piece) {
            client.room()[..part.len()].copy_from_slice(part);
            let each = |end: usnap_nbd::proto::client::pipeline::Ended<'_>| {
                got.extend(end.result.unwrap());
            };
            client.received(part.len(), each).unwrap();
        }
        assert_eq!(got, b"head\0\0\0end");

        for bad in [
            vec![data(true, cookie, 100, b"head")],
            vec![
                data(false, cookie, 100, b"head"),
                chunk(true, 0, cookie, &[]),
            ],
            vec![
                data(false, cookie, 100, b"head"),
                data(true, cookie, 103, b"tail..."),
            ],
            vec![chunk(true, 0, cookie, &[])],
            vec![simple(0, cookie)],
        ] {
            let mut client = pipeline(ReplyStyle::Structured);
            client.queue(100, read(10), |_| {}).unwrap();
            assert!(feed(&mut client, &bad.concat(), piece).is_err(), "{bad:?}");
        }
    }
}

#[test]
fn what_was_not_advertised_is_not_queued() {
    let mut client = pipeline(ReplyStyle::Structured);
    let status = RequestKind::BlockStatus {
        len: 512,
        req_one: false,
    };
    for kind in [status, RequestKind::Disconnect] {
        assert!(client.queue(0, kind, |_| {}).is_err());
    }
    assert_eq!((client.in_flight(), client.outgoing().len()), (0, 0));
}
