//! Each error prints as the house's messages do: lower case, no full stop, with its values.

use usnap_format::FormatError as E;

#[test]
fn errors_print_their_values() {
    let messages = [
        (
            E::AreaLength {
                found: 100,
                expected: 512,
            },
            "area of 100 bytes where the chunk size is 512",
        ),
        (
            E::BadMagic { found: 0x1234 },
            "bad magic 0x00001234, not a dm-snapshot COW device",
        ),
        (
            E::ChunkSizeNotPowerOfTwo { sectors: 7 },
            "chunk size of 7 sectors is not a power of two",
        ),
        (
            E::ChunkSizeNotSectors { bytes: 513 },
            "chunk size of 513 bytes is no whole number of 512-byte sectors",
        ),
        (
            E::ChunkSizeTooLarge { sectors: 4_194_304 },
            "chunk size of 4194304 sectors is more than the limit of 2097152",
        ),
        (
            E::EntryOutsideArea {
                index: 32,
                exceptions: 32,
            },
            "entry 32 of an area that has 32",
        ),
        (
            E::IdentityChecksum {
                found: 1,
                computed: 0xabcd,
            },
            "identity record has checksum 0x00000001, its bytes 0x0000abcd",
        ),
        (
            E::IdentityFlags { found: 0x8001 },
            "identity record has unknown flags in 0x8001",
        ),
        (
            E::IdentityLength { found: 20 },
            "identity record is cut off after 20 bytes",
        ),
        (
            E::IdentityNanoseconds {
                found: 1_000_000_000,
            },
            "identity record has a time with 1000000000 nanoseconds",
        ),
        (
            E::IdentityNotZero { offset: 140 },
            "identity record is not zero at its byte 140",
        ),
        (
            E::IdentityVersion { found: 2 },
            "identity record is of version 2, which is not supported",
        ),
        (
            E::LabelControlCharacter { found: '\n' },
            "label has the control character '\\n'",
        ),
        (E::LabelNotUtf8, "label is not UTF-8"),
        (
            E::LabelTooLong { len: 65 },
            "label of 65 bytes is longer than 64",
        ),
        (
            E::NewChunkHighBits { new_chunk: 1 << 56 },
            "new chunk 0x100000000000000 has one of its top 8 bits set",
        ),
        (
            E::NewChunkZero { old_chunk: 9 },
            "new chunk 0 for old chunk 9 would end the area",
        ),
        (E::NewStore, "no header yet, the magic is zero"),
        (
            E::UnsupportedVersion { found: 3 },
            "dm-snapshot store of version 3, which is not supported",
        ),
    ];
    for (error, message) in messages {
        assert_eq!(error.to_string(), message);
        assert!(
            message.starts_with(|first: char| first.is_lowercase()),
            "{message}"
        );
        assert!(!message.ends_with('.'), "{message}");
    }
}
