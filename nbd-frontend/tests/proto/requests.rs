//! Rules of requests (proto.md, "Request message", "Request types", "Error values"): what a valid
//! one decodes to, and with which error each kind of invalid one is refused.

use usnap_nbd::proto::{
    ACCEPTED_PAYLOAD_BYTES, Context, Cookie, Decoded, Errno, ExportInfo, Fatal, MAX_DRAIN_BYTES,
    MetaContexts, Negotiated, Refused, ReplyStyle, Request, RequestKind,
};

use crate::support::full;
use crate::support::wire::{extended, request};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;
const PAYLOAD_LEN: u16 = 32;

const SIZE: u64 = 1 << 30;
const STYLES: [ReplyStyle; 3] = [
    ReplyStyle::Simple,
    ReplyStyle::Structured,
    ReplyStyle::Extended,
];

fn session(style: ReplyStyle) -> Negotiated {
    with(style, full("disk", SIZE))
}

fn with(style: ReplyStyle, export: ExportInfo) -> Negotiated {
    Negotiated::new(export, style, MetaContexts::all(), true)
}

/// Puts the same request in the session's framing; writes carry their payload flag.
fn header(it: &Negotiated, flags: u16, command: u16, offset: u64, len: u64) -> Vec<u8> {
    match it.reply_style {
        ReplyStyle::Extended if command == WRITE => {
            extended(flags | PAYLOAD_LEN, command, 42, offset, len)
        }
        ReplyStyle::Extended => extended(flags, command, 42, offset, len),
        _ => request(flags, command, 42, offset, u32::try_from(len).unwrap()),
    }
}

fn decode(it: &Negotiated, flags: u16, command: u16, offset: u64, len: u64) -> Decoded {
    it.decode_request(&header(it, flags, command, offset, len))
        .unwrap()
}

fn kind(it: &Negotiated, flags: u16, command: u16, offset: u64, len: u64) -> RequestKind {
    match decode(it, flags, command, offset, len) {
        Decoded::Request(request) => {
            assert_eq!((request.cookie, request.offset), (Cookie(42), offset));
            request.kind
        }
        Decoded::Refused(refused) => panic!("{refused:?}"),
    }
}

fn refused(it: &Negotiated, flags: u16, command: u16, offset: u64, len: u64) -> Refused {
    match decode(it, flags, command, offset, len) {
        Decoded::Refused(refused) => {
            assert_eq!((refused.cookie, refused.offset), (Cookie(42), offset));
            assert_eq!(refused.command, command);
            assert!(!refused.message.is_empty());
            refused
        }
        Decoded::Request(request) => panic!("{request:?}"),
    }
}

fn errno(it: &Negotiated, flags: u16, command: u16, offset: u64, len: u64) -> Errno {
    refused(it, flags, command, offset, len).errno
}

#[test]
fn valid_requests_decode_to_what_they_say_in_every_style() {
    for style in STYLES {
        let it = session(style);
        let read = RequestKind::Read {
            len: 512,
            dont_fragment: false,
        };
        assert_eq!(kind(&it, 0, READ, 4096, 512), read);
        assert_eq!(
            kind(&it, 0, WRITE, 1, 7),
            RequestKind::Write { len: 7, fua: false }
        );
        assert_eq!(
            kind(&it, FUA, WRITE, 1, 7),
            RequestKind::Write { len: 7, fua: true }
        );
        assert_eq!(kind(&it, 0, FLUSH, 0, 0), RequestKind::Flush);
        assert_eq!(
            kind(&it, 0, TRIM, 9, 5),
            RequestKind::Trim { len: 5, fua: false }
        );
        assert_eq!(
            kind(&it, FUA, TRIM, 9, 5),
            RequestKind::Trim { len: 5, fua: true }
        );
        assert_eq!(kind(&it, 0, CACHE, 9, 5), RequestKind::Cache { len: 5 });
        assert_eq!(kind(&it, 0, DISC, 0, 0), RequestKind::Disconnect);
        for flags in [0, FUA, NO_HOLE, FAST_ZERO, FUA | NO_HOLE | FAST_ZERO] {
            let expected = RequestKind::WriteZeroes {
                len: 77,
                fua: flags & FUA != 0,
                no_hole: flags & NO_HOLE != 0,
                fast_zero: flags & FAST_ZERO != 0,
            };
            assert_eq!(kind(&it, flags, WRITE_ZEROES, 3, 77), expected);
        }
        if style != ReplyStyle::Simple {
            let read = RequestKind::Read {
                len: 512,
                dont_fragment: true,
            };
            assert_eq!(kind(&it, DF, READ, 0, 512), read);
            let status = RequestKind::BlockStatus {
                len: 100,
                req_one: true,
            };
            assert_eq!(kind(&it, REQ_ONE, BLOCK_STATUS, 1, 100), status);
        }
    }
}

