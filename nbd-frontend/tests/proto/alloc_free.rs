//! Transmission does not allocate: neither to decode a request nor to encode a reply, nor, once
//! its buffer has grown, to answer a block status.

use allocation_counter::measure;
use usnap_nbd::proto::{
    Cookie, Decoded, Errno, MAX_ERROR_REPLY, MAX_REPLY_HEADER, MetaContexts, Negotiated, Replies,
    ReplyStyle,
};

use crate::support::full;
use crate::support::wire::{extended, request};

const STYLES: [ReplyStyle; 3] = [
    ReplyStyle::Simple,
    ReplyStyle::Structured,
    ReplyStyle::Extended,
];
const TAG: (Cookie, u64) = (Cookie(1), 4096);

fn allocations(run: impl FnOnce()) -> u64 {
    measure(run).count_total
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(vec![0_u8; 100])), 1);
}

#[test]
fn decoding_requests_valid_or_not_does_not_allocate() {
    for style in STYLES {
        let it = Negotiated::new(full("disk", 1 << 30), style, MetaContexts::all(), true);
        let headers: Vec<Vec<u8>> = (0..10_u16)
            .flat_map(|command| (0..64_u16).map(move |flags| (command, flags)))
            .map(|(command, flags)| match style {
                ReplyStyle::Extended => extended(flags, command, 1, 4096, 512),
                _ => request(flags, command, 1, 4096, 512),
            })
            .collect();
        let (mut valid, mut refused) = (0, 0);
        let count = allocations(|| {
            for header in &headers {
                match it.decode_request(header) {
                    Ok(Decoded::Request(_)) => valid += 1,
                    Ok(Decoded::Refused(_)) => refused += 1,
                    Err(_) => {}
                }
            }
        });
        assert_eq!(count, 0, "{style:?}");
        assert!(
            valid > 10 && refused > 100,
            "{valid} valid, {refused} refused"
        );
    }
}

#[test]
fn encoding_replies_does_not_allocate() {
    for style in STYLES {
        let it = Replies::new(style);
        let mut len = 0;
        let count = allocations(|| {
            let mut buf = [0; MAX_REPLY_HEADER];
            let mut error = [0; MAX_ERROR_REPLY];
            for n in 1..1000 {
                len += it.read_data_header(&mut buf, TAG, 4096, n, true);
                len += it.read_hole(&mut buf, TAG, 4096, n, true);
                len += it.done(&mut buf, TAG.0, TAG.1);
                len += it.error(&mut error, TAG.0, TAG.1, Errno::Io, "the device failed");
                len += it.error_at(&mut error, TAG.0, TAG.1, Errno::Io, "the device failed", 9);
            }
        });
        assert_eq!(count, 0, "{style:?}");
        assert!(len > 5 * 1000 * 12, "{len} bytes");
    }
}

#[test]
fn a_block_status_does_not_allocate_once_its_buffer_has_grown() {
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut out = Vec::new();
        let mut answer = || {
            out.clear();
            let mut reply =
                Replies::new(style).block_status(&mut out, TAG.0, TAG.1, 1 << 20, false);
            for (id, last) in [(1, false), (2, true)] {
                reply.begin(id);
                for n in 0..2000 {
                    reply.push(512, n % 3);
                }
                reply.finish(last);
            }
        };
        answer();
        assert_eq!(allocations(answer), 0, "{style:?}");
        assert!(out.len() > 2000 * 8 * 2);
    }
}
