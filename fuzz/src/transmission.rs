//! The transmission phase: request headers as they come, judged by the server; for each the replies
//! a server may send, read back by the client; and a server's bytes as they come for the client.

use usnap_nbd::proto::client::{
    BadReply, ClientNegotiated, ReplyChunk, ReplyKind, block_status_extents,
};
use usnap_nbd::proto::consts::{EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC};
use usnap_nbd::proto::{
    Cookie, Decoded, ExportInfo, Fatal, MAX_DRAIN_BYTES, MAX_ERROR_REPLY, MAX_REPLY_HEADER,
    MetaContexts, Negotiated, Refused, ReplyStyle, Request, RequestKind,
};

use crate::input::Input;

fn negotiated(input: &mut Input<'_>) -> Negotiated {
    let size_bytes = match input.u8() % 4 {
        0 => u64::from(input.u16()),
        1 => 1 << 20,
        2 => input.u64(),
        _ => (1 << 40) + 1,
    };
    let can = input.u16();
    let bit = |n: u32| can >> n & 1 == 1;
    let export = ExportInfo {
        read_only: bit(0),
        can_flush: bit(1),
        can_fua: bit(2),
        can_trim: bit(3),
        can_write_zeroes: bit(4),
        can_fast_zero: bit(5),
        can_cache: bit(6),
        min_block_bytes: 1 << (can >> 8 & 15),
        max_payload_bytes: input.u32(),
        ..ExportInfo::new("disk", size_bytes)
    };
    let reply_style = match input.u8() % 3 {
        0 => ReplyStyle::Simple,
        1 => ReplyStyle::Structured,
        _ => ReplyStyle::Extended,
    };
    let contexts = if input.flag() {
        MetaContexts::all()
    } else {
        MetaContexts::NONE
    };
    Negotiated::new(export, reply_style, contexts, input.flag())
}

fn client_of(negotiated: &Negotiated) -> ClientNegotiated {
    let contexts = negotiated.contexts.iter();
    ClientNegotiated {
        size_bytes: negotiated.export.size_bytes,
        flags: negotiated.transmission_flags(),
        block_sizes: Some(negotiated.export.block_sizes()),
        reply_style: negotiated.reply_style,
        contexts: contexts.map(|(id, _)| (id, id.to_string())).collect(),
        canonical_name: None,
        description: None,
    }
}

/// A header: mostly one that means something, so that what comes behind the magic is reached.
fn header(input: &mut Input<'_>, negotiated: &Negotiated) -> Vec<u8> {
    let len = negotiated.header_len();
    let shape = input.u8();
    let mut header = input.bytes(len).to_vec();
    header.resize(len, 0);
    if shape & 1 == 0 {
        let magic = match negotiated.reply_style {
            ReplyStyle::Extended => EXTENDED_REQUEST_MAGIC,
            ReplyStyle::Simple | ReplyStyle::Structured => REQUEST_MAGIC,
        };
        header[..4].copy_from_slice(&magic.to_be_bytes());
    }
    if shape & 2 == 0 {
        (header[6], header[7]) = (0, header[7] % 10);
    }
    if shape & 4 == 0 {
        (header[4], header[5]) = (0, header[5] & 0x1f);
    }
    if shape & 8 == 0 {
        // Near the beginning, and short.
        header[16..22].fill(0);
        header[24..len - 2].fill(0);
    }
    header
}

