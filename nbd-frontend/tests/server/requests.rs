//! Every kind of request in every reply style does what it says, whatever its length.

use usnap_engine::device::{BlockDevice, ZeroFlags};
use usnap_nbd::export::Export;
use usnap_nbd::proto::client::ReplyKind;
use usnap_nbd::proto::client::blocking::{Answer, Zeroing};
use usnap_nbd::proto::{Errno, RequestKind};
use usnap_nbd::server::Limits;

use super::support::{Call, RawClient, Style, TestDevice, TestServer, pattern};

const MIB: u64 = 1 << 20;

#[test]
fn what_is_written_is_read_whatever_its_length() {
    for style in Style::ALL {
        let device = TestDevice::new(40 * MIB);
        let server = TestServer::new(device.clone());
        let mut client = server.client(style);
        for (offset, len) in [
            (0, 1),
            (511, 513),
            (4095, 2),
            (8192, 65536),
            (77, 1 << 20),
            (3, (5 << 20) + 77),
        ] {
            let data = pattern(len, offset);
            client.write_at(&data, offset, false).unwrap();
            let mut read = vec![0; len];
            client.read_at(&mut read, offset).unwrap();
            assert!(read == data, "{style:?}: {offset}+{len} came back changed");
            device.memory.read_at(&mut read, offset).unwrap();
            assert!(
                read == data,
                "{style:?}: {offset}+{len} is not on the device"
            );
        }
    }
}

#[test]
fn the_longest_payload_goes_to_the_device_in_pieces_that_end_on_its_blocks() {
    for style in Style::ALL {
        let device = TestDevice::new(40 * MIB);
        let export = Export::new("disk", device.clone()).with_preferred_block_bytes(65536);
        let server = TestServer::with_export(export, Limits::default());
        let mut client = server.client(style);
        let data = pattern(32 << 20, 7);
        client.write_at(&data, 12_345, false).unwrap();
        let writes = device.take_calls();
        assert!(writes.len() >= 32);
        let mut end = 12_345;
        for call in &writes {
            let &Call::Write { offset, len } = call else {
                panic!("{call:?}")
            };
            assert!(offset == end && len <= MIB, "{call:?} after {end}");
            end = offset + len;
            assert!(end % 65536 == 0 || end == 12_345 + (32 << 20), "{call:?}");
        }
        let mut read = vec![0; data.len()];
        client.read_at(&mut read, 12_345).unwrap();
        assert!(read == data, "{style:?}");
        let longest = |call: Call| matches!(call, Call::Read { len, .. } if len > MIB);
        assert!(!device.take_calls().into_iter().any(longest));
    }
}

#[test]
fn requests_in_flight_together_are_all_answered() {
    for style in Style::ALL {
        let device = TestDevice::new(8 * MIB);
        let server = TestServer::new(device);
        let mut client = server.client(style);
        let data = pattern(8 << 20, 3);
        let mut kinds = std::collections::HashMap::new();
        // Few enough bytes of replies that the server never waits for a client that only sends.
        for index in 0..64_u64 {
            let offset = index * 8192;
            let at = usize::try_from(offset).unwrap();
            let write = RequestKind::Write {
                len: 4096,
                fua: index % 7 == 0,
            };
            client.submit(offset, write, &data[at..at + 4096]).unwrap();
            let read = RequestKind::Read {
                len: 512,
                dont_fragment: false,
            };
            kinds.insert(client.submit(offset, read, &[]).unwrap(), at);
        }
        while client.in_flight() > 0 {
            let completion = client.reap().unwrap();
            let answer = completion.result.unwrap();
            match kinds.remove(&completion.cookie) {
                Some(at) => assert_eq!(answer, Answer::Data(data[at..at + 512].to_vec())),
                None => assert_eq!(answer, Answer::Done),
            }
        }
        assert!(kinds.is_empty());
        let counts = server.counters().counts();
        assert_eq!((counts.requests, counts.errors), (128, 0));
        assert_eq!(
            (counts.read_bytes, counts.written_bytes),
            (64 * 512, 64 * 4096)
        );
    }
}