#[test]
fn only_a_write_has_a_payload() {
    for style in STYLES {
        let it = session(style);
        for (command, expected) in [
            (READ, 0),
            (WRITE, 512),
            (TRIM, 0),
            (WRITE_ZEROES, 0),
            (CACHE, 0),
        ] {
            let Decoded::Request(request) = decode(&it, 0, command, 0, 512) else {
                panic!()
            };
            assert_eq!(request.payload_len(), expected, "command {command}");
        }
    }
}

// Rule 9.

#[test]
fn the_df_flag_is_refused_unless_structured_replies_were_negotiated() {
    assert_eq!(
        errno(&session(ReplyStyle::Simple), DF, READ, 0, 512),
        Errno::Inval
    );
}

// Rule 10.

#[test]
fn a_write_that_is_refused_still_names_its_payload_to_be_drained() {
    for style in STYLES {
        let it = session(style);
        let readonly = with(
            style,
            ExportInfo {
                read_only: true,
                ..full("disk", SIZE)
            },
        );
        let plain = with(style, ExportInfo::new("disk", SIZE));
        let cases = [
            (refused(&readonly, 0, WRITE, 0, 4096), Errno::Perm, 4096),
            (refused(&it, 0, WRITE, SIZE, 4096), Errno::NoSpc, 4096),
            (refused(&it, DF, WRITE, 0, 4096), Errno::Inval, 4096),
            (refused(&plain, FUA, WRITE, 0, 4096), Errno::Inval, 4096),
            (
                refused(&it, 0, WRITE, 0, (64 << 20) + 1),
                Errno::Inval,
                (64 << 20) + 1,
            ),
            (
                refused(&it, 0, WRITE, 0, MAX_DRAIN_BYTES),
                Errno::Inval,
                MAX_DRAIN_BYTES,
            ),
        ];
        for (refused, errno, payload_len) in cases {
            assert_eq!((refused.errno, refused.payload_len), (errno, payload_len));
        }
    }
}

#[test]
fn other_refused_requests_have_no_payload_to_drain() {
    for style in STYLES {
        let it = session(style);
        for command in [READ, TRIM, WRITE_ZEROES, CACHE, 99] {
            assert_eq!(refused(&it, 1 << 15, command, 0, 512).payload_len, 0);
        }
    }
}

// Rule 11.

#[test]
fn writes_past_the_end_are_enospc_and_everything_else_is_einval() {
    for style in STYLES {
        let it = session(style);
        for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (SIZE + 1, 0), (u64::MAX, 1)] {
            assert_eq!(errno(&it, 0, WRITE, offset, len), Errno::NoSpc);
            assert_eq!(errno(&it, 0, WRITE_ZEROES, offset, len), Errno::NoSpc);
            for command in [READ, TRIM, CACHE] {
                assert_eq!(
                    errno(&it, 0, command, offset, len),
                    Errno::Inval,
                    "command {command}"
                );
            }
            assert_eq!(errno(&it, 0, BLOCK_STATUS, offset, len), Errno::Inval);
        }
        // The last byte is inside.
        assert_eq!(
            kind(&it, 0, WRITE, SIZE - 1, 1),
            RequestKind::Write { len: 1, fua: false }
        );
    }
}