/// A request that was accepted is one that the export can serve.
fn assert_valid(negotiated: &Negotiated, request: &Request) {
    let export = &negotiated.export;
    let len = request.kind.effect_len();
    let end = request.offset.checked_add(len);
    let flush = matches!(request.kind, RequestKind::Flush | RequestKind::Disconnect);
    assert!(
        flush || end.is_some_and(|end| end <= export.size_bytes),
        "{request:?}"
    );
    let payload_max = negotiated.accepted_payload_bytes();
    match request.kind {
        RequestKind::Read { len, dont_fragment } => {
            assert!(len <= payload_max);
            assert!(!dont_fragment || negotiated.reply_style.has_chunks());
        }
        RequestKind::Write { len, fua } => {
            assert!(len <= payload_max && !export.read_only);
            assert!(!fua || export.can_fua);
            assert!(request.payload_len() == len);
        }
        RequestKind::Flush => assert!(export.can_flush),
        RequestKind::Trim { .. } => assert!(export.can_trim && !export.read_only),
        RequestKind::WriteZeroes { fast_zero, .. } => {
            assert!(export.can_write_zeroes && !export.read_only);
            assert!(!fast_zero || export.can_fast_zero);
        }
        RequestKind::Cache { .. } => assert!(export.can_cache),
        RequestKind::BlockStatus { len, .. } => {
            assert!(len > 0 && !negotiated.contexts.is_empty());
        }
        RequestKind::Disconnect => {}
    }
}

/// Reads one reply header, which must be there whole, and not before it is.
fn read_back(client: &ClientNegotiated, bytes: &[u8], request: Request) -> (ReplyChunk, usize) {
    let in_flight = |cookie: Cookie| (cookie == request.cookie).then_some(request);
    let whole = client.decode_reply(bytes, in_flight);
    let (chunk, used) = whole.expect("our own reply").expect("all of it");
    assert!(used <= bytes.len());
    for have in 0..used {
        let part = client.decode_reply(&bytes[..have], in_flight);
        assert!(part == Ok(None), "{have} of {used} bytes: {part:?}");
    }
    assert!(chunk.request == request);
    (chunk, used)
}

/// The replies that a server may send to this request.
fn answer(negotiated: &Negotiated, client: &ClientNegotiated, request: Request, how: u8) {
    let replies = negotiated.replies();
    let (cookie, offset) = (request.cookie, request.offset);
    let mut buf = [0; MAX_REPLY_HEADER];
    match request.kind {
        RequestKind::Disconnect => {}
        RequestKind::Read { len, .. } if len > 0 => {
            let chunks = negotiated.reply_style.has_chunks();
            let at_most = negotiated.max_chunk_bytes();
            let len = if chunks { len.min(at_most) } else { len };
            let used = replies.read_data_header(&mut buf, (cookie, offset), offset, len, true);
            let (chunk, all) = read_back(client, &buf[..used], request);
            assert!(all == used && chunk.done && chunk.payload_len == len);
            assert!(chunk.kind == ReplyKind::Data { offset });
            let used = replies.read_hole(&mut buf, (cookie, offset), offset, len, false);
            assert!((used > 0) == chunks);
            if chunks {
                let (chunk, _) = read_back(client, &buf[..used], request);
                assert!(!chunk.done && chunk.kind == ReplyKind::Hole { offset, len });
            }
        }
        RequestKind::BlockStatus { len, req_one } => {
            block_status(negotiated, client, request, (len, req_one), how);
        }
        _ => {
            let used = replies.done(&mut buf, cookie, offset);
            let (chunk, _) = read_back(client, &buf[..used], request);
            assert!(chunk.done && chunk.kind == ReplyKind::Done && chunk.payload_len == 0);
        }
    }
}

fn block_status(
    negotiated: &Negotiated,
    client: &ClientNegotiated,
    request: Request,
    (len, req_one): (u64, bool),
    how: u8,
) {
    let mut out = Vec::new();
    let replies = negotiated.replies();
    let mut reply = replies.block_status(&mut out, request.cookie, request.offset, len, req_one);
    let ids: Vec<u32> = negotiated.contexts.iter().map(|(id, _)| id).collect();
    for (i, id) in (1..).zip(&ids) {
        reply.begin(*id);
        let mut n = u64::from(how);
        while reply.push(n * 1000 % (len / 3 + 2), n / 2 % 4) {
            n += 1;
            if n > 300 {
                break;
            }
        }
        reply.finish(i == ids.len());
    }
    let mut rest = &out[..];
    for id in ids {
        let (chunk, used) = read_back(client, rest, request);
        assert!(chunk.kind == ReplyKind::BlockStatus);
        let end = used + chunk.payload_len as usize;
        let style = negotiated.reply_style;
        let (found, extents) =
            block_status_extents(style, &request, &rest[used..end]).expect("ours");
        assert!(found == id && !extents.is_empty());
        assert!(!req_one || extents.len() == 1);
        let covered: u64 = extents.iter().map(|extent| extent.len).sum();
        assert!(covered <= len, "{covered} of {len}");
        rest = &rest[end..];
    }
    assert!(rest.is_empty());
}

