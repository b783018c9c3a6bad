//! Rules of replies (proto.md, "Simple reply message", "Structured reply chunk message", "Extended
//! reply chunk message"): the bytes of each, in each style.

use usnap_nbd::proto::{
    Cookie, Errno, MAX_ERROR_MESSAGE_BYTES, MAX_ERROR_REPLY, MAX_REPLY_HEADER, Replies, ReplyStyle,
};

use crate::support::wire::{Bytes, Reply, replies, u16_at, u32_at};

const COOKIE: u64 = 0xfeed_0000_dead_beef;
const TAG: (Cookie, u64) = (Cookie(COOKIE), 0x1000);
const CHUNKED: [ReplyStyle; 2] = [ReplyStyle::Structured, ReplyStyle::Extended];

fn header(write: impl FnOnce(&mut [u8; MAX_REPLY_HEADER]) -> usize) -> Vec<u8> {
    let mut buf = [0xaa; MAX_REPLY_HEADER];
    let len = write(&mut buf);
    assert!(
        buf[len..].iter().all(|&byte| byte == 0xaa),
        "nothing behind what it said"
    );
    buf[..len].to_vec()
}

fn error(write: impl FnOnce(&mut [u8; MAX_ERROR_REPLY]) -> usize) -> Vec<u8> {
    let mut buf = [0xaa; MAX_ERROR_REPLY];
    let len = write(&mut buf);
    buf[..len].to_vec()
}

#[test]
fn a_simple_reply_is_magic_error_and_cookie() {
    let it = Replies::new(ReplyStyle::Simple);
    let ok = Bytes::default().u32(0x6744_6698).u32(0).u64(COOKIE).0;
    assert_eq!(header(|buf| it.done(buf, TAG.0, TAG.1)), ok);
    assert_eq!(
        header(|buf| it.read_data_header(buf, TAG, TAG.1, 512, true)),
        ok
    );
    let failed = Bytes::default().u32(0x6744_6698).u32(28).u64(COOKIE).0;
    assert_eq!(
        error(|buf| it.error(buf, TAG.0, TAG.1, Errno::NoSpc, "full")),
        failed
    );
    assert_eq!(
        error(|buf| it.error_at(buf, TAG.0, TAG.1, Errno::NoSpc, "full", 9)),
        failed
    );
}

#[test]
fn there_are_no_holes_among_simple_replies() {
    let it = Replies::new(ReplyStyle::Simple);
    assert_eq!(header(|buf| it.read_hole(buf, TAG, TAG.1, 512, true)), []);
}

#[test]
fn structured_chunks_have_20_byte_headers() {
    let it = Replies::new(ReplyStyle::Structured);
    let chunk = |flags, kind, len| {
        Bytes::default()
            .u32(0x668e_33ef)
            .u16(flags)
            .u16(kind)
            .u64(COOKIE)
            .u32(len)
    };
    assert_eq!(header(|buf| it.done(buf, TAG.0, TAG.1)), chunk(1, 0, 0).0);
    let data = header(|buf| it.read_data_header(buf, TAG, 0x1200, 512, false));
    assert_eq!(data, chunk(0, 1, 520).u64(0x1200).0);
    let last = header(|buf| it.read_data_header(buf, TAG, 0x1200, 512, true));
    assert_eq!(last, chunk(1, 1, 520).u64(0x1200).0);
    let hole = header(|buf| it.read_hole(buf, TAG, 0x1400, 4096, true));
    assert_eq!(hole, chunk(1, 2, 12).u64(0x1400).u32(4096).0);
    let failed = error(|buf| it.error(buf, TAG.0, TAG.1, Errno::Io, "bad"));
    assert_eq!(failed, chunk(1, 0x8001, 9).u32(5).u16(3).bytes(b"bad").0);
    let failed = error(|buf| it.error_at(buf, TAG.0, TAG.1, Errno::Io, "bad", 0x1234));
    assert_eq!(
        failed,
        chunk(1, 0x8002, 17)
            .u32(5)
            .u16(3)
            .bytes(b"bad")
            .u64(0x1234)
            .0
    );
}

// Rule 24.

