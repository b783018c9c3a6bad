//! Encoding and decoding undo each other, both ways, for requests, replies and block statuses.

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use usnap_nbd::proto::client::{ClientNegotiated, Extent, ReplyKind, block_status_extents};
use usnap_nbd::proto::{
    Cookie, Decoded, Errno, MAX_ERROR_REPLY, MAX_REPLY_HEADER, MetaContexts, Negotiated,
    ReplyStyle, Request, RequestKind, TransmissionFlags,
};

use crate::support::full;

const SIZE: u64 = 1 << 50;

fn server(style: ReplyStyle) -> Negotiated {
    Negotiated::new(full("disk", SIZE), style, MetaContexts::all(), true)
}

fn client(style: ReplyStyle) -> ClientNegotiated {
    ClientNegotiated {
        size_bytes: SIZE,
        flags: TransmissionFlags(u16::MAX),
        block_sizes: None,
        reply_style: style,
        contexts: vec![(1, "base:allocation".to_owned())],
        canonical_name: None,
        description: None,
    }
}

fn chunked() -> impl Strategy<Value = ReplyStyle> {
    prop_oneof![Just(ReplyStyle::Structured), Just(ReplyStyle::Extended)]
}

/// Requests that a server of everything takes, in that style.
fn request(style: ReplyStyle) -> impl Strategy<Value = Request> {
    let max = if style == ReplyStyle::Extended {
        SIZE / 2
    } else {
        u64::from(u32::MAX)
    };
    let len = move || prop_oneof![1..10_000_u64, 1..max, Just(max)];
    let payload = || prop_oneof![0..10_000_u32, 0..32_u32 << 20, Just(32_u32 << 20)];
    let flag = any::<bool>;
    let status =
        (len(), flag()).prop_map(|(len, req_one)| RequestKind::BlockStatus { len, req_one });
    let any_style = prop_oneof![
        (payload(), flag()).prop_map(move |(len, df)| RequestKind::Read {
            len,
            dont_fragment: df && style != ReplyStyle::Simple,
        }),
        (payload(), flag()).prop_map(|(len, fua)| RequestKind::Write { len, fua }),
        Just(RequestKind::Flush),
        (len(), flag()).prop_map(|(len, fua)| RequestKind::Trim { len, fua }),
        (len(), flag(), flag(), flag()).prop_map(|(len, fua, no_hole, fast_zero)| {
            RequestKind::WriteZeroes {
                len,
                fua,
                no_hole,
                fast_zero,
            }
        }),
        len().prop_map(|len| RequestKind::Cache { len }),
        Just(RequestKind::Disconnect),
    ];
    let kind = match style {
        ReplyStyle::Simple => any_style.boxed(),
        _ => prop_oneof![any_style, status].boxed(),
    };
    (any::<u64>(), 0..SIZE / 2, kind).prop_map(|(cookie, offset, kind)| {
        let offset = match kind {
            RequestKind::Flush | RequestKind::Disconnect => 0,
            _ => offset,
        };
        Request {
            cookie: Cookie(cookie),
            offset,
            kind,
        }
    })
}

