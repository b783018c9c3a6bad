//! Rules of option haggling (proto.md, "Fixed newstyle negotiation", "Option types"): for each a
//! client that puts it to the test, with bytes written by hand.

use usnap_nbd::proto::{CloseReason, Features, HandshakeLimits, OptionCode, Progress, ReplyStyle};

use crate::support::server::MemServer;
use crate::support::wire::{
    ACK, Bytes, ERR_EXT_HEADER_REQD, ERR_INVALID, ERR_SHUTDOWN, ERR_TOO_BIG, ERR_UNKNOWN,
    ERR_UNSUP, info, meta, option, option_replies, u16_at, u64_at,
};
use crate::support::{DISK_BYTES, Shelf, Talk};

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;
const SET_META: u32 = 10;
const EXTENDED: u32 = 11;

fn limits() -> HandshakeLimits {
    HandshakeLimits::default()
}

fn closed(talk: &mut Talk, bytes: &[u8]) -> CloseReason {
    match talk.send(bytes) {
        (Progress::Closed(reason), out) => {
            assert_eq!(out, [], "nothing is said to a client that is dropped");
            reason
        }
        other => panic!("not closed: {other:?}"),
    }
}

#[test]
fn the_greeting_is_fixed_newstyle_and_offers_to_leave_out_the_zeroes() {
    let (_, greeting) = MemServer::new(Shelf::default(), Features::default());
    assert_eq!(greeting, b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn unknown_client_flags_drop_the_connection() {
    for flags in [4, 1 << 31, u32::MAX] {
        let mut talk = Talk::new();
        talk.handshake = usnap_nbd::proto::Handshake::new(limits(), Features::default());
        let reason = closed(&mut talk, &u32::to_be_bytes(flags));
        assert_eq!(reason, CloseReason::BadClientFlags { found: flags });
    }
}

#[test]
fn an_option_without_the_magic_drops_the_connection() {
    let mut talk = Talk::new();
    let reason = closed(&mut talk, &[0; 8]);
    assert_eq!(reason, CloseReason::BadOptionMagic { found: 0 });
}

// Rule 1.

#[test]
fn an_unknown_option_is_skipped_by_its_length_and_answered_unsup() {
    let mut talk = Talk::new();
    for (code, len) in [(4, 0), (12, 1), (99, 1000), (u32::MAX, 65536)] {
        assert_eq!(
            talk.reply_type(code, &vec![0xee; len]),
            ERR_UNSUP,
            "option {code}"
        );
    }
    // The next message is understood.
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
}

#[test]
fn an_unknown_option_too_long_to_keep_is_skipped_all_the_same() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(99, &vec![0xee; 300_000]), ERR_UNSUP);
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
}

// Rule 2.

#[test]
fn a_go_that_failed_stays_in_option_haggling() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(GO, &info("nothing", &[])), ERR_UNKNOWN);
    assert_eq!(talk.reply_type(GO, &[1, 2, 3]), ERR_INVALID);
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    assert_eq!(talk.go("disk").reply_style, ReplyStyle::Structured);
}

#[test]
fn information_requests_that_are_not_understood_are_ignored() {
    let mut talk = Talk::new();
    let replies = talk.option(INFO, &info("disk", &[77, 3, 0xffff]));
    let kinds: Vec<u16> = replies[..2]
        .iter()
        .map(|(_, data)| u16_at(data, 0))
        .collect();
    assert_eq!(kinds, [0, 3]);
    assert_eq!(replies[2], (ACK, vec![]));
}

// Rule 3.

#[test]
fn the_name_in_go_has_a_32_bit_length_and_the_requests_a_16_bit_count() {
    let mut talk = Talk::new();
    // 300 requests and a name of 300 bytes: neither fits in a byte.
    let name = "n".repeat(300);
    talk.shelf.exports[0].name = name.clone();
    let requests: Vec<u16> = (0..300).collect();
    let replies = talk.option(INFO, &info(&name, &requests));
    assert_eq!(replies.last(), Some(&(ACK, vec![])));
    let sent_name = Bytes::default().u16(1).bytes(name.as_bytes()).0;
    assert!(
        replies.iter().any(|(_, data)| *data == sent_name),
        "{replies:x?}"
    );
}

