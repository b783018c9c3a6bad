//! Peers that send anything at all: no panic, no unbounded memory, and an end or an answer.

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};
use usnap_nbd::proto::client::blocking::Client;
use usnap_nbd::proto::client::{
    ClientHandshake, ClientNegotiated, ClientOptions, ClientProgress, block_status_extents,
};
use usnap_nbd::proto::{
    Cookie, Decoded, Features, MAX_DRAIN_BYTES, MetaContexts, Negotiated, ReplyStyle, Request,
    RequestKind, TransmissionFlags,
};

use crate::support::loopback::Loopback;
use crate::support::server::MemServer;
use crate::support::wire::{self, Bytes};
use crate::support::{Shelf, full};

fn style() -> impl Strategy<Value = ReplyStyle> {
    prop_oneof![
        proptest::prelude::Just(ReplyStyle::Simple),
        proptest::prelude::Just(ReplyStyle::Structured),
        proptest::prelude::Just(ReplyStyle::Extended),
    ]
}

/// Numbers at the edges more often than elsewhere.
fn edge() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..40_u32,
        any::<u32>(),
        (0..4_u32).prop_map(|n| u32::MAX - n),
        65530..65545_u32
    ]
}

/// An option that is well framed and has any data.
fn framed_option() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![0..14_u32, any::<u32>()];
    let data = prop_oneof![
        vec(any::<u8>(), 0..80),
        // A name, a count and more, with lengths that may lie.
        (
            edge(),
            "[a-z:]{0,12}",
            edge(),
            vec((edge(), "[a-z:]{0,12}"), 0..4)
        )
            .prop_map(|(len, name, count, queries)| {
                let start = Bytes::default().u32(len).bytes(name.as_bytes()).u32(count);
                queries
                    .into_iter()
                    .fold(start, |bytes, (len, query)| {
                        bytes.u32(len).bytes(query.as_bytes())
                    })
                    .0
            }),
        ("(|disk|small|none)", vec(any::<u16>(), 0..9))
            .prop_map(|(name, requests)| wire::info(&name, &requests)),
        (
            "(|disk|small|none)",
            vec("(base|qemu|x):(|allocation|allocation-depth)", 0..5)
        )
            .prop_map(|(name, queries)| {
                wire::meta(
                    &name,
                    &queries.iter().map(String::as_str).collect::<Vec<_>>(),
                )
            }),
    ];
    (code, data).prop_map(|(code, data)| wire::option(code, &data))
}

/// A request with the magic of its style and any fields, and some bytes behind it.
fn framed_request() -> impl Strategy<Value = Vec<u8>> {
    let near = prop_oneof![
        0..5000_u64,
        any::<u64>(),
        (1 << 20) - 600..(1 << 20) + 600_u64
    ];
    let fields = (
        0..64_u16,
        0..10_u16,
        any::<u64>(),
        near,
        edge(),
        any::<bool>(),
    );
    (fields, vec(any::<u8>(), 0..700)).prop_map(
        |((flags, command, cookie, offset, len, extended), payload)| {
            let header = if extended {
                wire::extended(flags, command, cookie, offset, len.into())
            } else {
                wire::request(flags, command, cookie, offset, len)
            };
            [header, payload].concat()
        },
    )
}

/// A reply to an option: its code, its type and its data.
fn option_reply() -> impl Strategy<Value = (u32, u32, Vec<u8>)> {
    (
        0..12_u32,
        prop_oneof![0..6_u32, any::<u32>()],
        vec(any::<u8>(), 0..30),
    )
}

