//! Rules 19 and 20: the extents of a block status (proto.md, "Structured reply types").

use usnap_nbd::proto::{Cookie, MAX_EXTENTS, Replies, ReplyStyle};

use crate::support::wire::{Reply, replies, u32_at, u64_at};

const CHUNKED: [ReplyStyle; 2] = [ReplyStyle::Structured, ReplyStyle::Extended];
const ID: u32 = 7;

/// The extents sent for one context if `pushed` is what the server knows.
fn extents(style: ReplyStyle, len: u64, req_one: bool, pushed: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let mut reply = Replies::new(style).block_status(&mut out, Cookie(1), 4096, len, req_one);
    reply.begin(ID);
    for &(len, flags) in pushed {
        if !reply.push(len, flags) {
            break;
        }
    }
    reply.finish(true);
    let chunks = replies(&out);
    let [
        Reply::Chunk {
            flags: 1,
            cookie: 1,
            kind,
            offset,
            payload,
        },
    ] = &chunks[..]
    else {
        panic!("{chunks:?}")
    };
    let expected = if style == ReplyStyle::Extended {
        (6, Some(4096))
    } else {
        (5, None)
    };
    assert_eq!((*kind, *offset), expected);
    parse(style, payload)
}

fn parse(style: ReplyStyle, payload: &[u8]) -> Vec<(u64, u64)> {
    assert_eq!(u32_at(payload, 0), ID);
    if style == ReplyStyle::Extended {
        let extents: Vec<_> = payload[8..]
            .chunks(16)
            .map(|it| (u64_at(it, 0), u64_at(it, 8)))
            .collect();
        assert_eq!(usize::try_from(u32_at(payload, 4)), Ok(extents.len()));
        extents
    } else {
        let extent = |it| (u64::from(u32_at(it, 0)), u64::from(u32_at(it, 4)));
        payload[4..].chunks(8).map(extent).collect()
    }
}

#[test]
fn extents_are_sent_as_they_are_pushed() {
    for style in CHUNKED {
        let pushed = [(512, 0), (1024, 3), (512, 1)];
        assert_eq!(extents(style, 2048, false, &pushed), pushed);
    }
}

#[test]
fn neighbours_with_the_same_flags_become_one_extent() {
    for style in CHUNKED {
        let pushed = [(512, 0), (512, 0), (512, 3), (512, 3), (512, 0)];
        let expected = [(1024, 0), (1024, 3), (512, 0)];
        assert_eq!(extents(style, 1 << 20, false, &pushed), expected);
    }
}

#[test]
fn the_extents_before_the_last_never_cover_what_was_asked_for() {
    for style in CHUNKED {
        // The device knows more than was asked for; an extent behind the end is not sent.
        assert_eq!(
            extents(style, 1000, false, &[(1000, 0), (1, 3)]),
            [(1000, 0)]
        );
        assert_eq!(
            extents(style, 1000, false, &[(999, 0), (50, 3), (9, 1)]),
            [(999, 0), (1, 3)]
        );
        assert_eq!(extents(style, 1000, false, &[(u64::MAX, 2)]), [(1000, 2)]);
    }
}

#[test]
fn req_one_gets_one_extent_not_longer_than_asked() {
    for style in CHUNKED {
        assert_eq!(
            extents(style, 1000, true, &[(10, 0), (10, 3), (10, 0)]),
            [(10, 0)]
        );
        assert_eq!(
            extents(style, 1000, true, &[(10, 0), (10, 0), (10, 3)]),
            [(20, 0)]
        );
        assert_eq!(extents(style, 1000, true, &[(5000, 3)]), [(1000, 3)]);
    }
}

#[test]
fn empty_extents_are_not_sent() {
    for style in CHUNKED {
        let pushed = [(0, 3), (10, 0), (0, 1), (10, 0), (0, 3)];
        assert_eq!(extents(style, 1000, false, &pushed), [(20, 0)]);
    }
}