#[test]
fn a_name_or_a_count_that_does_not_fit_the_option_is_invalid() {
    let mut talk = Talk::new();
    let cases = [
        Bytes::default().u32(u32::MAX).0,
        Bytes::default().u32(5).bytes(b"disk").0,
        Bytes::default().u32(4).bytes(b"disk").0,
        Bytes::default().u32(4).bytes(b"disk").bytes(&[0]).0,
        // 65535 requests announced, one sent; and one announced, two sent.
        Bytes::default().u32(4).bytes(b"disk").u16(0xffff).u16(3).0,
        Bytes::default()
            .u32(4)
            .bytes(b"disk")
            .u16(1)
            .u16(3)
            .u16(1)
            .0,
        // Not a string.
        Bytes::default().u32(4).bytes(b"di\0k").u16(0).0,
        Bytes::default().u32(4).bytes(b"di\xffk").u16(0).0,
    ];
    for data in cases {
        assert_eq!(talk.reply_type(INFO, &data), ERR_INVALID, "{data:x?}");
        assert_eq!(talk.reply_type(GO, &data), ERR_INVALID, "{data:x?}");
    }
    let long = Bytes::default().u32(4097).bytes(&[b'a'; 4097]).u16(0).0;
    assert_eq!(talk.reply_type(GO, &long), ERR_TOO_BIG);
}

#[test]
fn go_tells_what_was_asked_for_and_the_size_and_flags_always() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    let (progress, out) = talk.send(&option(GO, &info("", &[1, 2, 3])));
    let replies = option_replies(&out, GO);
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, DF, MULTI_CONN, CACHE, FAST_ZERO.
    let export = Bytes::default()
        .u16(0)
        .u64(DISK_BYTES)
        .u16(0b1101_1110_1101)
        .0;
    let name = Bytes::default().u16(1).bytes(b"disk").0;
    let description = Bytes::default().u16(2).bytes(b"all of disk").0;
    let block_size = Bytes::default().u16(3).u32(1).u32(16384).u32(32 << 20).0;
    let expected = [
        (3, export),
        (3, name),
        (3, description),
        (3, block_size),
        (ACK, vec![]),
    ];
    assert_eq!(replies, expected);
    let Progress::Transmission(negotiated) = progress else {
        panic!("{progress:?}")
    };
    assert_eq!(negotiated.transmission_flags().0, 0b1101_1110_1101);

    let mut talk = Talk::new();
    let replies = talk.option(INFO, &info("disk", &[]));
    assert_eq!(replies.len(), 2, "only what is mandatory: {replies:x?}");
}

#[test]
fn block_sizes_stricter_than_the_default_are_sent_without_being_asked_for() {
    for (min, max) in [(512, 32 << 20), (1, 1 << 20)] {
        let mut talk = Talk::new();
        talk.shelf.exports[0].min_block_bytes = min;
        talk.shelf.exports[0].max_payload_bytes = max;
        let replies = talk.option(INFO, &info("disk", &[]));
        let expected = Bytes::default().u16(3).u32(min).u32(16384).u32(max).0;
        assert_eq!(replies[1].1, expected);
    }
}

