//! NBD URIs (uri.md): written, read back, and refused when malformed.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use usnap_nbd::proto::uri::{Address, NbdUri, UriError};

fn parse(text: &str) -> NbdUri {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn tcp(text: &str) -> (String, u16, String) {
    let uri = parse(text);
    let Address::Tcp { host, port } = uri.address else {
        panic!("{text}")
    };
    (host, port, uri.export_name)
}

#[test]
fn the_path_without_its_slash_is_the_export_name() {
    // The table of uri.md, "NBD URI export name".
    for (text, name) in [
        ("nbd://example.com/disk", "disk"),
        ("nbd+unix:///disk?socket=sock", "disk"),
        ("nbd://example.com/", ""),
        ("nbd://example.com", ""),
        ("nbd://example.com//disk", "/disk"),
        ("nbd://example.com/hello%20world", "hello world"),
    ] {
        assert_eq!(parse(text).export_name, name, "{text}");
    }
}

#[test]
fn hosts_and_ports_are_read() {
    let owned = |host: &str, port, name: &str| (host.to_owned(), port, name.to_owned());
    assert_eq!(tcp("nbd://localhost"), owned("localhost", 10809, ""));
    assert_eq!(
        tcp("nbd://127.0.0.1:10810/x"),
        owned("127.0.0.1", 10810, "x")
    );
    assert_eq!(tcp("nbd://[::1]:7/x"), owned("::1", 7, "x"));
    assert_eq!(tcp("nbds://[fe80::1]"), owned("fe80::1", 10809, ""));
    assert_eq!(tcp("NBD://host:/"), owned("host", 10809, ""));
}

#[test]
fn sockets_may_have_any_bytes() {
    for (text, socket) in [
        ("nbd+unix:///?socket=/run/a.sock", &b"/run/a.sock"[..]),
        ("nbd+unix:///?socket=%00/abstract", b"\0/abstract"),
        ("nbds+unix:///?socket=%ff%FE", b"\xff\xfe"),
    ] {
        assert_eq!(
            parse(text).address,
            Address::Unix {
                socket: socket.to_vec()
            },
            "{text}"
        );
    }
}

#[test]
fn tls_users_and_parameters_are_kept() {
    let uri = parse("nbds://alice@example.com/?tls-hostname=a%20b&x-mine=1");
    assert!(uri.tls);
    assert_eq!(uri.user.as_deref(), Some("alice"));
    let expected = [
        ("tls-hostname".to_owned(), "a b".to_owned()),
        ("x-mine".to_owned(), "1".to_owned()),
    ];
    assert_eq!(uri.parameters, expected);
    assert_eq!(
        uri.to_string(),
        "nbds://alice@example.com/?tls-hostname=a%20b&x-mine=1"
    );
}

#[test]
fn uris_are_written_as_people_expect_them() {
    for (uri, expected) in [
        (
            NbdUri::unix("/run/usnap.sock", ""),
            "nbd+unix:///?socket=/run/usnap.sock",
        ),
        (
            NbdUri::unix("/tmp/a b&c", "disk 1"),
            "nbd+unix:///disk%201?socket=/tmp/a%20b%26c",
        ),
        (
            NbdUri::tcp("localhost", 10809, "disk"),
            "nbd://localhost/disk",
        ),
        (
            NbdUri::tcp("::1", 10810, "/a?b"),
            "nbd://[::1]:10810//a%3Fb",
        ),
        (NbdUri::tcp("h", 1, "\u{e9}"), "nbd://h:1/%C3%A9"),
    ] {
        assert_eq!(uri.to_string(), expected);
        assert_eq!(parse(expected), uri);
    }
}

#[test]
fn malformed_uris_are_refused_for_what_is_wrong() {
    for (text, error) in [
        ("", UriError::Scheme),
        ("disk.img", UriError::Scheme),
        ("http://example.com", UriError::Scheme),
        ("nbd:host", UriError::Syntax),
        ("nbd://", UriError::Syntax),
        ("nbd:///disk", UriError::Syntax),
        ("nbd://[::1", UriError::Syntax),
        ("nbd://[::1]x", UriError::Syntax),
        ("nbd://host name/", UriError::Syntax),
        ("nbd://host/\u{e9}", UriError::Syntax),
        ("nbd://host/disk#1", UriError::Syntax),
        ("nbd://host:0", UriError::BadPort),
        ("nbd://host:65536", UriError::BadPort),
        ("nbd://host:+1", UriError::BadPort),
        ("nbd://host/%", UriError::BadEscape),
        ("nbd://host/%4", UriError::BadEscape),
        ("nbd://host/%+4", UriError::BadEscape),
        ("nbd://host/%ff", UriError::NotUtf8),
        ("nbd://host/a%00", UriError::BadExportName),
        ("nbd+unix:///", UriError::Socket),
        ("nbd+unix:///?socket=", UriError::Socket),
        ("nbd+unix:///?socket=a&socket=b", UriError::Socket),
        ("nbd://host/?socket=a", UriError::Socket),
        ("nbd+unix://host/?socket=a", UriError::Syntax),
        ("nbd://host/?soket=a", UriError::UnknownParameter),
    ] {
        let result = text.parse::<NbdUri>();
        assert_eq!(result.as_ref(), Err(&error), "{text}");
        assert!(error.to_string().contains("NBD URI"), "{error}");
    }
    let long = format!("nbd://host/{}", "a".repeat(4097));
    assert_eq!(long.parse::<NbdUri>(), Err(UriError::BadExportName));
}

fn any_uri() -> impl Strategy<Value = NbdUri> {
    let address = prop_oneof![
        vec(any::<u8>(), 1..40).prop_map(|socket| Address::Unix { socket }),
        ("[a-z0-9.-]{1,20}|[0-9a-f]{1,4}::[0-9]", 1..u16::MAX)
            .prop_map(|(host, port)| Address::Tcp { host, port }),
    ];
    let user = proptest::option::of("[^\0]{1,10}");
    let parameters = vec(("x-[a-z=&]{0,6}", "[^\0]{0,9}"), 0..3);
    (address, any::<bool>(), "[^\0]{0,30}", user, parameters).prop_map(
        |(address, tls, export_name, user, parameters)| NbdUri {
            address,
            tls,
            export_name,
            user,
            parameters,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(uri in any_uri()) {
        let text = uri.to_string();
        assert!(text.is_ascii());
        assert_eq!(text.parse(), Ok(uri), "{text}");
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(nbds?(\\+unix)?:)?(//)?\\PC{0,40}") {
        if let Ok(uri) = text.parse::<NbdUri>() {
            assert_eq!(uri.to_string().parse(), Ok(uri));
        }
    }
}