#[test]
fn extended_chunks_have_32_byte_headers_and_echo_the_offset_of_the_request() {
    let it = Replies::new(ReplyStyle::Extended);
    let chunk = |flags, kind, len| {
        let bytes = Bytes::default()
            .u32(0x6e8a_278c)
            .u16(flags)
            .u16(kind)
            .u64(COOKIE);
        bytes.u64(TAG.1).u64(len)
    };
    assert_eq!(header(|buf| it.done(buf, TAG.0, TAG.1)), chunk(1, 0, 0).0);
    let data = header(|buf| it.read_data_header(buf, TAG, 0x1200, 512, false));
    assert_eq!(data, chunk(0, 1, 520).u64(0x1200).0);
    let hole = header(|buf| it.read_hole(buf, TAG, 0x1400, 4096, true));
    assert_eq!(hole, chunk(1, 2, 12).u64(0x1400).u32(4096).0);
    let failed = error(|buf| it.error(buf, TAG.0, TAG.1, Errno::Io, "bad"));
    assert_eq!(failed, chunk(1, 0x8001, 9).u32(5).u16(3).bytes(b"bad").0);
    let failed = error(|buf| it.error_at(buf, TAG.0, TAG.1, Errno::Io, "bad", 0x1234));
    assert_eq!(
        failed,
        chunk(1, 0x8002, 17)
            .u32(5)
            .u16(3)
            .bytes(b"bad")
            .u64(0x1234)
            .0
    );
}

// Rule 9.

#[test]
fn once_chunks_were_negotiated_no_reply_is_a_simple_one() {
    for style in CHUNKED {
        let it = Replies::new(style);
        let all = [
            header(|buf| it.done(buf, TAG.0, TAG.1)),
            header(|buf| it.read_hole(buf, TAG, TAG.1, 1, true)),
            error(|buf| it.error(buf, TAG.0, TAG.1, Errno::Inval, "early")),
            error(|buf| it.error_at(buf, TAG.0, TAG.1, Errno::Io, "late", TAG.1)),
        ];
        for reply in replies(&all.concat()) {
            assert!(
                matches!(reply, Reply::Chunk { cookie: COOKIE, .. }),
                "{reply:x?}"
            );
        }
    }
}

// Rule 21.

#[test]
fn an_error_after_data_was_announced_follows_it_with_its_offset() {
    for style in CHUNKED {
        let it = Replies::new(style);
        let mut sent = header(|buf| it.read_data_header(buf, TAG, TAG.1, 8, false));
        // 3 bytes were sent before the device failed: the rest is padded with zeroes.
        sent.extend(b"abc\0\0\0\0\0");
        sent.extend(error(|buf| {
            it.error_at(buf, TAG.0, TAG.1, Errno::Io, "", TAG.1 + 3)
        }));
        let chunks = replies(&sent);
        assert_eq!(chunks.len(), 2);
        let Reply::Chunk {
            flags: 0, kind: 1, ..
        } = &chunks[0]
        else {
            panic!("{chunks:x?}")
        };
        let Reply::Chunk {
            flags: 1,
            kind: 0x8002,
            payload,
            ..
        } = &chunks[1]
        else {
            panic!("{chunks:x?}")
        };
        assert_eq!(*payload, Bytes::default().u32(5).u16(0).u64(TAG.1 + 3).0);
    }
}

// Rule 22.

#[test]
fn chunks_of_several_requests_may_be_interleaved_since_each_names_its_request() {
    for style in CHUNKED {
        let it = Replies::new(style);
        let mut sent = Vec::new();
        for (cookie, last) in [(1, false), (2, false), (2, true), (1, true)] {
            let tag = (Cookie(cookie), 0);
            sent.extend(header(|buf| it.read_hole(buf, tag, 0, 1, last)));
        }
        let cookies: Vec<u64> = replies(&sent)
            .into_iter()
            .map(|reply| match reply {
                Reply::Chunk { cookie, .. } | Reply::Simple { cookie, .. } => cookie,
            })
            .collect();
        assert_eq!(cookies, [1, 2, 2, 1]);
    }
}

#[test]
fn a_long_message_is_cut_between_two_characters() {
    for style in CHUNKED {
        let it = Replies::new(style);
        let header_len = if style == ReplyStyle::Extended {
            32
        } else {
            20
        };
        let message = "\u{20ac}".repeat(1000);
        let sent = error(|buf| it.error(buf, TAG.0, TAG.1, Errno::Io, &message));
        let len = usize::from(u16_at(&sent, header_len + 4));
        assert_eq!(len, MAX_ERROR_MESSAGE_BYTES / 3 * 3);
        assert_eq!(&sent[header_len + 6..], &message.as_bytes()[..len]);
        let at = error(|buf| it.error_at(buf, TAG.0, TAG.1, Errno::Io, &message, 7));
        assert!(at.len() <= MAX_ERROR_REPLY);
        assert_eq!(u32_at(&at, at.len() - 4), 7);
    }
}