#[test]
fn trims_zeroes_and_caches_reach_the_device_with_their_flags() {
    for style in Style::ALL {
        let device = TestDevice::new(8 * MIB);
        let server = TestServer::new(device.clone());
        let mut client = server.client(style);
        client.trim(4096, 8192, false).unwrap();
        let plain = Zeroing {
            fua: false,
            no_hole: false,
            fast_zero: false,
        };
        client.write_zeroes(1, 2 * MIB, plain).unwrap();
        client
            .write_zeroes(
                5,
                6,
                Zeroing {
                    no_hole: true,
                    ..plain
                },
            )
            .unwrap();
        client
            .write_zeroes(
                7,
                8,
                Zeroing {
                    fast_zero: true,
                    ..plain
                },
            )
            .unwrap();
        client.cache(0, 3 * MIB).unwrap();
        let zero = |offset, len, no_hole, fast| Call::Zero {
            offset,
            len,
            flags: ZeroFlags { no_hole, fast },
        };
        let expected = [
            Call::Discard {
                offset: 4096,
                len: 8192,
            },
            zero(1, 2 * MIB, false, false),
            zero(5, 6, true, false),
            zero(7, 8, false, true),
            Call::Read {
                offset: 0,
                len: MIB,
            },
            Call::Read {
                offset: MIB,
                len: MIB,
            },
            Call::Read {
                offset: 2 * MIB,
                len: MIB,
            },
        ];
        assert_eq!(device.take_calls(), expected, "{style:?}");
    }
}

#[test]
fn a_request_of_no_bytes_succeeds_and_leaves_the_device_alone() {
    for style in Style::ALL {
        let device = TestDevice::new(MIB);
        let server = TestServer::new(device.clone());
        let mut client = server.raw_client(style);
        let kinds = [
            RequestKind::Read {
                len: 0,
                dont_fragment: false,
            },
            RequestKind::Write { len: 0, fua: false },
            RequestKind::Trim { len: 0, fua: false },
            RequestKind::WriteZeroes {
                len: 0,
                fua: false,
                no_hole: false,
                fast_zero: false,
            },
            RequestKind::Cache { len: 0 },
        ];
        for (cookie, kind) in (1..).zip(kinds) {
            client.send(cookie, 4096, kind);
            let reply = client.reply();
            assert!(
                reply.len() == 1 && reply[0].is_success(),
                "{kind:?}: {reply:?}"
            );
            assert_eq!(reply[0].cookie, cookie);
        }
        assert_eq!(device.take_calls(), []);
    }
}

#[test]
fn a_read_that_must_not_be_split_comes_in_one_piece_or_not_at_all() {
    for style in [Style::Structured, Style::Extended] {
        let device = TestDevice::new(4 * MIB);
        let server = TestServer::new(device.clone());
        let mut client = server.raw_client(style);
        // Nothing but holes: also those may only come as one piece of data.
        client.send(
            1,
            0,
            RequestKind::Read {
                len: 1 << 20,
                dont_fragment: true,
            },
        );
        let reply = client.reply();
        assert_eq!(reply.len(), 1);
        assert_eq!(reply[0].kind, ReplyKind::Data { offset: 0 });
        assert_eq!(reply[0].payload.len(), 1 << 20);
        client.send(
            2,
            0,
            RequestKind::Read {
                len: (1 << 20) + 1,
                dont_fragment: true,
            },
        );
        assert_eq!(client.reply()[0].errno(), Some(Errno::Overflow));
    }
}

#[test]
fn a_disconnect_ends_the_connection_after_everything_before_it() {
    for style in Style::ALL {
        let device = TestDevice::new(MIB);
        let server = TestServer::new(device.clone());
        let mut client = server.raw_client(style);
        let mut bytes = client.encode(
            1,
            0,
            RequestKind::Write {
                len: 512,
                fua: true,
            },
        );
        bytes.extend(pattern(512, 1));
        bytes.extend(client.encode(2, 0, RequestKind::Disconnect));
        bytes.extend(client.encode(
            3,
            0,
            RequestKind::Read {
                len: 1,
                dont_fragment: false,
            },
        ));
        client.send_bytes(&bytes);
        let reply = client.reply();
        assert!(reply[0].is_success() && reply[0].cookie == 1, "{reply:?}");
        client.expect_closed();
        assert_eq!(
            device.take_calls(),
            [
                Call::Write {
                    offset: 0,
                    len: 512
                },
                Call::Flush
            ]
        );
    }
}

#[test]
fn a_read_only_export_refuses_changes_and_stays_in_step() {
    let device = TestDevice::read_only(MIB);
    let server = TestServer::new(device.clone());
    for style in Style::ALL {
        let mut client = server.raw_client(style);
        // Longer than any buffer: the payload has to be thrown away as it comes.
        let mut bytes = client.encode(
            1,
            0,
            RequestKind::Write {
                len: 1 << 20,
                fua: false,
            },
        );
        bytes.extend(pattern(1 << 20, 1));
        bytes.extend(client.encode(
            2,
            0,
            RequestKind::Read {
                len: 512,
                dont_fragment: false,
            },
        ));
        client.send_bytes(&bytes);
        assert_eq!(client.reply()[0].errno(), Some(Errno::Perm));
        assert_eq!(read_data(&mut client), vec![0; 512]);
    }
    assert!(
        !device
            .take_calls()
            .iter()
            .any(|call| matches!(call, Call::Write { .. }))
    );
}

