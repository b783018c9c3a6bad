//! The blocking client against a server that plays a part written by hand.

use std::io::{self, Read, Write};

use usnap_nbd::proto::client::ClientOptions;
use usnap_nbd::proto::client::blocking::{Client, ClientError};
use usnap_nbd::proto::{Errno, RequestKind};

use crate::support::wire::{ACK, Bytes};

/// Delivers what was written down, whatever the client sends.
#[derive(Debug)]
struct Script {
    part: Vec<u8>,
    sent: Vec<u8>,
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.part.len());
        buf[..len].copy_from_slice(&self.part[..len]);
        self.part.drain(..len);
        Ok(len)
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.sent.extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let bytes = Bytes::default()
        .u64(0x0003_e889_0455_65a9)
        .u32(option)
        .u32(kind);
    bytes.u32(u32::try_from(data.len()).unwrap()).bytes(data).0
}

/// A client of an export of 1 MiB with structured replies and two contexts, 1 and 2; `replies` is
/// all it will ever receive. Its first request has the cookie 1.
fn client(replies: &[Vec<u8>]) -> Client<Script> {
    let context =
        |id, name: &str| option_reply(10, 4, &Bytes::default().u32(id).bytes(name.as_bytes()).0);
    let flags = !2;
    let part = [
        b"NBDMAGICIHAVEOPT\0\x03".to_vec(),
        option_reply(8, ACK, &[]),
        context(1, "base:allocation"),
        context(2, "x-mine:own"),
        option_reply(10, ACK, &[]),
        option_reply(7, 3, &Bytes::default().u16(0).u64(1 << 20).u16(flags).0),
        option_reply(7, ACK, &[]),
        replies.concat(),
    ];
    let script = Script {
        part: part.concat(),
        sent: Vec::new(),
    };
    let options = ClientOptions {
        extended: false,
        contexts: vec!["base:allocation".to_owned(), "x-mine:own".to_owned()],
        ..ClientOptions::new("disk")
    };
    Client::connect(script, options).unwrap()
}

fn chunk(done: bool, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let bytes = Bytes::default().u32(0x668e_33ef).u16(done.into()).u16(kind);
    let len = u32::try_from(payload.len()).unwrap();
    bytes.u64(cookie).u32(len).bytes(payload).0
}

fn status(done: bool, context: u32) -> Vec<u8> {
    let extent = Bytes::default().u32(context).u32(4096).u32(3).0;
    chunk(done, 5, 1, &extent)
}

fn data(done: bool, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(done, 1, 1, &Bytes::default().u64(offset).bytes(bytes).0)
}

fn none(cookie: u64) -> Vec<u8> {
    chunk(true, 0, cookie, &[])
}

#[test]
fn a_block_status_has_each_selected_context_exactly_once() {
    let good = client(&[status(false, 2), status(true, 1)]).block_status(0, 4096, false);
    assert_eq!(good.unwrap().len(), 2);
    for replies in [
        vec![status(true, 1)],
        vec![status(false, 1), none(1)],
        vec![status(false, 1), status(true, 1)],
        vec![status(false, 1), status(true, 3)],
        vec![none(1)],
    ] {
        let result = client(&replies).block_status(0, 4096, false);
        assert!(
            matches!(result, Err(ClientError::BadReply(_))),
            "{replies:x?}: {result:?}"
        );
    }
}

#[test]
fn a_read_is_put_together_from_chunks_in_any_order() {
    let hole = chunk(false, 2, 1, &Bytes::default().u64(1010).u32(20).0);
    let replies = [
        data(false, 1030, b"0123456789"),
        hole,
        data(true, 1000, b"abcdefghij"),
    ];
    let mut buf = [1; 40];
    client(&replies).read_at(&mut buf, 1000).unwrap();
    assert_eq!(&buf[..10], b"abcdefghij");
    assert_eq!(buf[10..30], [0; 20]);
    assert_eq!(&buf[30..], b"0123456789");
}

#[test]
fn a_read_that_does_not_add_up_is_refused() {
    for replies in [
        vec![none(1)],
        vec![data(true, 1000, b"short")],
        vec![data(false, 1000, &[1; 30]), data(true, 1029, &[1; 11])],
    ] {
        let result = client(&replies).read_at(&mut [0; 40], 1000);
        assert!(
            matches!(result, Err(ClientError::Incoherent(_))),
            "{replies:x?}: {result:?}"
        );
    }
}

#[test]
fn a_read_with_an_error_in_the_middle_fails_with_that_error() {
    let error = Bytes::default().u32(5).u16(3).bytes(b"bad").u64(1020).0;
    let replies = [
        data(false, 1000, &[1; 40]),
        chunk(false, 0x8002, 1, &error),
        none(1),
    ];
    let Err(ClientError::Refused(refusal)) = client(&replies).read_at(&mut [0; 40], 1000) else {
        panic!("not refused")
    };
    assert_eq!((refusal.errno, refusal.offset), (Errno::Io, Some(1020)));
    assert_eq!(
        refusal.to_string(),
        "input/output error (NBD_EIO): bad at offset 1020"
    );
}

#[test]
fn at_eshutdown_the_client_says_goodbye_and_sends_no_more() {
    let error = Bytes::default().u32(108).u16(0).0;
    let mut client = client(&[chunk(true, 0x8001, 1, &error)]);
    let Err(ClientError::Refused(refusal)) = client.flush() else {
        panic!("not refused")
    };
    assert_eq!(refusal.errno, Errno::Shutdown);
    assert!(matches!(client.flush(), Err(ClientError::Closed)));
    let sent = client.disconnect().unwrap().sent;
    let goodbyes = sent
        .windows(8)
        .filter(|it| *it == [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2])
        .count();
    assert_eq!(goodbyes, 1);
}

#[test]
fn a_reply_to_another_request_is_kept_for_its_own() {
    let mut client = client(&[none(2), none(1)]);
    let first = client.submit(0, RequestKind::Flush, &[]).unwrap();
    client.flush().unwrap();
    assert_eq!(client.in_flight(), 1);
    let completion = client.reap().unwrap();
    assert_eq!(completion.cookie, first);
}

#[test]
fn a_second_reply_to_the_same_request_ends_the_session() {
    let mut client = client(&[none(1), none(1), none(2)]);
    client.flush().unwrap();
    let result = client.flush();
    assert!(
        matches!(result, Err(ClientError::BadReply(_))),
        "{result:?}"
    );
    assert!(matches!(client.flush(), Err(ClientError::Closed)));
}