#[test]
fn an_offset_plus_length_beyond_64_bits_does_not_wrap_around() {
    for style in STYLES {
        let it = session(style);
        for (offset, len) in [(u64::MAX, 1), (u64::MAX, 0xffff), (u64::MAX - 511, 512)] {
            assert_eq!(errno(&it, 0, READ, offset, len), Errno::Inval);
            assert_eq!(errno(&it, 0, WRITE, offset, len), Errno::NoSpc);
        }
    }
    let it = session(ReplyStyle::Extended);
    for (offset, len) in [(1, u64::MAX), (u64::MAX, u64::MAX), (1 << 63, 1 << 63)] {
        assert_eq!(errno(&it, 0, TRIM, offset, len), Errno::Inval);
        assert_eq!(errno(&it, 0, WRITE_ZEROES, offset, len), Errno::NoSpc);
        assert_eq!(errno(&it, 0, BLOCK_STATUS, offset, len), Errno::Inval);
        assert_eq!(errno(&it, 0, CACHE, offset, len), Errno::Inval);
    }
}

// Rule 12.

#[test]
fn errors_on_the_wire_are_those_of_the_protocol_and_unknown_ones_read_as_einval() {
    let codes: Vec<u32> = Errno::ALL.iter().map(|errno| errno.code()).collect();
    assert_eq!(codes, [1, 5, 12, 22, 28, 75, 95, 108]);
    for errno in Errno::ALL {
        assert_eq!(Errno::from_code(errno.code()), errno);
    }
    for code in [2, 30, 38, 122, u32::MAX] {
        assert_eq!(Errno::from_code(code), Errno::Inval, "code {code}");
    }
}

#[test]
fn commands_that_write_are_eperm_on_a_read_only_export() {
    for style in STYLES {
        let it = with(
            style,
            ExportInfo {
                read_only: true,
                ..full("disk", SIZE)
            },
        );
        for command in [WRITE, TRIM, WRITE_ZEROES] {
            assert_eq!(
                errno(&it, 0, command, 0, 512),
                Errno::Perm,
                "command {command}"
            );
        }
        assert_eq!(kind(&it, 0, FLUSH, 0, 0), RequestKind::Flush);
    }
}

// Rule 13.

#[test]
fn unknown_commands_are_einval_and_the_session_goes_on() {
    for style in STYLES {
        let it = session(style);
        for command in [8, 9, 255, u16::MAX] {
            assert_eq!(errno(&it, 0, command, 0, 512), Errno::Inval);
        }
    }
}

#[test]
fn flags_that_do_not_belong_to_the_command_are_einval() {
    for style in STYLES {
        let it = session(style);
        let own = |command| match command {
            READ if style != ReplyStyle::Simple => DF,
            WRITE if style == ReplyStyle::Extended => PAYLOAD_LEN,
            WRITE_ZEROES => NO_HOLE | FAST_ZERO,
            BLOCK_STATUS => REQ_ONE,
            _ => 0,
        };
        for command in [READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] {
            for bit in 0..16 {
                let flag = 1 << bit;
                let len = if command == FLUSH { 0 } else { 512 };
                let header = header(&it, flag, command, 0, len);
                let valid = matches!(it.decode_request(&header).unwrap(), Decoded::Request(_));
                let simple_status = style == ReplyStyle::Simple && command == BLOCK_STATUS;
                let expected = (flag == FUA || own(command) & flag != 0) && !simple_status;
                assert_eq!(
                    valid, expected,
                    "{style:?}, command {command}, flag {flag:#x}"
                );
            }
        }
    }
}

#[test]
fn overflow_is_only_for_reads_that_need_too_long_a_reply() {
    let simple = session(ReplyStyle::Simple);
    assert_eq!(errno(&simple, 0, READ, 0, (64 << 20) + 1), Errno::Inval);
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let it = session(style);
        assert_eq!(errno(&it, 0, READ, 0, (64 << 20) + 1), Errno::Overflow);
        assert_eq!(errno(&it, DF, READ, 0, (32 << 20) + 1), Errno::Overflow);
        assert_eq!(errno(&it, 0, WRITE, 0, (64 << 20) + 1), Errno::Inval);
    }
    let it = session(ReplyStyle::Extended);
    assert_eq!(errno(&it, 0, READ, 0, 1 << 40), Errno::Overflow);
}

