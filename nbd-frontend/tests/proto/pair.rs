//! Client and server joined: every command in every style, with streams that deliver everything at
//! once, a few bytes at a time, and byte by byte.

use usnap_nbd::proto::client::blocking::{Answer, Client, ClientError, Zeroing};
use usnap_nbd::proto::client::{ClientOptions, Extent};
use usnap_nbd::proto::{Errno, Features, ReplyStyle, RequestKind};

use crate::support::loopback::Loopback;
use crate::support::{DISK_BYTES, Shelf};

const BASE: &str = "base:allocation";
const DEPTH: &str = "qemu:allocation-depth";

fn options(style: ReplyStyle) -> ClientOptions {
    ClientOptions {
        export_name: "disk".to_owned(),
        structured: style == ReplyStyle::Structured,
        extended: style == ReplyStyle::Extended,
        contexts: vec![BASE.to_owned(), DEPTH.to_owned()],
        use_go: true,
    }
}

fn connect(style: ReplyStyle, piece: usize) -> Client<Loopback> {
    let stream = Loopback::new(Shelf::default(), Features::default(), piece);
    let client = Client::connect(stream, options(style)).unwrap();
    assert_eq!(client.negotiated().reply_style, style);
    client
}

fn each(test: impl Fn(Client<Loopback>)) {
    for style in [
        ReplyStyle::Simple,
        ReplyStyle::Structured,
        ReplyStyle::Extended,
    ] {
        for piece in [usize::MAX, 7, 1] {
            test(connect(style, piece));
        }
    }
}