#[test]
fn block_sizes_obey_the_rules_whatever_the_export_asks_for() {
    // min a power of two <= 64 KiB; preferred a power of two >= max(min, 512); max >= preferred.
    for (min, preferred, max, expected) in [
        (0, 0, 0, [1, 512, 1 << 20]),
        (3, 1000, 5000, [4, 1024, 1 << 20]),
        (1 << 20, 4096, u32::MAX, [65536, 65536, u32::MAX]),
        (4096, u32::MAX, 0, [4096, 1 << 31, 1 << 31]),
    ] {
        let mut talk = Talk::new();
        let export = &mut talk.shelf.exports[0];
        export.min_block_bytes = min;
        export.preferred_block_bytes = preferred;
        export.max_payload_bytes = max;
        let replies = talk.option(INFO, &info("disk", &[3]));
        let [a, b, c] = expected;
        assert_eq!(replies[1].1, Bytes::default().u16(3).u32(a).u32(b).u32(c).0);
    }
}

#[test]
fn a_second_info_with_the_same_parameters_tells_the_same() {
    let mut talk = Talk::new();
    let data = info("disk", &[1, 2, 3]);
    let first = talk.option(INFO, &data);
    let (_, out) = talk.send(&option(GO, &data));
    assert_eq!(option_replies(&out, GO), first);
}

// Rule 4.

#[test]
fn no_zeroes_follow_go_whatever_the_client_flags() {
    for flags in [1, 3] {
        let mut talk = Talk::with(flags, limits(), Features::default());
        let (progress, out) = talk.send(&option(GO, &info("disk", &[])));
        let replies = option_replies(&out, GO);
        assert_eq!(
            replies.last(),
            Some(&(ACK, vec![])),
            "nothing after the acknowledgement"
        );
        assert!(matches!(progress, Progress::Transmission(_)));
    }
}

#[test]
fn export_name_ends_with_124_zeroes_unless_the_client_waived_them() {
    for (flags, zeroes) in [(0, 124), (1, 124), (2, 0), (3, 0)] {
        let mut talk = Talk::with(flags, limits(), Features::default());
        let (progress, out) = talk.send(&option(EXPORT_NAME, b"disk"));
        assert_eq!(out.len(), 10 + zeroes, "flags {flags}");
        assert_eq!(u64_at(&out, 0), DISK_BYTES);
        assert_eq!(u16_at(&out, 8), 0b1101_0110_1101, "all but DF");
        assert!(out[10..].iter().all(|&byte| byte == 0));
        let Progress::Transmission(negotiated) = progress else {
            panic!("{progress:?}")
        };
        assert_eq!(negotiated.reply_style, ReplyStyle::Simple);
        assert_eq!(negotiated.no_zeroes, zeroes == 0);
    }
}

#[test]
fn export_name_of_an_unknown_or_impossible_export_drops_the_connection() {
    let long = vec![b'a'; 5000];
    let too_long = vec![b'a'; 70_000];
    let cases: [(&[u8], CloseReason); 5] = [
        (b"nothing", CloseReason::UnknownExport),
        (b"di\0sk", CloseReason::ExportNameInvalid),
        (b"\xff", CloseReason::ExportNameInvalid),
        (&long, CloseReason::ExportNameInvalid),
        (
            &too_long,
            CloseReason::OptionTooLong {
                option: OptionCode::ExportName,
                len: 70_000,
            },
        ),
    ];
    for (name, expected) in cases {
        let mut talk = Talk::new();
        let mut out = Vec::new();
        let bytes = option(EXPORT_NAME, name);
        let (_, progress) = talk.handshake.receive(&talk.shelf, &bytes, &mut out);
        assert_eq!((progress, out.len()), (Progress::Closed(expected), 0));
    }
}

#[test]
fn without_fixed_newstyle_only_export_name_and_abort_are_taken() {
    let mut talk = Talk::with(0, limits(), Features::default());
    assert_eq!(talk.reply_type(LIST, &[]), ERR_INVALID);
    assert_eq!(talk.reply_type(GO, &info("disk", &[])), ERR_INVALID);
    let (progress, _) = talk.send(&option(EXPORT_NAME, b""));
    assert!(
        matches!(progress, Progress::Transmission(_)),
        "the empty name is the default export"
    );
}

// Rule 6 and 8, as far as they bind a server without TLS.

