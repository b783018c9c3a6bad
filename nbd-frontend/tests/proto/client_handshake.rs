//! The client's handshake with servers that are old, refuse, or break the rules: bytes by hand.

use usnap_nbd::proto::client::{
    ClientHandshake, ClientNegotiated, ClientOptions, ClientProgress, HandshakeFailure,
};
use usnap_nbd::proto::{BlockSizes, OptionCode, OptionError, ReplyStyle, TransmissionFlags};

use crate::support::wire::{ACK, Bytes, ERR_SHUTDOWN, ERR_UNKNOWN, ERR_UNSUP, option};

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
const ERR_TLS_REQD: u32 = 0x8000_0005;

fn reply(code: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let bytes = Bytes::default()
        .u64(0x0003_e889_0455_65a9)
        .u32(code)
        .u32(kind);
    bytes.u32(u32::try_from(data.len()).unwrap()).bytes(data).0
}

fn export_info() -> Vec<u8> {
    reply(7, 3, &Bytes::default().u16(0).u64(1 << 20).u16(1).0)
}

fn options(structured: bool, extended: bool, contexts: &[&str]) -> ClientOptions {
    ClientOptions {
        export_name: "disk".to_owned(),
        structured,
        extended,
        contexts: contexts.iter().map(|&name| name.to_owned()).collect(),
        use_go: true,
    }
}

/// Plays a server's messages; returns all the client sent and where it ended.
fn play(options: ClientOptions, messages: &[&[u8]]) -> (Vec<u8>, ClientProgress) {
    let mut client = ClientHandshake::new(options);
    let mut sent = Vec::new();
    let mut received = Vec::new();
    let mut progress = ClientProgress::NeedMore;
    for message in messages {
        assert_eq!(progress, ClientProgress::NeedMore, "before {message:x?}");
        received.extend(*message);
        let used;
        (used, progress) = client.receive(&received, &mut sent);
        received.drain(..used);
    }
    (sent, progress)
}

