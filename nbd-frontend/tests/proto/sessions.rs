//! The same bytes in other portions are the same session: what a server answers does not depend on
//! how its input was split. Sessions of real clients and of our own, byte by byte and cut in two at
//! every place.

use usnap_nbd::proto::Features;
use usnap_nbd::proto::client::ClientOptions;
use usnap_nbd::proto::client::blocking::{Client, Zeroing};

use crate::support::loopback::Loopback;
use crate::support::server::MemServer;
use crate::support::wire::{Bytes, extended, info, meta, option, request};
use crate::support::{DISK_BYTES, Shelf};

/// How a session went: all the server sent, the disk afterwards, and why it was closed.
#[derive(Debug, Eq, PartialEq)]
struct Outcome {
    sent: Vec<u8>,
    disk: Vec<u8>,
    closed: Option<String>,
}

fn outcome<'a>(portions: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let (mut server, mut sent) = MemServer::new(Shelf::default(), Features::default());
    for portion in portions {
        server.receive(portion, &mut sent);
    }
    Outcome {
        sent,
        disk: server.disk,
        closed: server.closed,
    }
}

fn check_splits(name: &str, session: &[u8], expected_end: &str) {
    let whole = outcome([session]);
    assert_eq!(whole.closed.as_deref(), Some(expected_end), "{name}");
    assert!(outcome(session.chunks(1)) == whole, "{name}, byte by byte");
    for size in [2, 3, 7, 27, 28, 29, 32, 33, 100] {
        assert!(
            outcome(session.chunks(size)) == whole,
            "{name}, {size} bytes at a time"
        );
    }
    // Cuts inside of long payloads are all alike.
    let step = (session.len() / 2000).max(1);
    for at in (0..session.len()).step_by(step) {
        let (first, second) = session.split_at(at);
        assert!(outcome([first, second]) == whole, "{name}, cut at {at}");
    }
}

/// Reads a session: hexadecimal digits, and comments from `#` on.
fn parse(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next())
        .flat_map(str::bytes)
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

macro_rules! recorded {
    ($($test:ident: $file:literal, $end:literal;)*) => {$(
        #[test]
        fn $test() {
            let session = parse(include_str!(concat!("recorded/", $file)));
            check_splits($file, &session, $end);
        }
    )*};
}

recorded! {
    splits_do_not_change_a_session_of_nbdinfo: "nbdinfo.hex", "client disconnected";
    splits_do_not_change_a_list_of_nbdinfo: "nbdinfo-list.hex", "client aborted the handshake";
    splits_do_not_change_a_map_of_nbdinfo: "nbdinfo-map.hex", "client disconnected";
    splits_do_not_change_a_session_of_nbdsh: "nbdsh.hex", "client disconnected";
    splits_do_not_change_a_list_by_nbd_client: "nbd-client.hex", "client aborted the handshake";
    splits_do_not_change_a_session_of_qemu_io: "qemu-io.hex", "client disconnected";
    splits_do_not_change_a_map_of_qemu_img: "qemu-img-map.hex", "client disconnected";
    splits_do_not_change_a_list_of_qemu_nbd: "qemu-nbd-list.hex", "client aborted the handshake";
}

/// What our own client sends for a bit of everything.
fn own(options: ClientOptions) -> Vec<u8> {
    let stream = Loopback::new(Shelf::default(), Features::default(), usize::MAX);
    let mut client = Client::connect(stream, options).unwrap();
    client.write_at(&[7; 5000], 1000, false).unwrap();
    client.write_at(b"x", DISK_BYTES - 1, true).unwrap();
    client
        .write_at(b"past the end", DISK_BYTES, false)
        .unwrap_err();
    client
        .write_zeroes(
            2000,
            100,
            Zeroing {
                no_hole: true,
                ..Zeroing::default()
            },
        )
        .unwrap();
    client.trim(1500, 10, true).unwrap();
    client.cache(0, 10_000).unwrap();
    client.flush().unwrap();
    let mut buf = [0; 9000];
    client.read_at(&mut buf, 0).unwrap();
    client.read_at(&mut buf, DISK_BYTES).unwrap_err();
    if !client.negotiated().contexts.is_empty() {
        client.block_status(0, 100_000, false).unwrap();
    }
    client.disconnect().unwrap().sent
}

#[test]
fn splits_do_not_change_our_own_sessions() {
    for (structured, extended, use_go) in [
        (false, false, false),
        (false, false, true),
        (true, false, true),
        (true, true, true),
    ] {
        let options = ClientOptions {
            structured,
            extended,
            use_go,
            contexts: vec![
                "base:allocation".to_owned(),
                "qemu:allocation-depth".to_owned(),
            ],
            ..ClientOptions::new("disk")
        };
        let name = format!("{structured} {extended} {use_go}");
        check_splits(&name, &own(options), "client disconnected");
    }
}

#[test]
fn splits_do_not_change_a_haggling_full_of_mistakes() {
    let long = Bytes::default().u32(9).bytes(&[0xee; 70_000]).0;
    let session = [
        vec![0, 0, 0, 1],
        option(99, b"unknown"),
        option(99, &long),
        option(6, &long),
        option(7, &info("nothing", &[1, 2, 3])),
        option(7, b"?"),
        option(10, &meta("disk", &["base:allocation"])),
        option(5, &[]),
        option(3, b"data"),
        option(8, &[]),
        option(10, &meta("disk", &["nonsense"])),
        option(9, &meta("disk", &["qemu:"])),
        option(11, &[]),
        option(8, &[]),
        option(3, &[]),
        option(2, &long),
    ];
    check_splits(
        "mistakes",
        &session.concat(),
        "client aborted the handshake",
    );
}

#[test]
fn splits_do_not_change_a_transmission_full_of_mistakes() {
    let payload = [0xee; 600];
    let go = option(7, &info("disk", &[]));
    let compact = [
        &[0, 0, 0, 3][..],
        &option(8, &[]),
        &go,
        &request(0, 99, 1, 0, 600),
        &request(1 << 9, 1, 2, 0, 600),
        &payload,
        &request(0, 1, 3, DISK_BYTES - 599, 600),
        &payload,
        &request(4, 4, 4, 0, 600),
        &request(0, 7, 5, 0, 600),
        &request(0, 0, 6, u64::MAX, 600),
        &request(0, 1, 7, 9, 600),
        &payload,
        &request(1, 0, 8, 0, 700),
        &request(0, 2, 9, 0, 0),
    ];
    check_splits("compact", &compact.concat(), "client disconnected");
    let wide = [
        &[0, 0, 0, 3][..],
        &option(11, &[]),
        &go,
        &extended(32, 99, 1, 0, 600),
        &payload,
        &extended(32, 7, 2, 0, 600),
        &payload,
        &extended(0, 1, 3, 0, 600),
        &payload,
        &extended(32, 1, 4, 0, 600),
        &payload,
        &extended(0, 0, 5, 0, u64::MAX),
        &extended(0, 0, 6, 0, 5000),
        &request(0, 0, 7, 0, 5000),
        &[0; 4],
    ];
    check_splits(
        "extended",
        &wide.concat(),
        "request begins with 0x25609513, not the magic",
    );
}