#[test]
fn starttls_is_unsup_and_tls_is_never_required() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    assert_eq!(talk.reply_type(STARTTLS, &[]), ERR_UNSUP);
    assert_eq!(talk.reply_type(STARTTLS, b"data"), ERR_UNSUP);
    // A STARTTLS that failed forgets nothing.
    assert_eq!(talk.go("disk").reply_style, ReplyStyle::Structured);

    // "The server MUST NOT respond to any option request with `NBD_REP_ERR_TLS_REQD`".
    for code in (2..20).chain([99]) {
        for data in [&[][..], &info("nothing", &[]), &meta("nothing", &[])] {
            let mut talk = Talk::new();
            let (_, out) = talk.send(&option(code, data));
            for (reply, _) in option_replies(&out, code) {
                assert_ne!(reply, 0x8000_0005, "option {code}");
            }
        }
    }
}

// Rule 7.

#[test]
fn nothing_is_looked_up_before_an_export_is_named() {
    struct Untouchable;
    impl usnap_nbd::proto::Catalog for Untouchable {
        fn export(&self, name: &str) -> Option<usnap_nbd::proto::ExportInfo> {
            panic!("{name} was looked up");
        }
        fn list(&self) -> Vec<(String, Option<String>)> {
            Vec::new()
        }
    }
    let mut talk = Talk::new();
    let session = [
        option(STRUCTURED, &[]),
        option(EXTENDED, &[]),
        option(LIST, &[]),
        option(STARTTLS, &[]),
        option(GO, &Bytes::default().u32(9).0),
        option(ABORT, &[]),
    ];
    let mut out = Vec::new();
    let (_, progress) = talk
        .handshake
        .receive(&Untouchable, &session.concat(), &mut out);
    assert_eq!(progress, Progress::Closed(CloseReason::Aborted));
}

#[test]
fn an_option_longer_than_the_limit_is_skipped_and_answered_too_big() {
    for code in [LIST, INFO, GO, STRUCTURED, SET_META, EXTENDED] {
        let mut talk = Talk::new();
        assert_eq!(
            talk.reply_type(code, &vec![0; 65537]),
            ERR_TOO_BIG,
            "option {code}"
        );
        assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    }
}

#[test]
fn an_option_of_exactly_the_limit_is_looked_at() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(INFO, &vec![0; 65536]), ERR_INVALID);
}

#[test]
fn an_option_too_long_to_skip_drops_the_connection_before_its_data_came() {
    for len in [(32 << 20) + 1, u32::MAX] {
        let mut talk = Talk::new();
        let header = Bytes::default()
            .u64(0x4948_4156_454f_5054)
            .u32(99)
            .u32(len)
            .0;
        let reason = closed(&mut talk, &header);
        assert_eq!(
            reason,
            CloseReason::OptionTooLong {
                option: OptionCode::Unknown(99),
                len
            }
        );
    }
}

#[test]
fn a_session_of_too_many_options_is_dropped() {
    let mut talk = Talk::with(
        3,
        HandshakeLimits {
            max_options: 5,
            ..limits()
        },
        Features::default(),
    );
    for _ in 0..5 {
        assert_eq!(talk.reply_type(LIST, &[0]), ERR_INVALID);
    }
    assert_eq!(
        closed(&mut talk, &option(LIST, &[])),
        CloseReason::TooManyOptions
    );
    // Skipped ones count too.
    let mut talk = Talk::with(
        3,
        HandshakeLimits {
            max_options: 1,
            ..limits()
        },
        Features::default(),
    );
    assert_eq!(talk.reply_type(LIST, &vec![0; 70_000]), ERR_TOO_BIG);
    let header = Bytes::default()
        .u64(0x4948_4156_454f_5054)
        .u32(LIST)
        .u32(70_000)
        .0;
    assert_eq!(closed(&mut talk, &header), CloseReason::TooManyOptions);
}