#[test]
fn long_requests_without_payload_are_served_whatever_their_length() {
    let size = 1 << 45;
    let it = with(ReplyStyle::Extended, full("disk", size));
    assert_eq!(
        kind(&it, 0, TRIM, 0, size),
        RequestKind::Trim {
            len: size,
            fua: false
        }
    );
    assert_eq!(
        kind(&it, 0, CACHE, 0, size),
        RequestKind::Cache { len: size }
    );
    let status = RequestKind::BlockStatus {
        len: size,
        req_one: false,
    };
    assert_eq!(kind(&it, 0, BLOCK_STATUS, 0, size), status);
    let it = with(ReplyStyle::Structured, full("disk", size));
    let len = u64::from(u32::MAX);
    assert_eq!(
        kind(&it, 0, TRIM, 0, len),
        RequestKind::Trim { len, fua: false }
    );
}

#[test]
fn commands_that_were_not_advertised_are_einval() {
    for style in STYLES {
        let it = with(style, ExportInfo::new("disk", SIZE));
        for (command, len) in [(FLUSH, 0), (TRIM, 512), (CACHE, 512), (WRITE_ZEROES, 512)] {
            assert_eq!(
                errno(&it, 0, command, 0, len),
                Errno::Inval,
                "command {command}"
            );
        }
        assert_eq!(errno(&it, FUA, WRITE, 0, 512), Errno::Inval);
        let slow = ExportInfo {
            can_fast_zero: false,
            ..full("disk", SIZE)
        };
        assert_eq!(
            errno(&with(style, slow), FAST_ZERO, WRITE_ZEROES, 0, 512),
            Errno::Inval
        );
    }
}

#[test]
fn a_flush_with_an_offset_or_a_length_is_einval() {
    for style in STYLES {
        assert_eq!(errno(&session(style), 0, FLUSH, 1, 0), Errno::Inval);
        assert_eq!(errno(&session(style), 0, FLUSH, 0, 1), Errno::Inval);
    }
}

#[test]
fn a_block_status_without_a_selected_context_is_einval() {
    for style in STYLES {
        let it = Negotiated::new(full("disk", SIZE), style, MetaContexts::NONE, true);
        assert_eq!(errno(&it, 0, BLOCK_STATUS, 0, 512), Errno::Inval);
    }
    // Simple replies cannot carry it, so the contexts are dropped.
    let contexts = [Context::BaseAllocation].into_iter().collect();
    let it = Negotiated::new(full("disk", SIZE), ReplyStyle::Simple, contexts, true);
    assert_eq!(errno(&it, 0, BLOCK_STATUS, 0, 512), Errno::Inval);
}

#[test]
fn requests_not_aligned_to_the_minimum_block_are_einval() {
    for style in STYLES {
        let it = with(
            style,
            ExportInfo {
                min_block_bytes: 512,
                ..full("disk", SIZE)
            },
        );
        for (offset, len) in [(1, 512), (512, 1), (256, 256), (SIZE - 512, 511)] {
            for command in [READ, WRITE, TRIM, CACHE, WRITE_ZEROES] {
                assert_eq!(errno(&it, 0, command, offset, len), Errno::Inval);
            }
        }
        assert_eq!(
            kind(&it, 0, CACHE, 512, 1024),
            RequestKind::Cache { len: 1024 }
        );
    }
}

#[test]
fn a_minimum_block_that_breaks_the_rules_is_made_legal_before_requests_are_held_to_it() {
    let export = ExportInfo {
        min_block_bytes: 3,
        ..full("disk", SIZE)
    };
    let it = with(ReplyStyle::Structured, export);
    assert_eq!(it.export.min_block_bytes, 4);
    assert_eq!(errno(&it, 0, CACHE, 3, 3), Errno::Inval);
    assert_eq!(kind(&it, 0, CACHE, 4, 8), RequestKind::Cache { len: 8 });
}

