//! Holes come as holes where a client can take them, and block status tells what there is.

use usnap_engine::device::BlockDevice;
use usnap_nbd::proto::RequestKind;
use usnap_nbd::proto::client::ReplyKind;

use super::support::{Call, Chunk, Style, TestDevice, TestServer, pattern};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn read(len: u32) -> RequestKind {
    RequestKind::Read {
        len,
        dont_fragment: false,
    }
}

fn shape(reply: &[Chunk]) -> Vec<(&'static str, u64, u64)> {
    reply
        .iter()
        .map(|chunk| match chunk.kind {
            ReplyKind::Data { offset } => ("data", offset, chunk.payload.len() as u64),
            ReplyKind::Hole { offset, len } => ("hole", offset, u64::from(len)),
            kind => panic!("{kind:?}"),
        })
        .collect()
}

#[test]
fn a_long_read_skips_the_holes() {
    for style in [Style::Structured, Style::Extended] {
        let device = TestDevice::new(8 * MIB);
        let data = pattern(64 << 10, 5);
        device.memory.write_at(&data, 128 * KIB).unwrap();
        let server = TestServer::new(device);
        let mut client = server.raw_client(style);
        client.send(
            1,
            0,
            RequestKind::Read {
                len: 512 << 10,
                dont_fragment: false,
            },
        );
        let reply = client.reply();
        let expected = [
            ("hole", 0, 128 * KIB),
            ("data", 128 * KIB, 64 * KIB),
            ("hole", 192 * KIB, 320 * KIB),
        ];
        assert_eq!(shape(&reply), expected);
        assert_eq!(reply[1].payload, data);
    }
}

#[test]
fn a_hole_longer_than_a_piece_is_complete() {
    let server = TestServer::new(TestDevice::new(8 * MIB));
    let mut client = server.raw_client(Style::Extended);
    client.send(
        1,
        4096,
        RequestKind::Read {
            len: 5 << 20,
            dont_fragment: false,
        },
    );
    let shape = shape(&client.reply());
    assert!(
        shape.iter().all(|&(kind, _, _)| kind == "hole"),
        "{shape:?}"
    );
    assert_eq!(shape.iter().map(|&(_, _, len)| len).sum::<u64>(), 5 * MIB);
}

#[test]
fn a_short_read_is_sent_as_it_is() {
    let server = TestServer::new(TestDevice::new(MIB));
    let mut client = server.raw_client(Style::Structured);
    client.send(1, 0, read(32 << 10));
    assert_eq!(shape(&client.reply()), [("data", 0, 32 * KIB)]);
}

#[test]
fn short_runs_of_zeros_are_data() {
    let device = TestDevice::new(2 * MIB);
    // Every other block is zeros.
    let mut expected = vec![0; 1 << 20];
    for block in (0..256_u32).step_by(2) {
        let data = pattern(4096, block.into());
        device
            .memory
            .write_at(&data, u64::from(block) * 4096)
            .unwrap();
        expected[block as usize * 4096..][..4096].copy_from_slice(&data);
    }
    let server = TestServer::new(device);
    let mut client = server.raw_client(Style::Structured);
    client.send(1, 0, read(1 << 20));
    let reply = client.reply();
    assert_eq!(shape(&reply), [("data", 0, MIB)]);
    assert!(reply[0].payload == expected);
}

#[test]
fn a_reads_holes_are_looked_for_in_its_data_and_nowhere_else() {
    let device = TestDevice::new(MIB);
    // Stored, and zeros all the same.
    device.memory.write_at(&vec![0; 256 << 10], 0).unwrap();
    let server = TestServer::new(device.clone());
    let mut client = server.raw_client(Style::Extended);
    client.send(1, 0, read(256 << 10));
    assert_eq!(shape(&client.reply()), [("hole", 0, 256 * KIB)]);
    let asked = |call: &Call| matches!(call, Call::Extent { .. });
    assert!(!device.take_calls().iter().any(asked));
}

#[test]
fn wherever_the_zeros_are_the_data_is_right() {
    let device = TestDevice::new(2 * MIB);
    let server = TestServer::new(device.clone());
    let mut clients = [Style::Structured, Style::Extended].map(|style| server.client(style));
    for seed in 1..=60_u64 {
        // Runs of zeros and of something else, of lengths around that of the shortest hole.
        let choices = pattern(64, seed);
        let mut bytes = Vec::new();
        for pair in choices.chunks(2) {
            let len = usize::from(pair[0]) * 150 + usize::from(pair[1] % 3);
            let run = if pair[1] % 2 == 0 {
                vec![0; len]
            } else {
                pattern(len, seed)
            };
            bytes.extend(run);
        }
        bytes.truncate(1 << 20);
        device.memory.write_at(&bytes, 777 * (seed % 2)).unwrap();
        for client in &mut clients {
            for start in [0, seed * 31] {
                let at = usize::try_from(start).unwrap();
                let mut found = vec![0xff; bytes.len() - at];
                client
                    .read_at(&mut found, 777 * (seed % 2) + start)
                    .unwrap();
                assert!(found == bytes[at..], "seed {seed} from {start}");
            }
        }
    }
}

#[test]
fn block_status_tells_holes_and_depth() {
    for style in [Style::Structured, Style::Extended] {
        let device = TestDevice::new(8 * MIB);
        device.memory.write_at(&pattern(4096, 1), MIB).unwrap();
        let server = TestServer::new(device);
        let mut client = server.client(style);
        let status = client.block_status(0, 8 * MIB, false).unwrap();
        let flat = |index: usize| -> Vec<(u64, u64)> {
            status[index]
                .1
                .iter()
                .map(|extent| (extent.len, extent.flags))
                .collect()
        };
        let data = (64 * KIB, 0);
        let (before, behind) = (MIB, 7 * MIB);
        // The memory device keeps whole pages of its own size.
        let allocated = flat(0)[1].0;
        assert!(allocated >= 4096 && allocated <= data.0);
        let rest = behind - allocated;
        assert_eq!(
            flat(0),
            [(before, 3), (allocated, 0), (rest, 3)],
            "base:allocation"
        );
        assert_eq!(
            flat(1),
            [(before, 0), (allocated, 1), (rest, 0)],
            "qemu:allocation-depth"
        );
        let one = client.block_status(4096, 8192, true).unwrap();
        assert!(
            one.iter()
                .all(|(_, extents)| extents.len() == 1 && extents[0].len == 8192)
        );
    }
}

#[test]
fn block_status_of_a_fragmented_device_is_bounded_and_never_empty() {
    let device = TestDevice::new(32 * MIB);
    for block in (0..8192_u64).step_by(2) {
        device.memory.write_at(&[1], block * 4096).unwrap();
    }
    let server = TestServer::new(device.clone());
    let mut client = server.client(Style::Extended);
    let mut offset = 0;
    let mut extents = 0;
    while offset < 32 * MIB {
        device.take_calls();
        let status = client
            .block_status(offset, 32 * MIB - offset, false)
            .unwrap();
        // One more tells that the last extent ends.
        assert!(device.take_calls().len() <= 4097);
        let covered: u64 = status[0].1.iter().map(|extent| extent.len).sum();
        assert!(covered > 0);
        extents += status[0].1.len();
        offset += covered;
    }
    assert_eq!(offset, 32 * MIB);
    assert_eq!(extents, 8192);
}