fn refusal(result: Result<(), ClientError>) -> Errno {
    match result {
        Err(ClientError::Refused(refusal)) => refusal.errno,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_written_is_read_back() {
    each(|mut client| {
        let data: Vec<u8> = (0..10_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        client.write_at(&data, 12_345, false).unwrap();
        client.write_at(b"durable", 0, true).unwrap();
        let mut back = vec![0xee; 30_000];
        client.read_at(&mut back, 0).unwrap();
        assert_eq!(&back[..7], b"durable");
        assert!(back[7..12_345].iter().all(|&byte| byte == 0));
        assert_eq!(back[12_345..22_345], data);
        assert!(back[22_345..].iter().all(|&byte| byte == 0));
        client.flush().unwrap();
        let stream = client.disconnect().unwrap();
        assert_eq!(stream.server.closed.as_deref(), Some("client disconnected"));
    });
}

#[test]
fn trims_zeroes_and_caches_are_carried_out() {
    each(|mut client| {
        client.write_at(&[7; 8192], 0, false).unwrap();
        client
            .write_zeroes(
                0,
                4096,
                Zeroing {
                    fua: true,
                    no_hole: true,
                    fast_zero: false,
                },
            )
            .unwrap();
        client.trim(4096, 100, true).unwrap();
        client.cache(0, DISK_BYTES).unwrap();
        let mut back = [1; 8192];
        client.read_at(&mut back, 0).unwrap();
        assert!(back[..4196].iter().all(|&byte| byte == 0));
        assert!(back[4196..].iter().all(|&byte| byte == 7));
        let fast = Zeroing {
            fast_zero: true,
            ..Zeroing::default()
        };
        assert_eq!(refusal(client.write_zeroes(0, 4096, fast)), Errno::NotSup);
    });
}

#[test]
fn refused_requests_leave_the_session_usable() {
    each(|mut client| {
        let mut buf = [0; 512];
        assert_eq!(
            refusal(client.read_at(&mut buf, DISK_BYTES - 1)),
            Errno::Inval
        );
        assert_eq!(
            refusal(client.write_at(&buf, DISK_BYTES - 1, false)),
            Errno::NoSpc
        );
        assert_eq!(refusal(client.trim(DISK_BYTES, 1, false)), Errno::Inval);
        client.write_at(&[1; 512], 0, false).unwrap();
        client.read_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [1; 512]);
    });
}

#[test]
fn errors_arrive_with_their_message_where_replies_have_room_for_it() {
    each(|mut client| {
        let Err(ClientError::Refused(refusal)) = client.write_at(&[0; 9], DISK_BYTES, false) else {
            panic!()
        };
        let expected = match client.negotiated().reply_style {
            ReplyStyle::Simple => "",
            _ => "the request goes past the end of the export",
        };
        assert_eq!(refusal.message, expected);
    });
}

#[test]
fn block_status_tells_each_context_its_extents() {
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut client = connect(style, 5);
        client.write_at(&[1; 4096], 8192, false).unwrap();
        let status = client.block_status(4096, 20_480, false).unwrap();
        let extent = |len, flags| Extent { len, flags };
        let base = vec![extent(4096, 3), extent(4096, 0), extent(12_288, 3)];
        let depth = vec![extent(4096, 0), extent(4096, 1), extent(12_288, 0)];
        assert_eq!(status, [(1, base), (2, depth)]);
        let one = client.block_status(4096, 20_480, true).unwrap();
        assert_eq!(one[0].1, [extent(4096, 3)]);
    }
    let mut client = connect(ReplyStyle::Simple, 5);
    let result = client.block_status(0, 4096, false);
    assert!(
        matches!(result, Err(ClientError::Unsupported(_))),
        "{result:?}"
    );
}

#[test]
fn many_requests_in_flight_each_get_their_own_answer() {
    each(|mut client| {
        let mut expected = Vec::new();
        for n in 0..20_u8 {
            let offset = u64::from(n) * 1000;
            let write = RequestKind::Write {
                len: 1000,
                fua: false,
            };
            client.submit(offset, write, &[n; 1000]).unwrap();
            let read = RequestKind::Read {
                len: 500,
                dont_fragment: n % 2 == 0 && client.negotiated().flags.has(1 << 7),
            };
            let cookie = client.submit(offset + 100, read, &[]).unwrap();
            expected.push((cookie, n));
        }
        assert_eq!(client.in_flight(), 40);
        // A call in between does not lose the others.
        client.flush().unwrap();
        for _ in 0..40 {
            let completion = client.reap().unwrap();
            if let Ok(Answer::Data(data)) = completion.result {
                let (_, n) = expected
                    .iter()
                    .find(|(cookie, _)| *cookie == completion.cookie)
                    .unwrap();
                assert_eq!(data, [*n; 500]);
            } else {
                assert_eq!(completion.result, Ok(Answer::Done));
            }
        }
        assert!(matches!(client.reap(), Err(ClientError::NothingInFlight)));
    });
}

#[test]
fn zero_length_requests_are_answered() {
    each(|mut client| {
        for kind in [
            RequestKind::Read {
                len: 0,
                dont_fragment: false,
            },
            RequestKind::Write { len: 0, fua: false },
            RequestKind::Trim { len: 0, fua: false },
            RequestKind::Cache { len: 0 },
        ] {
            client.submit(0, kind, &[]).unwrap();
            let result = client.reap().unwrap().result;
            assert!(
                matches!(&result, Ok(Answer::Done | Answer::Data(_))),
                "{kind:?}: {result:?}"
            );
        }
    });
}

#[test]
fn old_clients_and_servers_find_a_common_language() {
    let all = Features::default();
    let none = Features {
        structured_replies: false,
        extended_headers: false,
        meta_contexts: false,
    };
    let no_ext = Features {
        extended_headers: false,
        ..all
    };
    for (features, use_go, ask, expected) in [
        (none, true, (true, true), ReplyStyle::Simple),
        (no_ext, true, (true, true), ReplyStyle::Structured),
        (all, true, (false, true), ReplyStyle::Extended),
        (all, false, (true, false), ReplyStyle::Structured),
        (all, false, (false, false), ReplyStyle::Simple),
    ] {
        let options = ClientOptions {
            use_go,
            structured: ask.0,
            extended: ask.1,
            ..options(ReplyStyle::Simple)
        };
        let stream = Loopback::new(Shelf::default(), features, 3);
        let mut client = Client::connect(stream, options).unwrap();
        assert_eq!(client.negotiated().reply_style, expected);
        client.write_at(b"hello", 5, false).unwrap();
        let mut back = [0; 5];
        client.read_at(&mut back, 5).unwrap();
        assert_eq!(&back, b"hello");
    }
}

#[test]
fn a_refused_export_is_told_with_the_servers_words() {
    let stream = Loopback::new(Shelf::default(), Features::default(), 1);
    let error = Client::connect(stream, ClientOptions::new("nothing"))
        .map(|_| ())
        .unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    let expected =
        "server refused NBD_OPT_GO: no such export (there is no export named \"nothing\")";
    assert_eq!(source, expected);
}

#[test]
fn a_server_that_closes_is_reported_as_closed() {
    // EXPORT_NAME of an unknown export: the connection ends without a word.
    let stream = Loopback::new(Shelf::default(), Features::default(), 1);
    let options = ClientOptions {
        use_go: false,
        extended: false,
        ..ClientOptions::new("nothing")
    };
    assert!(matches!(
        Client::connect(stream, options),
        Err(ClientError::Closed)
    ));
}

#[test]
fn a_read_only_export_takes_no_writes_and_the_client_does_not_send_any() {
    let stream = Loopback::new(Shelf::default(), Features::default(), 9);
    let mut client = Client::connect(stream, ClientOptions::new("readonly")).unwrap();
    let result = client.write_at(&[0; 9], 0, false);
    assert!(
        matches!(result, Err(ClientError::Unsupported(_))),
        "{result:?}"
    );
    let mut buf = [1; 9];
    client.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [0; 9]);
}

#[test]
fn a_payload_of_the_wrong_length_is_not_sent() {
    let mut client = connect(ReplyStyle::Extended, usize::MAX);
    let result = client.submit(
        0,
        RequestKind::Write {
            len: 10,
            fua: false,
        },
        &[0; 9],
    );
    assert!(matches!(result, Err(ClientError::WrongPayload)));
    client.flush().unwrap();
}
