//! The identity record: what is written is read back, damage of any byte is noticed, and each rule
//! of SPEC.md section 9 refuses what breaks it. By properties, and records broken by hand.
#![expect(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use crc32fast::hash;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_compose, proptest};
use proptest::sample::Index;
use usnap_format::{
    FormatError, IDENTITY_BOOT_ID_OFFSET, IDENTITY_CRC32_OFFSET, IDENTITY_FLAGS_OFFSET,
    IDENTITY_LABEL_OFFSET, IDENTITY_LEN, IDENTITY_MAGIC, IDENTITY_MTIME_NS_OFFSET,
    IDENTITY_MTIME_S_OFFSET, IDENTITY_ORIGIN_SIZE_OFFSET, IDENTITY_RESERVED_OFFSET,
    IDENTITY_SAMPLE_CRC32_OFFSET, IDENTITY_SAMPLE_SCHEME_OFFSET, IDENTITY_VERSION_OFFSET,
    IdentityRecord, LABEL_LEN, Label, OriginIdentity,
};

prop_compose! {
    fn origin()(
        size_bytes: u64,
        sample_scheme: u32,
        sample_crc32: u32,
        mtime_s: i64,
        mtime_ns in 0_u32..1_000_000_000,
    ) -> OriginIdentity {
        OriginIdentity { size_bytes, sample_scheme, sample_crc32, mtime_s, mtime_ns }
    }
}

fn label() -> impl Strategy<Value = Label> {
    "\\PC{0,16}".prop_filter_map("a label", |text| Label::new(&text).ok())
}

prop_compose! {
    fn record()(
        origin in proptest::option::of(origin()),
        session: [u8; 16],
        boot_id: [u8; 16],
        clean: bool,
        has_journal: bool,
        changing: bool,
        label in label(),
    ) -> IdentityRecord {
        let origin_changing = changing && origin.is_some();
        IdentityRecord { origin, session, boot_id, clean, has_journal, origin_changing, label }
    }
}

fn example() -> IdentityRecord {
    let origin = OriginIdentity {
        size_bytes: 1 << 30,
        sample_scheme: 1,
        sample_crc32: 0xdead_beef,
        mtime_s: 1_700_000_000,
        mtime_ns: 5,
    };
    IdentityRecord {
        origin: Some(origin),
        session: [1; 16],
        boot_id: [2; 16],
        clean: true,
        has_journal: true,
        origin_changing: true,
        label: Label::new("web-1").expect("a label"),
    }
}

/// The example with `bytes` at `offset`, its checksum made right again.
fn broken(offset: usize, bytes: &[u8]) -> [u8; IDENTITY_LEN] {
    patched(example(), offset, bytes)
}

fn patched(record: IdentityRecord, offset: usize, bytes: &[u8]) -> [u8; IDENTITY_LEN] {
    let mut record = record.encode(hash);
    record[offset..offset + bytes.len()].copy_from_slice(bytes);
    let crc32 = hash(&record[..IDENTITY_CRC32_OFFSET]);
    record[IDENTITY_CRC32_OFFSET..].copy_from_slice(&crc32.to_le_bytes());
    record
}

fn error_of(record: &[u8]) -> FormatError {
    IdentityRecord::decode(record, hash).expect_err("broken")
}

proptest! {
    #[test]
    fn a_record_reads_back_as_it_was_written(record in record(), behind: [u8; 32]) {
        let mut bytes = record.encode(hash).to_vec();
        bytes.extend(behind);
        prop_assert_eq!(IdentityRecord::decode(&bytes, hash), Ok(Some(record)));
    }

    #[test]
    fn an_accepted_record_is_written_again_as_it_was(
        record in record(),
        at in any::<Index>(),
        byte: u8,
    ) {
        let bytes = patched(record, at.index(IDENTITY_CRC32_OFFSET), &[byte]);
        if let Ok(Some(read)) = IdentityRecord::decode(&bytes, hash) {
            prop_assert_eq!(read.encode(hash), bytes);
        }
    }

    #[test]
    fn any_damaged_byte_is_noticed(record in record(), at in any::<Index>(), flip in 1_u8..) {
        let mut bytes = record.encode(hash);
        let at = at.index(IDENTITY_LEN);
        bytes[at] ^= flip;
        match IdentityRecord::decode(&bytes, hash) {
            Ok(None) => prop_assert!(at < IDENTITY_MAGIC.len(), "byte {} makes it foreign", at),
            Ok(Some(_)) => prop_assert!(false, "byte {} went unnoticed", at),
            Err(_) => prop_assert!(at >= IDENTITY_MAGIC.len()),
        }
    }

    #[test]
    fn bytes_of_somebody_else_are_no_record(bytes: Vec<u8>) {
        prop_assert_eq!(IdentityRecord::decode(&bytes, hash), Ok(None));
    }

    #[test]
    fn a_label_keeps_its_text(text in "\\PC{0,30}") {
        let len = text.len();
        match Label::new(&text) {
            Ok(label) => {
                prop_assert!(len <= LABEL_LEN);
                prop_assert_eq!(label.as_str(), text.as_str());
                prop_assert_eq!(label.is_empty(), text.is_empty());
                prop_assert_eq!(label.to_string(), text.clone());
                prop_assert_eq!(format!("{label:?}"), format!("{text:?}"));
            }
            Err(error) => {
                prop_assert!(len > LABEL_LEN);
                prop_assert_eq!(error, FormatError::LabelTooLong { len: len as u64 });
            }
        }
    }
}

