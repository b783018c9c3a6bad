//! The client in transmission: the bytes of its requests, and replies that break the rules.

use usnap_nbd::proto::client::{
    BadReply, ClientNegotiated, Extent, LengthTooLong, ReplyKind, block_status_extents,
};
use usnap_nbd::proto::{Cookie, Errno, ReplyStyle, Request, RequestKind, TransmissionFlags};

use crate::support::wire::{self, Bytes};

fn session(reply_style: ReplyStyle) -> ClientNegotiated {
    ClientNegotiated {
        size_bytes: 1 << 40,
        flags: TransmissionFlags(!2),
        block_sizes: None,
        reply_style,
        contexts: vec![(1, "base:allocation".to_owned())],
        canonical_name: None,
        description: None,
    }
}

const READ: RequestKind = RequestKind::Read {
    len: 512,
    dont_fragment: false,
};
const STATUS: RequestKind = RequestKind::BlockStatus {
    len: 4096,
    req_one: false,
};
const WRITE: RequestKind = RequestKind::Write {
    len: 512,
    fua: false,
};

fn in_flight(kind: RequestKind) -> Request {
    Request {
        cookie: Cookie(9),
        offset: 0x1000,
        kind,
    }
}

/// A chunk that answers [`in_flight`], in that style.
fn chunk(style: ReplyStyle, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    let bytes = match style {
        ReplyStyle::Extended => {
            let bytes = Bytes::default()
                .u32(0x6e8a_278c)
                .u16(flags)
                .u16(kind)
                .u64(9);
            bytes.u64(0x1000).u64(u64::try_from(len).unwrap())
        }
        _ => {
            let bytes = Bytes::default()
                .u32(0x668e_33ef)
                .u16(flags)
                .u16(kind)
                .u64(9);
            bytes.u32(u32::try_from(len).unwrap())
        }
    };
    bytes.bytes(payload).0
}

fn decode(
    style: ReplyStyle,
    kind: RequestKind,
    bytes: &[u8],
) -> Result<Option<(ReplyKind, u32)>, BadReply> {
    let find = |cookie| (cookie == Cookie(9)).then(|| in_flight(kind));
    let decoded = session(style).decode_reply(bytes, find)?;
    Ok(decoded.map(|(chunk, used)| {
        assert_eq!(
            used + usize::try_from(chunk.payload_len).unwrap(),
            bytes.len()
        );
        (chunk.kind, chunk.payload_len)
    }))
}

const CHUNKED: [ReplyStyle; 2] = [ReplyStyle::Structured, ReplyStyle::Extended];

#[test]
fn a_reply_is_decoded_once_its_header_is_whole_and_not_before() {
    for style in CHUNKED {
        let data = chunk(
            style,
            1,
            1,
            &[&0x1000_u64.to_be_bytes()[..], &[7; 512]].concat(),
        );
        let header_len = if style == ReplyStyle::Extended {
            40
        } else {
            28
        };
        for len in 0..header_len {
            let find = |_| Some(in_flight(READ));
            assert_eq!(
                session(style).decode_reply(&data[..len], find),
                Ok(None),
                "{len} bytes"
            );
        }
        let expected = (ReplyKind::Data { offset: 0x1000 }, 512);
        assert_eq!(decode(style, READ, &data), Ok(Some(expected)));
    }
}

#[test]
fn a_simple_reply_has_the_length_its_request_gave() {
    let ok = Bytes::default().u32(0x6744_6698).u32(0).u64(9);
    let style = ReplyStyle::Simple;
    let with_data = ok.clone().bytes(&[0; 512]).0;
    assert_eq!(
        decode(style, READ, &with_data),
        Ok(Some((ReplyKind::Data { offset: 0x1000 }, 512)))
    );
    assert_eq!(decode(style, WRITE, &ok.0), Ok(Some((ReplyKind::Done, 0))));
    let failed = Bytes::default().u32(0x6744_6698).u32(77).u64(9).0;
    let error = ReplyKind::Error {
        errno: Errno::Inval,
        message_len: 0,
        has_offset: false,
    };
    assert_eq!(decode(style, READ, &failed), Ok(Some((error, 0))));
}

#[test]
fn a_simple_reply_to_a_read_or_a_block_status_is_refused_among_structured_ones() {
    let simple = |error| Bytes::default().u32(0x6744_6698).u32(error).u64(9).0;
    let style = ReplyStyle::Structured;
    assert!(decode(style, READ, &simple(0)).is_err());
    assert!(decode(style, READ, &simple(5)).is_err());
    assert!(decode(style, STATUS, &simple(0)).is_err());
    assert!(decode(style, STATUS, &simple(5)).is_ok());
    assert!(decode(style, WRITE, &simple(0)).is_ok());
    let expected = BadReply::Magic { found: 0x6744_6698 };
    assert_eq!(
        decode(ReplyStyle::Extended, WRITE, &simple(0)),
        Err(expected)
    );
}