// Rule 14.

#[test]
fn zero_length_requests_are_answered_and_none_disconnects() {
    for style in STYLES {
        let it = session(style);
        for offset in [0, 1, SIZE] {
            let read = RequestKind::Read {
                len: 0,
                dont_fragment: false,
            };
            assert_eq!(kind(&it, 0, READ, offset, 0), read);
            assert_eq!(
                kind(&it, 0, WRITE, offset, 0),
                RequestKind::Write { len: 0, fua: false }
            );
            assert_eq!(
                kind(&it, 0, TRIM, offset, 0),
                RequestKind::Trim { len: 0, fua: false }
            );
            assert_eq!(
                kind(&it, 0, CACHE, offset, 0),
                RequestKind::Cache { len: 0 }
            );
            assert_eq!(kind(&it, 0, WRITE_ZEROES, offset, 0).effect_len(), 0);
            // An extent must not be empty, so this one cannot succeed.
            assert_eq!(errno(&it, 0, BLOCK_STATUS, offset, 0), Errno::Inval);
        }
    }
}

// Rule 15.

#[test]
fn fua_is_accepted_on_every_command_once_advertised() {
    for style in STYLES {
        let it = session(style);
        for command in [READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES] {
            let len = if command == FLUSH { 0 } else { 512 };
            assert_eq!(kind(&it, FUA, command, 0, len).command(), command);
        }
        if style != ReplyStyle::Simple {
            assert_eq!(kind(&it, FUA, BLOCK_STATUS, 0, 512).command(), BLOCK_STATUS);
        }
    }
}

// Rule 17.

#[test]
fn a_disconnect_is_a_disconnect_whatever_else_its_header_says() {
    for style in STYLES {
        let it = session(style);
        assert_eq!(
            kind(&it, !PAYLOAD_LEN, DISC, u64::MAX, 9),
            RequestKind::Disconnect
        );
    }
}

// Rule 24.

#[test]
fn an_extended_write_is_taken_with_the_payload_flag_and_as_qemu_sends_it_without() {
    let it = session(ReplyStyle::Extended);
    for flags in [0, PAYLOAD_LEN] {
        let decoded = it
            .decode_request(&extended(flags, WRITE, 1, 0, 512))
            .unwrap();
        let Decoded::Request(request) = decoded else {
            panic!("{decoded:?}")
        };
        assert_eq!(
            request.kind,
            RequestKind::Write {
                len: 512,
                fua: false
            }
        );
        assert_eq!(request.payload_len(), 512);
        // Refused, it has a payload to be drained all the same.
        let decoded = it
            .decode_request(&extended(flags, WRITE, 1, SIZE, 512))
            .unwrap();
        let Decoded::Refused(refused) = decoded else {
            panic!("{decoded:?}")
        };
        assert_eq!((refused.errno, refused.payload_len), (Errno::NoSpc, 512));
    }
}

#[test]
fn an_extended_payload_nobody_asked_for_is_drained_and_einval() {
    let it = session(ReplyStyle::Extended);
    for command in [READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, 99] {
        let decoded = it
            .decode_request(&extended(PAYLOAD_LEN, command, 1, 0, 24))
            .unwrap();
        let Decoded::Refused(refused) = decoded else {
            panic!("{decoded:?}")
        };
        assert_eq!(
            (refused.errno, refused.payload_len),
            (Errno::Inval, 24),
            "command {command}"
        );
    }
}

#[test]
fn the_payload_flag_in_a_compact_request_is_an_unknown_flag() {
    let it = session(ReplyStyle::Structured);
    let trim = refused(&it, PAYLOAD_LEN, TRIM, 0, 512);
    assert_eq!((trim.errno, trim.payload_len), (Errno::Inval, 0));
    let write = refused(&it, PAYLOAD_LEN, WRITE, 0, 512);
    assert_eq!((write.errno, write.payload_len), (Errno::Inval, 512));
}