fn any_request() -> impl Strategy<Value = (ReplyStyle, Request)> {
    prop_oneof![
        Just(ReplyStyle::Simple),
        Just(ReplyStyle::Structured),
        Just(ReplyStyle::Extended)
    ]
    .prop_flat_map(|style| (Just(style), request(style)))
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_request_that_was_encoded_decodes_to_itself((style, request) in any_request()) {
        let mut buf = [0; 32];
        let len = client(style).encode_request(&mut buf, &request).unwrap();
        let it = server(style);
        assert_eq!(len, it.header_len());
        assert_eq!(it.decode_request(&buf[..len]), Ok(Decoded::Request(request)));
    }

    #[test]
    fn a_header_that_is_taken_encodes_to_itself(
        (style, request) in any_request(),
        at in 4..32_usize,
        bits in any::<u8>(),
    ) {
        let mut buf = [0; 32];
        let it = client(style);
        let len = it.encode_request(&mut buf, &request).unwrap();
        // Any byte but the magic's may become any other; what is still valid comes back unchanged.
        buf[at.min(len - 1)] ^= bits;
        if let Ok(Decoded::Request(changed)) = server(style).decode_request(&buf[..len]) {
            let mut again = [0; 32];
            assert_eq!(it.encode_request(&mut again, &changed), Ok(len));
            let lossless = !ignores_fields(&changed, &buf);
            if lossless {
                assert_eq!(again, buf);
            }
        }
    }

    #[test]
    fn content_and_ends_come_back_as_they_were_sent(
        style in chunked(),
        cookie in any::<u64>(),
        offset in 0..SIZE,
        lead in 0..1000_u32,
        len in 1..1_000_000_u32,
        last in any::<bool>(),
    ) {
        let cookie = Cookie(cookie);
        let kind = RequestKind::Read { len: lead + len, dont_fragment: false };
        let request = Request { cookie, offset, kind };
        let find = |asked| (asked == cookie).then_some(request);
        let at = offset + u64::from(lead);
        let replies = server(style).replies();
        let it = client(style);
        let mut buf = [0; MAX_REPLY_HEADER];
        let used = replies.read_data_header(&mut buf, (cookie, offset), at, len, last);
        let (chunk, taken) = it.decode_reply(&buf[..used], find).unwrap().unwrap();
        assert_eq!((taken, chunk.payload_len, chunk.done), (used, len, last));
        assert_eq!(chunk.kind, ReplyKind::Data { offset: at });
        let used = replies.read_hole(&mut buf, (cookie, offset), at, len, last);
        let (chunk, taken) = it.decode_reply(&buf[..used], find).unwrap().unwrap();
        assert_eq!((taken, chunk.payload_len, chunk.done), (used, 0, last));
        assert_eq!(chunk.kind, ReplyKind::Hole { offset: at, len });
        let used = replies.done(&mut buf, cookie, offset);
        let (chunk, taken) = it.decode_reply(&buf[..used], find).unwrap().unwrap();
        assert_eq!((taken, chunk.payload_len, chunk.done), (used, 0, true));
        assert_eq!(chunk.kind, ReplyKind::Done);
    }

    #[test]
    fn errors_come_back_as_they_were_sent(
        style in chunked(),
        errno in 0..8_usize,
        message in ".{0,100}",
        at in proptest::option::of(any::<u64>()),
    ) {
        let errno = Errno::ALL[errno];
        let kind = RequestKind::Flush;
        let request = Request { cookie: Cookie(1), offset: 0, kind };
        let replies = server(style).replies();
        let mut buf = [0; MAX_ERROR_REPLY];
        let used = match at {
            None => replies.error(&mut buf, request.cookie, 0, errno, &message),
            Some(at) => replies.error_at(&mut buf, request.cookie, 0, errno, &message, at),
        };
        let decoded = client(style).decode_reply(&buf[..used], |_| Some(request));
        let (chunk, taken) = decoded.unwrap().unwrap();
        let ReplyKind::Error { errno: received, .. } = chunk.kind else { panic!("{chunk:?}") };
        assert_eq!(received, errno);
        let (text, offset) = chunk.error_details(&buf[taken..used]);
        assert!(message.as_bytes().starts_with(text));
        assert!(std::str::from_utf8(text).is_ok());
        assert_eq!(offset, at);
        assert_eq!(usize::try_from(chunk.payload_len).unwrap(), used - taken);
    }

    #[test]
    fn a_block_status_keeps_the_rules_and_the_flags_whatever_is_pushed(
        style in chunked(),
        asked in prop_oneof![1..5000_u64, 1..u64::from(u32::MAX), Just(u64::from(u32::MAX))],
        req_one in any::<bool>(),
        pushed in vec((prop_oneof![0..600_u64, any::<u64>()], 0..4_u64), 0..30),
    ) {
        let kind = RequestKind::BlockStatus { len: asked, req_one };
        let request = Request { cookie: Cookie(1), offset: 512, kind };
        let mut out = Vec::new();
        let mut reply =
            server(style).replies().block_status(&mut out, request.cookie, 512, asked, req_one);
        reply.begin(1);
        for &(len, flags) in &pushed {
            // Also when it is not wanted any more: that must not hurt.
            reply.push(len, flags);
        }
        reply.finish(true);
        let (chunk, used) =
            client(style).decode_reply(&out, |_| Some(request)).unwrap().unwrap();
        assert_eq!((chunk.kind, chunk.done), (ReplyKind::BlockStatus, true));
        // The client's side refuses all that proto.md forbids.
        let (id, extents) = block_status_extents(style, &request, &out[used..]).unwrap();
        assert_eq!(id, 1);
        assert!(extents.windows(2).all(|pair| pair[0].flags != pair[1].flags));
        let covered: u64 = extents.iter().map(|extent| extent.len).sum();
        assert!(covered <= asked);
        assert_eq!(flatten(&extents), flatten(&model(&pushed, asked, covered)));
    }
}

/// Flushes and disconnects have no length or offset of their own, and FUA is dropped from commands
/// that do not write.
fn ignores_fields(request: &Request, header: &[u8; 32]) -> bool {
    let fua = header[5] & 1 != 0;
    match request.kind {
        RequestKind::Disconnect => true,
        RequestKind::Read { .. }
        | RequestKind::Flush
        | RequestKind::Cache { .. }
        | RequestKind::BlockStatus { .. } => fua,
        _ => false,
    }
}

/// The first `covered` bytes of what was pushed; all zeroes if that was nothing.
fn model(pushed: &[(u64, u64)], asked: u64, covered: u64) -> Vec<Extent> {
    let mut left = covered;
    let mut extents = Vec::new();
    for &(len, flags) in pushed {
        let len = len.min(left);
        extents.push(Extent { len, flags });
        left -= len;
    }
    if pushed.iter().all(|&(len, _)| len == 0) {
        extents.push(Extent {
            len: asked,
            flags: 0,
        });
    }
    extents
}

/// Where the flags change, and to what.
fn flatten(extents: &[Extent]) -> Vec<(u64, u64)> {
    let mut end = 0;
    let mut changes: Vec<(u64, u64)> = Vec::new();
    for extent in extents.iter().filter(|extent| extent.len > 0) {
        end += extent.len;
        match changes.last_mut() {
            Some(last) if last.1 == extent.flags => last.0 = end,
            _ => changes.push((end, extent.flags)),
        }
    }
    changes
}