#[test]
fn at_least_one_extent_is_sent_and_status_0_is_the_safe_one() {
    for style in CHUNKED {
        assert_eq!(extents(style, 1000, false, &[]), [(1000, 0)]);
        assert_eq!(extents(style, 1000, true, &[(0, 3)]), [(1000, 0)]);
    }
}

#[test]
fn lengths_that_32_bits_hold_just_so_are_not_wrapped() {
    let max = u64::from(u32::MAX);
    let four_gib = max + 1;
    let style = ReplyStyle::Structured;
    assert_eq!(extents(style, max, false, &[(four_gib, 3)]), [(max, 3)]);
    assert_eq!(extents(style, max, false, &[(u64::MAX, 3)]), [(max, 3)]);
    assert_eq!(extents(style, max, true, &[(four_gib * 4, 3)]), [(max, 3)]);
    let halves = [(1 << 31, 3), (1 << 31, 3), (1 << 31, 0)];
    assert_eq!(
        extents(style, max, false, &halves),
        [(max, 3)],
        "the sum would be 2^32"
    );
    assert_eq!(
        extents(style, max, false, &[(max - 1, 0), (four_gib, 1)]),
        [(max - 1, 0), (1, 1)]
    );
}

#[test]
fn extended_extents_may_be_longer_than_32_bits() {
    let style = ReplyStyle::Extended;
    let four_gib = 1 << 32;
    let pushed = [(four_gib, 3), (four_gib * 8, 0)];
    assert_eq!(extents(style, four_gib * 9, false, &pushed), pushed);
    assert_eq!(extents(style, four_gib, false, &pushed), [(four_gib, 3)]);
}

#[test]
fn a_chunk_ends_at_the_most_extents_and_every_one_of_them_is_whole() {
    for style in CHUNKED {
        let pushed: Vec<(u64, u64)> = (0..20_000).map(|n| (512, n % 2)).collect();
        let sent = extents(style, 1 << 30, false, &pushed);
        assert_eq!(u32::try_from(sent.len()), Ok(MAX_EXTENTS));
        assert_eq!(sent, pushed[..sent.len()]);
    }
}

#[test]
fn a_full_chunk_says_that_no_more_is_wanted() {
    let mut out = Vec::new();
    let mut reply =
        Replies::new(ReplyStyle::Extended).block_status(&mut out, Cookie(1), 0, 100, false);
    reply.begin(ID);
    assert!(reply.push(60, 0));
    assert!(!reply.push(40, 3), "all is covered");
    assert!(!reply.push(40, 3));
    assert!(!reply.push(0, 3));
}

#[test]
fn each_context_gets_exactly_one_chunk_and_the_last_ends_the_reply() {
    for style in CHUNKED {
        let mut out = b"earlier replies".to_vec();
        let mut reply = Replies::new(style).block_status(&mut out, Cookie(9), 0, 100, false);
        for (id, last) in [(1, false), (2, true)] {
            reply.begin(id);
            reply.push(50 * u64::from(id), 1);
            reply.finish(last);
        }
        let chunks = replies(&out["earlier replies".len()..]);
        let mut ids = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let Reply::Chunk {
                flags,
                cookie: 9,
                payload,
                ..
            } = chunk
            else {
                panic!("{chunk:?}")
            };
            assert_eq!(usize::from(*flags), index, "only the last is done");
            ids.push(u32_at(payload, 0));
        }
        assert_eq!(ids, [1, 2]);
    }
}

#[test]
fn an_abandoned_reply_leaves_nothing_behind() {
    for style in CHUNKED {
        let mut out = b"earlier replies".to_vec();
        let mut reply = Replies::new(style).block_status(&mut out, Cookie(9), 0, 100, false);
        reply.begin(1);
        reply.push(10, 0);
        reply.finish(false);
        reply.begin(2);
        reply.push(10, 0);
        reply.abandon();
        assert_eq!(out, b"earlier replies");
    }
}