#[test]
fn with_structured_replies_only_success_without_contents_is_a_simple_reply() {
    use std::io::Read;
    const SIMPLE: u32 = 0x6744_6698;
    let read = |len| RequestKind::Read {
        len,
        dont_fragment: false,
    };
    let trim = |len| RequestKind::Trim { len, fua: false };
    let status = RequestKind::BlockStatus {
        len: 4096,
        req_one: false,
    };
    let write = |fua| RequestKind::Write { len: 512, fua };
    let simple_ones = [
        write(false),
        write(true),
        trim(512),
        RequestKind::Flush,
        RequestKind::Cache { len: 512 },
        RequestKind::WriteZeroes {
            len: 512,
            fua: false,
            no_hole: false,
            fast_zero: false,
        },
    ];
    // The magic of the first reply to a request at an offset.
    let magic = |style, offset, kind| {
        let server = TestServer::new(TestDevice::new(MIB));
        let mut client = server.raw_client(style);
        let mut bytes = client.encode(1, offset, kind);
        if let RequestKind::Write { len, .. } = kind {
            bytes.extend(pattern(len as usize, 1));
        }
        client.send_bytes(&bytes);
        let mut magic = [0; 4];
        client.stream.read_exact(&mut magic).unwrap();
        u32::from_be_bytes(magic)
    };
    for (style, chunk) in [
        (Style::Structured, 0x668e_33ef),
        (Style::Extended, 0x6e8a_278c),
    ] {
        for kind in simple_ones {
            let expected = if style == Style::Extended {
                chunk
            } else {
                SIMPLE
            };
            assert_eq!(magic(style, 0, kind), expected, "{style:?}: {kind:?}");
        }
        for kind in [read(0), read(512), read(1 << 20), status] {
            assert_eq!(magic(style, 0, kind), chunk, "{style:?}: {kind:?}");
        }
        for kind in [read(512), write(false), trim(512)] {
            assert_eq!(
                magic(style, MIB, kind),
                chunk,
                "{style:?}: error of {kind:?}"
            );
        }
    }
}

#[test]
fn a_block_status_asks_the_device_no_more_often_than_its_limit() {
    let device = TestDevice::new(40 * MIB);
    // Every other page is data.
    for offset in (0..40 * MIB).step_by(8192) {
        device.memory.write_at(&[1], offset).unwrap();
    }
    let server = TestServer::new(device.clone());
    // One more than there are extents: it tells that the last one ends.
    for (req_one, most) in [(false, 4097), (true, 2)] {
        for style in [Style::Structured, Style::Extended] {
            let mut client = server.raw_client(style);
            let len = 40 * MIB;
            client.send(1, 0, RequestKind::BlockStatus { len, req_one });
            let reply = client.reply();
            assert_eq!(reply.len(), 2, "one for each context");
            let calls = device.take_calls().len();
            assert_eq!(calls, most, "{style:?}");
        }
    }
}

fn read_data(client: &mut RawClient) -> Vec<u8> {
    let reply = client.reply();
    assert!(matches!(reply[0].kind, ReplyKind::Data { .. }), "{reply:?}");
    reply.into_iter().flat_map(|chunk| chunk.payload).collect()
}

#[test]
fn bytes_sent_right_behind_the_handshake_are_requests() {
    use std::io::{Read, Write};
    let server = TestServer::new(TestDevice::new(MIB));
    let mut stream = server.stream();
    // Flags, EXPORT_NAME of the default export, and a read in the same breath.
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(b"IHAVEOPT\0\0\0\x01\0\0\0\0");
    bytes.extend(0x2560_9513_u32.to_be_bytes());
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(99_u64.to_be_bytes());
    bytes.extend(0_u64.to_be_bytes());
    bytes.extend(8_u32.to_be_bytes());
    stream.write_all(&bytes).unwrap();
    let mut answer = [0; 18 + 10 + 16 + 8];
    stream.read_exact(&mut answer).unwrap();
    let reply = &answer[28..];
    assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes());
    assert_eq!(reply[4..16], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99]);
}