#[test]
fn a_reply_nobody_waits_for_is_refused() {
    for style in CHUNKED {
        let it = session(style).decode_reply(&chunk(style, 1, 0, &[]), |_| None);
        assert_eq!(it, Err(BadReply::UnknownCookie { cookie: Cookie(9) }));
    }
    let simple = Bytes::default().u32(0x6744_6698).u32(0).u64(9).0;
    assert!(
        session(ReplyStyle::Simple)
            .decode_reply(&simple, |_| None)
            .is_err()
    );
}

#[test]
fn chunks_that_break_the_rules_are_refused() {
    let at = |offset: u64| offset.to_be_bytes().to_vec();
    let hole = |offset, len: u32| [at(offset), len.to_be_bytes().to_vec()].concat();
    let data = |offset, len| [at(offset), vec![0; len]].concat();
    let error = |code, len| Bytes::default().u32(code).u16(len).0;
    for style in CHUNKED {
        let own_status = if style == ReplyStyle::Extended { 6 } else { 5 };
        let foreign_status = 11 - own_status;
        let unit = if style == ReplyStyle::Extended { 16 } else { 8 };
        let cases = [
            // NONE with a payload, or not as the last.
            (READ, chunk(style, 1, 0, &[0])),
            (READ, chunk(style, 0, 0, &[])),
            // Data that is empty, missing, or outside of the request.
            (READ, chunk(style, 1, 1, &data(0x1000, 0))),
            (READ, chunk(style, 1, 1, &[0; 7])),
            (READ, chunk(style, 1, 1, &data(0xfff, 1))),
            (READ, chunk(style, 1, 1, &data(0x1000, 513))),
            (READ, chunk(style, 1, 1, &data(u64::MAX, 1))),
            // Holes likewise.
            (READ, chunk(style, 1, 2, &hole(0x1000, 0))),
            (READ, chunk(style, 1, 2, &hole(0x1000, 513))),
            (READ, chunk(style, 1, 2, &hole(u64::MAX, 1))),
            (READ, chunk(style, 1, 2, &data(0x1000, 5))),
            // Content for a request that has none; unknown types; the other style's status.
            (WRITE, chunk(style, 1, 1, &data(0x1000, 1))),
            (WRITE, chunk(style, 1, 2, &hole(0x1000, 1))),
            (READ, chunk(style, 1, own_status, &[0; 24])),
            (READ, chunk(style, 1, 77, &[])),
            (STATUS, chunk(style, 1, foreign_status, &[0; 24])),
            // Statuses without an extent, with half a one, with too many.
            (STATUS, chunk(style, 1, own_status, &vec![0; unit / 2])),
            (
                STATUS,
                chunk(style, 1, own_status, &vec![0; unit / 2 + unit + 1]),
            ),
            (
                STATUS,
                chunk(
                    style,
                    1,
                    own_status,
                    &vec![0; unit / 2 + unit * ((1 << 20) + 1)],
                ),
            ),
            // Errors that are none, or whose message does not fit.
            (READ, chunk(style, 1, 0x8001, &error(0, 0))),
            (READ, chunk(style, 1, 0x8001, &error(5, 1))),
            (READ, chunk(style, 1, 0x8001, &[0; 5])),
            (READ, chunk(style, 1, 0x8002, &error(5, 0))),
            (READ, chunk(style, 1, 0x8001, &[1; 10_000])),
        ];
        for (index, (kind, bytes)) in cases.iter().enumerate() {
            let find = |_| Some(in_flight(*kind));
            let it = session(style).decode_reply(bytes, find);
            assert!(it.is_err(), "{style:?}, case {index}: {it:?}");
        }
    }
}

#[test]
fn an_extended_reply_must_echo_the_offset() {
    let mut bytes = chunk(ReplyStyle::Extended, 1, 0, &[]);
    assert!(decode(ReplyStyle::Extended, WRITE, &bytes).is_ok());
    bytes[23] ^= 1;
    assert!(decode(ReplyStyle::Extended, WRITE, &bytes).is_err());
}

#[test]
fn errors_come_with_their_message_and_offset_and_unknown_ones_are_errors_too() {
    for style in CHUNKED {
        let payload = Bytes::default().u32(28).u16(4).bytes(b"full").u64(0x1010).0;
        let bytes = chunk(style, 1, 0x8002, &payload);
        let find = |_| Some(in_flight(WRITE));
        let (chunk_, used) = session(style).decode_reply(&bytes, find).unwrap().unwrap();
        let ReplyKind::Error {
            errno: Errno::NoSpc,
            ..
        } = chunk_.kind
        else {
            panic!("{chunk_:?}")
        };
        assert_eq!(
            chunk_.error_details(&bytes[used..]),
            (&b"full"[..], Some(0x1010))
        );

        let unknown = chunk(style, 1, 0x8077, &Bytes::default().u32(5).u16(0).u64(1).0);
        let Ok(Some((ReplyKind::Error { errno, .. }, 8))) = decode(style, WRITE, &unknown) else {
            panic!()
        };
        assert_eq!(errno, Errno::Io);
    }
}