/// A refusal is one error reply, which the client reads as that error.
fn refuse(negotiated: &Negotiated, client: &ClientNegotiated, refused: &Refused) {
    assert!(refused.payload_len <= MAX_DRAIN_BYTES.max(negotiated.accepted_payload_bytes().into()));
    let mut buf = [0; MAX_ERROR_REPLY];
    let replies = negotiated.replies();
    let Refused {
        cookie,
        offset,
        errno,
        message,
        ..
    } = *refused;
    let used = replies.error(&mut buf, cookie, offset, errno, message);
    let request = Request {
        cookie,
        offset,
        kind: RequestKind::Flush,
    };
    let (chunk, used_by_header) = read_back(client, &buf[..used], request);
    let ReplyKind::Error { errno: found, .. } = chunk.kind else {
        panic!("{chunk:?} is no error");
    };
    assert!(found == errno && chunk.done);
    let payload = &buf[used_by_header..used];
    assert!(payload.len() == chunk.payload_len as usize);
    if negotiated.reply_style.has_chunks() {
        assert!(chunk.error_details(payload).0 == message.as_bytes());
    }
}

/// A server's bytes: whatever they are, the client judges them without harm.
fn hostile_server(client: &ClientNegotiated, request: Request, bytes: &[u8]) -> &'static str {
    match client.decode_reply(bytes, |_| Some(request)) {
        Ok(None) => "client wants more",
        Ok(Some((chunk, used))) => {
            assert!(used <= bytes.len());
            let limit = request.kind.effect_len().max(32 << 20);
            assert!(u64::from(chunk.payload_len) <= limit, "{chunk:?}");
            let payload = &bytes[used..];
            let payload = &payload[..payload.len().min(chunk.payload_len as usize)];
            let _text_and_offset = chunk.error_details(payload);
            let _extents = block_status_extents(client.reply_style, &request, payload);
            "client reads"
        }
        Err(BadReply::UnknownCookie { .. }) => panic!("any cookie is known"),
        Err(_) => "client drops",
    }
}

/// Plays a session.
///
/// # Panics
/// Where a request is taken that the export can't serve, or a reply is not read as it was meant.
pub fn nbd_transmission(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let negotiated = negotiated(&mut input);
    let client = client_of(&negotiated);
    let mut reached = "nothing";
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let how = input.u8();
        let header = header(&mut input, &negotiated);
        match negotiated.decode_request(&header) {
            Ok(Decoded::Request(request)) => {
                assert_valid(&negotiated, &request);
                answer(&negotiated, &client, request, how);
                encode_again(&negotiated, &client, request);
                reached = if how >= 128 {
                    let bytes = input.bytes(how.into());
                    hostile_server(&client, request, bytes)
                } else {
                    "server takes"
                };
            }
            Ok(Decoded::Refused(refused)) => {
                refuse(&negotiated, &client, &refused);
                reached = "server refuses";
            }
            Err(Fatal::HeaderLength { .. }) => panic!("it was as long as it should be"),
            Err(_) => return "server drops",
        }
    }
    reached
}

/// What the client would send for this request is taken for the same one.
fn encode_again(negotiated: &Negotiated, client: &ClientNegotiated, request: Request) {
    assert!(
        client.supports(request.kind),
        "taken, and not advertised: {request:?}"
    );
    let mut buf = [0; 32];
    let len = client
        .encode_request(&mut buf, &request)
        .expect("it came in such a header");
    assert!(len == negotiated.header_len());
    let decoded = negotiated.decode_request(&buf[..len]);
    assert!(
        decoded == Ok(Decoded::Request(request)),
        "{request:?} became {decoded:?}"
    );
}