fn serve(session: &[u8], piece: usize) -> MemServer {
    let (mut server, _) = MemServer::new(Shelf::default(), Features::default());
    let mut out = Vec::new();
    for bytes in session.chunks(piece) {
        server.receive(bytes, &mut out);
        // An option may be kept until it is whole; a request until its payload is.
        assert!(
            server.max_inbox_bytes <= (64 << 20) + 32,
            "{} bytes",
            server.max_inbox_bytes
        );
        assert!(out.len() < 8 << 20, "{} bytes of output", out.len());
    }
    server
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_for_a_handshake_end_in_an_answer_or_a_close(
        flags in prop_oneof![0..5_u32, any::<u32>()],
        bytes in vec(any::<u8>(), 0..300),
        piece in 1..64_usize,
    ) {
        serve(&[flags.to_be_bytes().to_vec(), bytes].concat(), piece);
    }

    #[test]
    fn any_options_end_in_an_answer_or_a_close(
        options in vec(framed_option(), 0..12),
        piece in 1..200_usize,
    ) {
        serve(&[vec![0, 0, 0, 3], options.concat()].concat(), piece);
    }

    #[test]
    fn any_requests_end_in_an_answer_or_a_close(
        style in 0..3_usize,
        requests in vec(framed_request(), 0..12),
        piece in 1..200_usize,
    ) {
        let negotiation: &[&[u8]] = &[
            &[],
            &wire::option(8, &[]),
            &[
                wire::option(11, &[]),
                wire::option(10, &wire::meta("", &["base:allocation"])),
            ]
            .concat(),
        ];
        let go = wire::option(7, &wire::info("", &[3]));
        serve(&[&[0, 0, 0, 3], negotiation[style], &go, &requests.concat()].concat(), piece);
    }

    #[test]
    fn whatever_a_header_holds_the_request_lies_inside_the_export(
        style in style(),
        bytes in vec(any::<u8>(), 32),
        fields in framed_request(),
        min_block in 0..10_u32,
    ) {
        let mut export = full("disk", 1 << 20);
        export.min_block_bytes = 1 << min_block;
        let it = Negotiated::new(export, style, MetaContexts::all(), true);
        for header in [&bytes[..], &fields[..]] {
            let Some(header) = header.get(..it.header_len()) else { continue };
            match it.decode_request(header) {
                Ok(Decoded::Request(request)) => {
                    let len = request.kind.effect_len();
                    if request.kind != RequestKind::Disconnect {
                        assert!(request.offset.checked_add(len).is_some_and(|end| end <= 1 << 20));
                        assert_eq!((request.offset | len) & ((1 << min_block) - 1), 0);
                    }
                    assert_eq!(
                        request.payload_len() > 0,
                        matches!(request.kind, RequestKind::Write { len, .. } if len > 0)
                    );
                }
                Ok(Decoded::Refused(refused)) => assert!(refused.payload_len <= MAX_DRAIN_BYTES),
                Err(fatal) => assert!(!fatal.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn a_client_survives_any_bytes_of_a_server(
        greeting in any::<bool>(),
        bytes in vec(any::<u8>(), 0..400),
        replies in vec(option_reply(), 0..8),
    ) {
        let mut session = if greeting { b"NBDMAGICIHAVEOPT\0\x03".to_vec() } else { Vec::new() };
        for (option, kind, data) in replies {
            let bytes = Bytes::default().u64(0x0003_e889_0455_65a9).u32(option).u32(kind);
            session.extend(bytes.u32(u32::try_from(data.len()).unwrap()).bytes(&data).0);
        }
        session.extend(bytes);
        let mut client = ClientHandshake::new(ClientOptions::new("disk"));
        let mut out = Vec::new();
        let (used, progress) = client.receive(&session, &mut out);
        assert!(used <= session.len());
        if let ClientProgress::Failed(failure) = progress {
            assert!(!failure.to_string().is_empty());
        }
    }

    #[test]
    fn a_client_takes_no_reply_that_describes_bytes_outside_of_its_request(
        style in style(),
        kind in prop_oneof![
            (1..5000_u32).prop_map(|len| RequestKind::Read { len, dont_fragment: false }),
            (1..5000_u64).prop_map(|len| RequestKind::BlockStatus { len, req_one: false }),
            (1..5000_u32).prop_map(|len| RequestKind::Write { len, fua: false }),
        ],
        chunk_type in prop_oneof![0..8_u16, 0x8000..0x8004_u16],
        len in edge(),
        body in vec(any::<u8>(), 0..64),
    ) {
        let request = Request { cookie: Cookie(3), offset: 777, kind };
        let it = ClientNegotiated {
            size_bytes: 1 << 20,
            flags: TransmissionFlags(u16::MAX),
            block_sizes: None,
            reply_style: style,
            contexts: Vec::new(),
            canonical_name: None,
            description: None,
        };
        let header = match style {
            ReplyStyle::Simple => Bytes::default().u32(0x6744_6698).u32(len % 3).u64(3),
            ReplyStyle::Structured => {
                Bytes::default().u32(0x668e_33ef).u16(1).u16(chunk_type).u64(3).u32(len)
            }
            ReplyStyle::Extended => {
                let bytes = Bytes::default().u32(0x6e8a_278c).u16(1).u16(chunk_type).u64(3);
                bytes.u64(777).u64(len.into())
            }
        };
        let bytes = header.bytes(&body).0;
        if let Ok(Some((chunk, used))) = it.decode_reply(&bytes, |_| Some(request)) {
            assert!(used <= bytes.len());
            // The longest payload is that of a block status with 2^20 extents.
            assert!(chunk.payload_len <= 8 + (16 << 20));
            if let usnap_nbd::proto::client::ReplyKind::Data { offset } = chunk.kind {
                let end = offset.checked_add(chunk.payload_len.into()).unwrap();
                assert!(offset >= 777 && end <= 777 + kind.effect_len());
            }
            let (message, _) = chunk.error_details(&bytes[used..]);
            assert!(message.len() <= body.len());
        }
        drop(block_status_extents(style, &request, &body));
    }
}

/// A server whose every byte from some point on is noise.
#[test]
fn a_blocking_client_survives_a_server_gone_mad() {
    struct Mad {
        inner: Loopback,
        calm: usize,
        noise: u64,
    }
    impl std::io::Read for Mad {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if self.calm > 0 {
                let len = buf.len().min(self.calm);
                let len = self.inner.read(&mut buf[..len])?;
                self.calm -= len;
                return Ok(len);
            }
            for byte in &mut *buf {
                self.noise = self
                    .noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = self.noise.to_be_bytes()[0];
            }
            Ok(buf.len())
        }
    }
    impl std::io::Write for Mad {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.inner.write(buf)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut failed = 0;
    for calm in 0..400 {
        let inner = Loopback::new(Shelf::default(), Features::default(), usize::MAX);
        let noise = u64::try_from(calm).unwrap();
        let Ok(mut client) =
            Client::connect(Mad { inner, calm, noise }, ClientOptions::new("disk"))
        else {
            failed += 1;
            continue;
        };
        let mut buf = [0; 64];
        for _ in 0..20 {
            if client.read_at(&mut buf, 0).is_err() {
                failed += 1;
                assert!(client.flush().is_err(), "a broken client stays broken");
                break;
            }
        }
    }
    assert_eq!(failed, 400);
}

#[test]
fn a_longest_option_is_the_most_that_is_kept() {
    let header = Bytes::default().u64(wire::OPT_MAGIC).u32(6).u32(65536).0;
    let session = [&[0, 0, 0, 3], &header[..], &[0; 65536]].concat();
    let server = serve(&session, 1000);
    assert!(server.max_inbox_bytes <= 65536 + 16);
    // One byte more, and it is thrown away as it comes.
    let header = Bytes::default().u64(wire::OPT_MAGIC).u32(6).u32(1 << 20).0;
    let session = [&[0, 0, 0, 3], &header[..], &vec![0; 1 << 20]].concat();
    let server = serve(&session, 1000);
    assert!(server.max_inbox_bytes <= 16, "{}", server.max_inbox_bytes);
}