#[test]
fn lists_asked_for_without_awaiting_the_replies_are_cut_off() {
    let mut talk = Talk::new();
    talk.shelf.exports[0].description = Some("d".repeat(4096));
    let flood = option(LIST, &[]).repeat(1000);
    let mut out = Vec::new();
    let (_, progress) = talk.handshake.receive(&talk.shelf, &flood, &mut out);
    assert_eq!(progress, Progress::Closed(CloseReason::TooMuchPipelined));
    assert!(out.len() < (1 << 20) + 10_000, "{} bytes", out.len());
}

#[test]
fn abort_is_acknowledged_and_its_data_ignored() {
    for data in [&[][..], b"so long", &vec![0; 100_000]] {
        let mut talk = Talk::new();
        let (progress, out) = talk.send(&option(ABORT, data));
        assert_eq!(progress, Progress::Closed(CloseReason::Aborted));
        assert_eq!(option_replies(&out, ABORT), [(ACK, vec![])]);
        assert!(CloseReason::Aborted.is_orderly());
    }
}

#[test]
fn list_names_every_export_with_its_description_and_rejects_data() {
    let mut talk = Talk::new();
    let replies = talk.option(LIST, &[]);
    let server = |name: &str, description: &str| {
        let len = u32::try_from(name.len()).unwrap();
        let bytes = Bytes::default().u32(len).bytes(name.as_bytes());
        (2, bytes.bytes(description.as_bytes()).0)
    };
    let expected = [
        server("disk", "all of disk"),
        server("small", ""),
        server("readonly", "all of readonly"),
        (ACK, vec![]),
    ];
    assert_eq!(replies, expected);
    assert_eq!(talk.reply_type(LIST, b"data"), ERR_INVALID);
}

#[test]
fn list_omits_names_no_client_could_ask_for() {
    let mut talk = Talk::new();
    talk.shelf.exports[0].name = "n".repeat(4097);
    talk.shelf.exports[1].name = "a\0b".to_owned();
    assert_eq!(
        talk.option(LIST, &[]).len(),
        2,
        "one export and the acknowledgement"
    );
}

#[test]
fn structured_reply_and_extended_headers_reject_data() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(STRUCTURED, b"x"), ERR_INVALID);
    assert_eq!(talk.reply_type(EXTENDED, b"x"), ERR_INVALID);
    assert_eq!(
        talk.go("disk").reply_style,
        ReplyStyle::Simple,
        "neither was negotiated"
    );
}

#[test]
fn structured_replies_may_be_asked_for_twice() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    assert_eq!(talk.go("disk").reply_style, ReplyStyle::Structured);
}

// Rule 24, as far as it binds the handshake.

#[test]
fn extended_headers_take_precedence_and_exclude_structured_reply() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    assert_eq!(talk.reply_type(EXTENDED, &[]), ACK);
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ERR_EXT_HEADER_REQD);
    assert_eq!(talk.reply_type(EXTENDED, &[]), ACK);
    assert_eq!(talk.go("disk").reply_style, ReplyStyle::Extended);
}

#[test]
fn export_name_after_extended_headers_drops_the_connection() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(EXTENDED, &[]), ACK);
    let reason = closed(&mut talk, &option(EXPORT_NAME, b"disk"));
    assert_eq!(reason, CloseReason::ExportNameAfterExtendedHeaders);
}

#[test]
fn features_that_are_off_are_answered_as_by_a_server_that_never_heard_of_them() {
    let off = Features {
        structured_replies: false,
        extended_headers: false,
        meta_contexts: false,
    };
    let mut talk = Talk::with(3, limits(), off);
    for code in [STRUCTURED, 9, SET_META, EXTENDED] {
        assert_eq!(talk.reply_type(code, &[]), ERR_UNSUP, "option {code}");
        assert_eq!(
            talk.reply_type(code, &vec![0; 70_000]),
            ERR_UNSUP,
            "option {code}, long"
        );
    }
    assert_eq!(talk.go("disk").reply_style, ReplyStyle::Simple);
}