#[test]
fn zeros_are_no_record() {
    assert_eq!(IdentityRecord::decode(&[0; 496], hash), Ok(None));
    assert_eq!(IdentityRecord::decode(&[], hash), Ok(None));
}

#[test]
fn a_cut_record_is_damage() {
    let record = example().encode(hash);
    for len in IDENTITY_MAGIC.len()..IDENTITY_LEN {
        let found = len as u64;
        assert_eq!(
            error_of(&record[..len]),
            FormatError::IdentityLength { found }
        );
    }
}

#[test]
fn a_later_version_is_refused() {
    for found in [0, 2, u16::MAX] {
        let record = broken(IDENTITY_VERSION_OFFSET, &found.to_le_bytes());
        assert_eq!(error_of(&record), FormatError::IdentityVersion { found });
    }
}

#[test]
fn unknown_flags_are_refused() {
    for bit in 4..16 {
        let found = 15 | 1_u16 << bit;
        let record = broken(IDENTITY_FLAGS_OFFSET, &found.to_le_bytes());
        assert_eq!(error_of(&record), FormatError::IdentityFlags { found });
    }
}

#[test]
fn reserved_bytes_must_be_zero() {
    for offset in IDENTITY_RESERVED_OFFSET..IDENTITY_CRC32_OFFSET {
        let error = FormatError::IdentityNotZero {
            offset: offset as u64,
        };
        assert_eq!(error_of(&broken(offset, &[1])), error);
    }
}

#[test]
fn without_an_origin_its_fields_must_be_zero() {
    let none = IdentityRecord {
        origin: None,
        ..example()
    };
    for offset in [
        IDENTITY_SAMPLE_SCHEME_OFFSET,
        IDENTITY_ORIGIN_SIZE_OFFSET,
        IDENTITY_MTIME_S_OFFSET,
        IDENTITY_MTIME_NS_OFFSET,
        IDENTITY_SAMPLE_CRC32_OFFSET,
    ] {
        let error = error_of(&patched(none, offset, &[1]));
        assert_eq!(
            error,
            FormatError::IdentityNotZero {
                offset: offset as u64
            }
        );
    }
}

#[test]
fn only_an_origin_that_is_there_changes() {
    let none = IdentityRecord {
        origin: None,
        ..example()
    };
    let read = IdentityRecord::decode(&none.encode(hash), hash).expect("readable");
    assert_eq!(read.map(|read| read.origin_changing), Some(false));
    let found = 8;
    let record = patched(none, IDENTITY_FLAGS_OFFSET, &found_flags(found));
    assert_eq!(error_of(&record), FormatError::IdentityFlags { found });
}

fn found_flags(flags: u16) -> [u8; 2] {
    flags.to_le_bytes()
}

#[test]
fn nanoseconds_are_less_than_a_second() {
    let found = 1_000_000_000;
    let record = broken(IDENTITY_MTIME_NS_OFFSET, &found_bytes(found));
    assert_eq!(
        error_of(&record),
        FormatError::IdentityNanoseconds { found }
    );
    assert!(
        IdentityRecord::decode(
            &broken(IDENTITY_MTIME_NS_OFFSET, &found_bytes(found - 1)),
            hash
        )
        .is_ok()
    );
    // And none are written that would not be read.
    let mut record = example();
    record.origin = record.origin.map(|origin| OriginIdentity {
        mtime_ns: u32::MAX,
        ..origin
    });
    let read = IdentityRecord::decode(&record.encode(hash), hash).expect("readable");
    assert_eq!(
        read.and_then(|read| read.origin)
            .map(|origin| origin.mtime_ns),
        Some(found - 1)
    );
}

fn found_bytes(nanoseconds: u32) -> [u8; 4] {
    nanoseconds.to_le_bytes()
}

#[test]
fn a_label_is_text_without_control_characters() {
    for found in ['\0', '\n', '\u{1b}', '\u{7f}', '\u{85}'] {
        let error = FormatError::LabelControlCharacter { found };
        assert_eq!(Label::new(&format!("a{found}b")), Err(error));
    }
    assert_eq!(
        error_of(&broken(IDENTITY_LABEL_OFFSET, &[0xff])),
        FormatError::LabelNotUtf8
    );
    let error = FormatError::LabelControlCharacter { found: '\0' };
    assert_eq!(error_of(&broken(IDENTITY_LABEL_OFFSET, b"a\0b")), error);
    let full = "x".repeat(LABEL_LEN);
    assert_eq!(Label::new(&full).expect("it fits").as_str(), full);
    let len = LABEL_LEN as u64 + 1;
    assert_eq!(
        Label::new(&(full + "x")),
        Err(FormatError::LabelTooLong { len })
    );
    // Not a character cut in two at the end.
    assert!(Label::new(&"\u{20ac}".repeat(22)).is_err());
}

#[test]
fn the_default_is_no_origin_no_session_no_label() {
    let record = IdentityRecord::default();
    assert_eq!(record.origin, None);
    assert!(record.label.is_empty() && !record.clean);
    let bytes = record.encode(hash);
    assert!(
        bytes[IDENTITY_SAMPLE_SCHEME_OFFSET..IDENTITY_CRC32_OFFSET]
            .iter()
            .all(|&b| b == 0)
    );
    assert!(
        bytes[IDENTITY_BOOT_ID_OFFSET..IDENTITY_LABEL_OFFSET]
            .iter()
            .all(|&b| b == 0)
    );
}
