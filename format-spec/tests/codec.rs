//! Bytes to types and back: nothing is lost either way, and what is accepted is written again as it
//! was. By properties over any bytes and any values; kernel-made bytes are in `vectors.rs`.
#![expect(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use usnap_format::{
    AreaView, ChunkSize, DiskException, DiskHeader, Exception, FormatError, Header, MAGIC,
    NewChunk, OldChunk, VERSION, encode_exception,
};

const AREA_512: usize = 32;

fn exceptions(
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<Exception>> {
    let exception = (any::<u64>(), 1_u64..1 << 56).prop_map(|(old_chunk, new_chunk)| Exception {
        old_chunk: OldChunk(old_chunk),
        new_chunk: NewChunk(new_chunk),
    });
    vec(exception, count)
}

fn chunk_512() -> ChunkSize {
    ChunkSize::from_sectors(1).expect("a chunk size")
}

proptest! {
    #[test]
    fn any_header_is_kept(bytes: [u8; 16]) {
        prop_assert_eq!(DiskHeader::decode(&bytes).encode(), bytes);
    }

    #[test]
    fn any_header_value_is_kept(fields: [u32; 4]) {
        let [magic, valid, version, chunk_size_sectors] = fields;
        let header = DiskHeader { magic, valid, version, chunk_size_sectors };
        prop_assert_eq!(DiskHeader::decode(&header.encode()), header);
    }

    /// Fields that are right more often than chance would have them.
    #[test]
    fn a_header_is_judged_field_by_field(
        magic in prop_oneof![5 => Just(MAGIC), 1 => Just(0), 1 => any::<u32>()],
        valid in prop_oneof![Just(0), Just(1), any::<u32>()],
        version in prop_oneof![5 => Just(VERSION), 1 => any::<u32>()],
        chunk_size_sectors in prop_oneof![3 => (0_u32..32).prop_map(|bit| 1 << bit), 1 => any::<u32>()],
    ) {
        let disk = DiskHeader { magic, valid, version, chunk_size_sectors };
        let expected = if magic == 0 {
            Err(FormatError::NewStore)
        } else if magic != MAGIC {
            Err(FormatError::BadMagic { found: magic })
        } else if version != VERSION {
            Err(FormatError::UnsupportedVersion { found: version })
        } else {
            ChunkSize::from_sectors(chunk_size_sectors)
                .map(|chunk_size| Header { valid, chunk_size })
        };
        prop_assert_eq!(disk.validate(), expected);
        if let Ok(header) = expected {
            prop_assert_eq!(header.encode(), disk.encode());
            prop_assert_eq!(header.is_valid(), valid != 0);
        }
    }

    #[test]
    fn any_entry_is_kept(bytes: [u8; 16]) {
        let entry = DiskException::decode(&bytes);
        prop_assert_eq!(entry.encode(), bytes);
        prop_assert_eq!(entry.high_bits_set(), bytes[15] != 0);
        match entry.to_exception() {
            Some(exception) => {
                prop_assert!(!entry.is_terminator());
                prop_assert_eq!(DiskException::from(exception), entry);
                prop_assert_eq!(exception.high_bits_set(), entry.high_bits_set());
            }
            None => prop_assert!(entry.is_terminator() && entry.new_chunk == 0),
        }
    }

    #[test]
    fn only_new_chunk_0_ends_an_area(old_chunk: u64) {
        let entry = DiskException { old_chunk, new_chunk: 0 };
        prop_assert!(entry.is_terminator());
        prop_assert_eq!(entry.to_exception(), None);
    }

    #[test]
    fn an_area_reads_back_as_it_was_written(exceptions in exceptions(0..=2 * AREA_512)) {
        let chunk_size = ChunkSize::from_sectors(2).expect("a chunk size");
        let mut area = vec![0; 1024];
        for (index, &exception) in (0..).zip(&exceptions) {
            encode_exception(&mut area, index, exception).expect("room");
        }
        let view = AreaView::new(&area, chunk_size).expect("one chunk");
        prop_assert_eq!(view.exceptions().collect::<Vec<_>>(), exceptions.clone());
        prop_assert_eq!(view.committed(), exceptions.len() as u64);
        prop_assert_eq!(view.is_full(), exceptions.len() == 2 * AREA_512);
        prop_assert_eq!(view.has_junk_behind_terminator(), None);
        for (index, &exception) in (0..).zip(&exceptions) {
            prop_assert_eq!(view.entry(index), exception.into());
        }
        prop_assert!(view.entry(2 * AREA_512 as u64).is_terminator());
        prop_assert!(view.entry(u64::MAX).is_terminator());
    }

    /// Any bytes, with zeros in many places, against a reading byte by byte.
    #[test]
    fn any_area_is_read_up_to_its_terminator(
        entries in vec(prop_oneof![
            3 => any::<[u8; 16]>(),
            2 => Just([0; 16]),
            1 => any::<[u8; 8]>().prop_map(|old| {
                let mut entry = [0; 16];
                entry[..8].copy_from_slice(&old);
                entry
            }),
        ], AREA_512),
    ) {
        let bytes = entries.concat();
        let view = AreaView::new(&bytes, chunk_512()).expect("one chunk");
        let end = (0..AREA_512).find(|n| bytes[n * 16 + 8..n * 16 + 16] == [0; 8]);
        prop_assert_eq!(view.committed(), end.unwrap_or(AREA_512) as u64);
        prop_assert_eq!(view.is_full(), end.is_none());
        let junk = end.and_then(|end| (end * 16..512).find(|&at| bytes[at] != 0));
        prop_assert_eq!(view.has_junk_behind_terminator(), junk.map(|at| at as u64));
    }

    #[test]
    fn writing_an_entry_leaves_the_others_alone(
        before in vec(any::<u8>(), 512),
        index in 0..AREA_512,
        exceptions in exceptions(1..=1),
    ) {
        let mut after = before.clone();
        encode_exception(&mut after, index as u64, exceptions[0]).expect("room");
        let at = index * 16;
        prop_assert_eq!(&after[..at], &before[..at]);
        prop_assert_eq!(&after[at + 16..], &before[at + 16..]);
        let entry: &[u8; 16] = after[at..].first_chunk().expect("an entry");
        prop_assert_eq!(DiskException::decode(entry), exceptions[0].into());
    }

    #[test]
    fn an_exception_that_would_be_read_as_something_else_is_not_written(
        old_chunk: u64,
        new_chunk in prop_oneof![Just(0_u64), 1_u64 << 56..],
        index in 0..64_u64,
    ) {
        let exception = Exception { old_chunk: OldChunk(old_chunk), new_chunk: NewChunk(new_chunk) };
        let mut area = vec![7; 512];
        let expected = if new_chunk == 0 {
            FormatError::NewChunkZero { old_chunk }
        } else {
            FormatError::NewChunkHighBits { new_chunk }
        };
        prop_assert_eq!(encode_exception(&mut area, index, exception), Err(expected));
        prop_assert_eq!(area, vec![7; 512]);
    }

    #[test]
    fn exceptions_are_ordered_by_new_chunk_then_old(exceptions in exceptions(0..40)) {
        let mut sorted = exceptions.clone();
        sorted.sort_unstable();
        let mut expected: Vec<(u64, u64)> =
            exceptions.iter().map(|e| (e.new_chunk.0, e.old_chunk.0)).collect();
        expected.sort_unstable();
        let found: Vec<(u64, u64)> = sorted.iter().map(|e| (e.new_chunk.0, e.old_chunk.0)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn bytes_of_another_length_are_no_area() {
    for len in [0, 16, 511, 513, 1024] {
        let error = AreaView::new(&vec![0; len], chunk_512()).err();
        let found = len as u64;
        assert_eq!(
            error,
            Some(FormatError::AreaLength {
                found,
                expected: 512
            })
        );
    }
}

#[test]
fn an_entry_behind_the_end_is_not_written() {
    let exception = Exception {
        old_chunk: OldChunk(1),
        new_chunk: NewChunk(2),
    };
    let mut area = vec![0; 512];
    for index in [32, 33, u64::MAX] {
        let error = FormatError::EntryOutsideArea {
            index,
            exceptions: 32,
        };
        assert_eq!(encode_exception(&mut area, index, exception), Err(error));
    }
    assert_eq!(area, vec![0; 512]);
}

#[test]
fn a_byte_swapped_header_is_foreign() {
    let mut bytes = Header::new(ChunkSize::default()).encode();
    bytes[..4].reverse();
    let found = MAGIC.swap_bytes();
    assert_eq!(
        DiskHeader::decode(&bytes).validate(),
        Err(FormatError::BadMagic { found })
    );
}

/// As measured with the kernel: only the magic counts.
#[test]
fn a_device_with_magic_0_is_new_whatever_else_it_says() {
    let disk = DiskHeader {
        magic: 0,
        valid: 77,
        version: 88,
        chunk_size_sectors: 99,
    };
    assert_eq!(disk.validate(), Err(FormatError::NewStore));
}