fn failure(options: ClientOptions, messages: &[&[u8]]) -> HandshakeFailure {
    match play(options, messages).1 {
        ClientProgress::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn ready(options: ClientOptions, messages: &[&[u8]]) -> ClientNegotiated {
    match play(options, messages).1 {
        ClientProgress::Ready(negotiated) => negotiated,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_asks_for_extended_headers_contexts_and_the_export_in_that_order() {
    let context = reply(10, 4, &Bytes::default().u32(5).bytes(b"base:allocation").0);
    let block_size = Bytes::default().u16(3).u32(1).u32(4096).u32(1 << 25).0;
    let (sent, progress) = play(
        options(true, true, &["base:allocation"]),
        &[
            GREETING,
            &reply(11, ACK, &[]),
            &[context, reply(10, ACK, &[])].concat(),
            &[
                export_info(),
                reply(7, 3, &block_size),
                reply(7, 3, b"\0\x63new"),
                reply(7, ACK, &[]),
            ]
            .concat(),
        ],
    );
    let go = Bytes::default()
        .u32(4)
        .bytes(b"disk")
        .u16(3)
        .u16(1)
        .u16(2)
        .u16(3)
        .0;
    let set = Bytes::default()
        .u32(4)
        .bytes(b"disk")
        .u32(1)
        .u32(15)
        .bytes(b"base:allocation")
        .0;
    let expected = [
        vec![0, 0, 0, 3],
        option(11, &[]),
        option(10, &set),
        option(7, &go),
    ];
    assert_eq!(sent, expected.concat());
    let expected = ClientNegotiated {
        size_bytes: 1 << 20,
        flags: TransmissionFlags(1),
        block_sizes: Some(BlockSizes {
            minimum: 1,
            preferred: 4096,
            max_payload: 1 << 25,
        }),
        reply_style: ReplyStyle::Extended,
        contexts: vec![(5, "base:allocation".to_owned())],
        canonical_name: None,
        description: None,
    };
    assert_eq!(progress, ClientProgress::Ready(expected));
}

#[test]
fn it_falls_back_to_structured_replies_then_to_simple_ones() {
    let go = [export_info(), reply(7, ACK, &[])].concat();
    let unsup = |code| reply(code, ERR_UNSUP, b"never heard of it");
    let it = ready(
        options(true, true, &[]),
        &[GREETING, &unsup(11), &reply(8, ACK, &[]), &go],
    );
    assert_eq!(it.reply_style, ReplyStyle::Structured);
    let contexts = &["base:allocation"];
    let it = ready(
        options(true, true, contexts),
        &[GREETING, &unsup(11), &unsup(8), &go],
    );
    assert_eq!((it.reply_style, it.contexts.len()), (ReplyStyle::Simple, 0));
}

#[test]
fn it_does_without_contexts_that_are_refused() {
    let context = reply(10, 4, &Bytes::default().u32(5).bytes(b"base:allocation").0);
    let it = ready(
        options(true, false, &["base:allocation"]),
        &[
            GREETING,
            &reply(8, ACK, &[]),
            &[context, reply(10, ERR_UNKNOWN, &[])].concat(),
            &[export_info(), reply(7, ACK, &[])].concat(),
        ],
    );
    assert_eq!(it.contexts, [], "replies before an error are disregarded");
}

#[test]
fn it_falls_back_to_export_name_and_expects_zeroes_unless_waived() {
    for (greeting, flags, zeroes) in [(GREETING, 3, 0), (b"NBDMAGICIHAVEOPT\0\x01", 1, 124)] {
        let size = [Bytes::default().u64(77).u16(3).0, vec![0; zeroes]].concat();
        let go_refused = reply(7, ERR_UNSUP, &[]);
        let (sent, progress) = play(
            options(false, false, &[]),
            &[greeting, &go_refused, &size[..9], &[]],
        );
        assert_eq!(progress, ClientProgress::NeedMore);
        assert_eq!(sent[..4], u32::to_be_bytes(flags));
        assert!(sent.ends_with(&option(1, b"disk")));
        let it = ready(options(false, false, &[]), &[greeting, &go_refused, &size]);
        assert_eq!((it.size_bytes, it.flags.0), (77, 3));
    }
}

#[test]
fn it_uses_export_name_alone_with_a_server_of_plain_newstyle() {
    let greeting = b"NBDMAGICIHAVEOPT\0\0";
    let answer = [Bytes::default().u64(77).u16(1).0, vec![0; 124]].concat();
    let (sent, progress) = play(
        options(true, true, &["base:allocation"]),
        &[greeting, &answer],
    );
    assert_eq!(sent, [vec![0, 0, 0, 0], option(1, b"disk")].concat());
    assert!(matches!(progress, ClientProgress::Ready(_)));
}

#[test]
fn it_aborts_when_the_server_refuses_for_good() {
    let cases: [(&[&[u8]], OptionCode, OptionError); 3] = [
        (
            &[&reply(11, ERR_SHUTDOWN, b"bye")],
            OptionCode::ExtendedHeaders,
            OptionError::Shutdown,
        ),
        (
            &[&reply(11, ERR_TLS_REQD, b"bye")],
            OptionCode::ExtendedHeaders,
            OptionError::TlsRequired,
        ),
        (
            &[&reply(11, ACK, &[]), &reply(7, ERR_UNKNOWN, b"bye")],
            OptionCode::Go,
            OptionError::UnknownExport,
        ),
    ];
    for (messages, option_code, error) in cases {
        let messages = [&[GREETING], messages].concat();
        let (sent, progress) = play(options(true, true, &[]), &messages);
        assert!(sent.ends_with(&option(2, &[])), "a soft disconnect");
        let message = "bye".to_owned();
        let expected = HandshakeFailure::Refused {
            option: option_code,
            error,
            message,
        };
        assert_eq!(progress, ClientProgress::Failed(expected));
    }
}

#[test]
fn go_refused_as_unsup_after_extended_headers_is_the_end() {
    let it = failure(
        options(true, true, &[]),
        &[GREETING, &reply(11, ACK, &[]), &reply(7, ERR_UNSUP, &[])],
    );
    assert!(
        matches!(
            it,
            HandshakeFailure::Refused {
                option: OptionCode::Go,
                ..
            }
        ),
        "{it}"
    );
}

#[test]
fn servers_that_break_the_handshake_are_left() {
    let none = || options(false, false, &[]);
    assert_eq!(
        failure(none(), &[b"SSH-2.0-"]),
        HandshakeFailure::BadMagic {
            found: u64::from_be_bytes(*b"SSH-2.0-")
        }
    );
    let oldstyle = Bytes::default()
        .bytes(b"NBDMAGIC")
        .u64(0x0000_4202_8186_1253)
        .0;
    assert_eq!(failure(none(), &[&oldstyle]), HandshakeFailure::Oldstyle);
    let bad: [Vec<u8>; 9] = [
        // Another option's reply; too long; an acknowledgement with data; without NBD_INFO_EXPORT.
        reply(8, ACK, &[]),
        Bytes::default()
            .u64(0x0003_e889_0455_65a9)
            .u32(7)
            .u32(3)
            .u32(u32::MAX)
            .0,
        reply(7, ACK, &[0]),
        reply(7, ACK, &[]),
        // A type that does not belong to the option.
        reply(7, 4, &[0; 8]),
        // Informations of the wrong length, and one that is not a string.
        reply(7, 3, &[0]),
        reply(7, 3, &[0; 11]),
        reply(7, 3, &[0, 3, 0]),
        reply(7, 3, &[0, 1, 0xff]),
    ];
    for message in bad {
        let it = failure(none(), &[GREETING, &message]);
        assert!(
            matches!(it, HandshakeFailure::BadReply { .. }),
            "{message:x?}: {it}"
        );
    }
    let flood = export_info().repeat(1025);
    assert!(matches!(
        failure(none(), &[GREETING, &flood]),
        HandshakeFailure::BadReply { .. }
    ));
    let long = ClientOptions::new("n".repeat(4097));
    assert_eq!(failure(long, &[GREETING]), HandshakeFailure::NameTooLong);
}

#[test]
fn block_sizes_that_break_the_rules_are_ignored() {
    for (min, preferred, max) in [
        (3, 4096, 1 << 25),
        (1 << 17, 1 << 17, 1 << 25),
        (1, 256, 1 << 25),
        (1, 4096, 512),
    ] {
        let sizes = Bytes::default().u16(3).u32(min).u32(preferred).u32(max).0;
        let go = [export_info(), reply(7, 3, &sizes), reply(7, ACK, &[])].concat();
        let it = ready(options(false, false, &[]), &[GREETING, &go]);
        assert_eq!((it.block_sizes, it.max_payload_bytes()), (None, 32 << 20));
    }
}

#[test]
fn two_contexts_with_one_id_are_refused() {
    let context = reply(10, 4, &Bytes::default().u32(5).bytes(b"base:allocation").0);
    let it = failure(
        options(true, false, &["base:allocation"]),
        &[GREETING, &reply(8, ACK, &[]), &context.repeat(2)],
    );
    assert!(matches!(it, HandshakeFailure::BadReply { .. }), "{it}");
}

#[test]
fn after_extended_headers_go_is_used_even_if_it_was_not_wanted() {
    let options = ClientOptions {
        use_go: false,
        ..options(false, true, &[])
    };
    let go = [export_info(), reply(7, ACK, &[])].concat();
    let it = ready(options, &[GREETING, &reply(11, ACK, &[]), &go]);
    assert_eq!(it.reply_style, ReplyStyle::Extended);
}