#[test]
fn send_df_is_set_exactly_with_structured_replies_or_extended_headers() {
    for (options, expected) in [(&[][..], false), (&[STRUCTURED], true), (&[EXTENDED], true)] {
        let mut talk = Talk::new();
        for &code in options {
            assert_eq!(talk.reply_type(code, &[]), ACK);
        }
        let replies = talk.option(INFO, &info("disk", &[]));
        let flags = u16_at(&replies[0].1, 10);
        assert_eq!(flags & (1 << 7) != 0, expected, "{flags:#b}");
    }
}

#[test]
fn a_read_only_export_says_so_and_offers_no_command_that_writes() {
    let mut talk = Talk::new();
    let replies = talk.option(INFO, &info("readonly", &[]));
    // HAS_FLAGS, READ_ONLY, FLUSH, FUA, MULTI_CONN, CACHE.
    assert_eq!(u16_at(&replies[0].1, 10), 0b0101_0000_1111);
}

// Rule 23, as far as it binds the handshake.

#[test]
fn on_shutdown_every_option_but_abort_is_answered_shutdown() {
    let mut talk = Talk::new();
    talk.handshake.set_shutdown();
    for (code, data) in [
        (LIST, vec![]),
        (GO, info("disk", &[])),
        (99, vec![1]),
        (LIST, vec![0; 70_000]),
    ] {
        assert_eq!(talk.reply_type(code, &data), ERR_SHUTDOWN, "option {code}");
    }
    let (progress, out) = talk.send(&option(ABORT, &[]));
    assert_eq!(progress, Progress::Closed(CloseReason::Aborted));
    assert_eq!(option_replies(&out, ABORT), [(ACK, vec![])]);

    let mut talk = Talk::new();
    talk.handshake.set_shutdown();
    assert_eq!(
        closed(&mut talk, &option(EXPORT_NAME, b"disk")),
        CloseReason::ShuttingDown
    );
}

#[test]
fn after_the_end_nothing_is_taken_any_more() {
    let mut talk = Talk::new();
    let (progress, _) = talk.send(&option(GO, &info("disk", &[])));
    assert!(matches!(progress, Progress::Transmission(_)));
    let mut out = Vec::new();
    let again = talk
        .handshake
        .receive(&talk.shelf, &option(LIST, &[]), &mut out);
    assert_eq!(again, (0, Progress::Closed(CloseReason::AlreadyFinished)));
}

#[test]
fn error_replies_carry_a_message_for_people() {
    let mut talk = Talk::new();
    for (code, data, expected) in [
        (
            GO,
            info("no such", &[]),
            "there is no export named \"no such\"",
        ),
        (LIST, vec![1], "the option must have no data"),
        (99, vec![], "option 99 is not supported"),
    ] {
        let replies = talk.option(code, &data);
        assert_eq!(String::from_utf8_lossy(&replies[0].1), expected);
    }
}

#[test]
fn every_close_reason_reads_as_a_sentence_part() {
    let reasons = [
        CloseReason::Aborted,
        CloseReason::AlreadyFinished,
        CloseReason::BadClientFlags { found: 4 },
        CloseReason::BadOptionMagic { found: 1 },
        CloseReason::ExportNameAfterExtendedHeaders,
        CloseReason::ExportNameInvalid,
        CloseReason::OptionTooLong {
            option: OptionCode::Go,
            len: 9,
        },
        CloseReason::ShuttingDown,
        CloseReason::TooManyOptions,
        CloseReason::TooMuchPipelined,
        CloseReason::UnknownExport,
    ];
    for reason in reasons {
        let text = reason.to_string();
        assert!(text.len() > 10 && !text.ends_with('.'), "{text}");
        assert_eq!(reason.is_orderly(), reason == CloseReason::Aborted);
    }
}