// Payload limits (proto.md, "Size constraints").

#[test]
fn payloads_of_64_mib_are_accepted_although_32_are_advertised() {
    for style in STYLES {
        let it = session(style);
        assert_eq!(it.export.max_payload_bytes, 32 << 20);
        let len = u64::from(ACCEPTED_PAYLOAD_BYTES);
        assert_eq!(kind(&it, 0, WRITE, 0, len).effect_len(), len);
        assert_eq!(kind(&it, 0, READ, 0, len).effect_len(), len);
    }
}

#[test]
fn a_payload_too_long_to_drain_is_fatal() {
    let len = MAX_DRAIN_BYTES + 1;
    for style in STYLES {
        let it = session(style);
        let header = header(&it, 0, WRITE, 0, len);
        assert_eq!(
            it.decode_request(&header),
            Err(Fatal::PayloadTooLong { len })
        );
    }
    let it = session(ReplyStyle::Extended);
    let header = extended(PAYLOAD_LEN, 99, 1, 0, u64::MAX);
    assert_eq!(
        it.decode_request(&header),
        Err(Fatal::PayloadTooLong { len: u64::MAX })
    );
}

#[test]
fn an_export_that_takes_more_accepts_what_it_advertised() {
    let export = ExportInfo {
        max_payload_bytes: u32::MAX,
        ..full("disk", 1 << 40)
    };
    let it = with(ReplyStyle::Structured, export);
    assert_eq!(kind(&it, 0, WRITE, 0, 1 << 30).effect_len(), 1 << 30);
    // The offset and the data of a chunk share its 32-bit length.
    assert_eq!(it.max_chunk_bytes(), u32::MAX - 8);
}

#[test]
fn unfragmented_reads_of_64_kib_work_always() {
    let export = ExportInfo {
        max_payload_bytes: 0,
        preferred_block_bytes: 0,
        ..full("d", SIZE)
    };
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let it = with(style, export.clone());
        let read = RequestKind::Read {
            len: 65536,
            dont_fragment: true,
        };
        assert_eq!(kind(&it, DF, READ, 0, 65536), read);
        assert!(it.max_chunk_bytes() >= 65536);
    }
}

#[test]
fn a_wrong_magic_is_fatal() {
    for style in STYLES {
        let it = session(style);
        // Also the magic of the other framing.
        let (len, other) = match style {
            ReplyStyle::Extended => (32, 0x2560_9513_u32),
            _ => (28, 0x21e4_1c71),
        };
        for magic in [0, other, 0x1256_0953] {
            let mut header = vec![0; len];
            header[..4].copy_from_slice(&magic.to_be_bytes());
            assert_eq!(
                it.decode_request(&header),
                Err(Fatal::BadMagic { found: magic })
            );
        }
    }
}

#[test]
fn a_header_of_another_length_is_fatal() {
    for style in STYLES {
        let it = session(style);
        let right = header(&it, 0, READ, 0, 512);
        assert_eq!(right.len(), it.header_len());
        for len in (0..40).filter(|&len| len != right.len()) {
            let mut header = right.clone();
            header.resize(len, 0);
            assert_eq!(
                it.decode_request(&header),
                Err(Fatal::HeaderLength { found: len })
            );
        }
    }
}

#[test]
fn cookies_and_offsets_come_through_bit_for_bit() {
    let it = with(ReplyStyle::Structured, full("disk", u64::MAX));
    for cookie in [0, 1, u64::MAX, 0x0102_0304_0506_0708] {
        let decoded = it
            .decode_request(&request(0, CACHE, cookie, 0x0a0b_0c0d_0e0f, 1))
            .unwrap();
        let kind = RequestKind::Cache { len: 1 };
        let expected = Request {
            cookie: Cookie(cookie),
            offset: 0x0a0b_0c0d_0e0f,
            kind,
        };
        assert_eq!(decoded, Decoded::Request(expected));
    }
}