#[test]
fn statuses_that_break_the_rules_are_refused() {
    let parse = |style, req_one, payload: Vec<u8>| {
        let kind = RequestKind::BlockStatus { len: 1000, req_one };
        block_status_extents(style, &in_flight(kind), &payload)
    };
    let structured = |extents: &[u32]| {
        extents
            .iter()
            .fold(Bytes::default().u32(1), |bytes, &len| bytes.u32(len).u32(3))
            .0
    };
    let extended = |count, extents: &[u64]| {
        let bytes = Bytes::default().u32(1).u32(count);
        extents
            .iter()
            .fold(bytes, |bytes, &len| bytes.u64(len).u64(3))
            .0
    };
    let style = ReplyStyle::Structured;
    let extent = |len| Extent { len, flags: 3 };
    assert_eq!(
        parse(style, false, structured(&[999, 5000])),
        Ok((1, vec![extent(999), extent(5000)]))
    );
    assert_eq!(
        parse(style, true, structured(&[1000])),
        Ok((1, vec![extent(1000)]))
    );
    assert!(
        parse(style, false, structured(&[1000, 1])).is_err(),
        "behind what was asked for"
    );
    assert!(parse(style, false, structured(&[0])).is_err());
    assert!(parse(style, false, structured(&[])).is_err());
    assert!(parse(style, true, structured(&[1001])).is_err());
    assert!(parse(style, true, structured(&[1, 1])).is_err());
    let style = ReplyStyle::Extended;
    assert_eq!(
        parse(style, false, extended(1, &[1 << 40])),
        Ok((1, vec![extent(1 << 40)]))
    );
    for (count, extents) in [(0, &[1_u64][..]), (2, &[1]), (u32::MAX, &[1]), (0, &[])] {
        assert!(
            parse(style, false, extended(count, extents)).is_err(),
            "{count} {extents:?}"
        );
    }
    assert!(parse(style, false, vec![0; 3]).is_err());
}

#[test]
fn requests_are_the_bytes_that_proto_md_says() {
    let encode = |style, kind| {
        let mut buf = [0; 32];
        let len = session(style)
            .encode_request(&mut buf, &in_flight(kind))
            .unwrap();
        buf[..len].to_vec()
    };
    let status = RequestKind::BlockStatus {
        len: 7,
        req_one: true,
    };
    let fua = RequestKind::Write { len: 7, fua: true };
    for (kind, flags, command) in [(status, 8, 7), (fua, 1, 1), (RequestKind::Disconnect, 0, 2)] {
        let len = u32::from(command != 2) * 7;
        let compact = wire::request(flags, command, 9, 0x1000, len);
        assert_eq!(encode(ReplyStyle::Structured, kind), compact);
        // "the flag MUST be set for `NBD_CMD_WRITE`"; it is for no other.
        let flags = if command == 1 { flags | 32 } else { flags };
        let extended = wire::extended(flags, command, 9, 0x1000, len.into());
        assert_eq!(encode(ReplyStyle::Extended, kind), extended);
    }
}

#[test]
fn a_length_beyond_32_bits_needs_extended_headers() {
    let kind = RequestKind::Trim {
        len: 1 << 32,
        fua: false,
    };
    let encode = |style| session(style).encode_request(&mut [0; 32], &in_flight(kind));
    assert_eq!(
        encode(ReplyStyle::Structured),
        Err(LengthTooLong { len: 1 << 32 })
    );
    assert_eq!(encode(ReplyStyle::Extended), Ok(32));
}

#[test]
fn what_was_not_advertised_is_not_supported() {
    let mut it = session(ReplyStyle::Structured);
    let zeroes = RequestKind::WriteZeroes {
        len: 1,
        fua: true,
        no_hole: true,
        fast_zero: true,
    };
    let kinds = [
        (
            RequestKind::Read {
                len: 1,
                dont_fragment: true,
            },
            7,
        ),
        (RequestKind::Write { len: 1, fua: true }, 3),
        (RequestKind::Flush, 2),
        (RequestKind::Trim { len: 1, fua: false }, 5),
        (RequestKind::Cache { len: 1 }, 10),
        (zeroes, 6),
        (zeroes, 11),
    ];
    for (kind, bit) in kinds {
        it.flags = TransmissionFlags(!2);
        assert!(it.supports(kind), "{kind:?}");
        it.flags = TransmissionFlags(!2 & !(1 << bit));
        assert!(!it.supports(kind), "{kind:?} without bit {bit}");
    }
    it.flags = TransmissionFlags(u16::MAX);
    assert!(!it.supports(WRITE), "read-only");
    assert!(it.supports(STATUS));
    it.contexts.clear();
    assert!(!it.supports(STATUS));
}
