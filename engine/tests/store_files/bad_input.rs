//! What is no store, or a damaged or hostile one: refused, with the kind that a caller can match
//! on, a message that says where, and the file as it was.

use usnap_engine::ErrorKind;

use crate::bench::{Bench, CHUNK, read_only, whole_message};
use crate::stores::{first_exceptions, image, put_exception, put_u32};

/// Refused for writing and for reading alike, with these words in the message, nothing changed.
fn refused(what: &str, bytes: &[u8], kind: ErrorKind, words: &[&str]) {
    let bench = Bench::with_cow(bytes);
    let before = bench.fingerprint();
    for result in [bench.open(), bench.open_with(&read_only())] {
        let error = result.err().unwrap_or_else(|| panic!("{what}: opened"));
        let message = whole_message(&error);
        assert_eq!(error.kind(), kind, "{what}: {message}");
        let path = bench.cow_path().display().to_string();
        for word in words.iter().chain([&path.as_str()]) {
            assert!(
                message.contains(word),
                "{what}: no \"{word}\" in: {message}"
            );
        }
    }
    assert_eq!(bench.fingerprint(), before, "{what}");
}

/// A store of 40 chunks with three exceptions, changed.
fn damaged(damage: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = image(CHUNK, 40, &[(5, 2), (9, 3), (6, 4)]);
    damage(&mut bytes);
    bytes
}

fn with_header(at: usize, value: usize) -> Vec<u8> {
    damaged(|bytes| put_u32(bytes, at, value))
}

fn with_third_entry(old_chunk: u64, new_chunk: u64) -> Vec<u8> {
    damaged(|bytes| put_exception(bytes, CHUNK, 2, old_chunk, new_chunk))
}

#[test]
fn the_store_that_the_others_are_damaged_from_opens() {
    let bench = Bench::with_cow(&damaged(|_| {}));
    let (snapshot, _) = bench.open().unwrap();
    assert_eq!(snapshot.report().exceptions.committed, 3);
}

#[test]
fn what_is_not_there_or_is_no_file_is_said() {
    let bench = Bench::new();
    let error = bench.open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(whole_message(&error).contains("cow"), "{error:?}");
    assert!(!bench.cow_path().exists(), "opening creates nothing");
    std::fs::create_dir(bench.cow_path()).unwrap();
    assert_eq!(bench.open().err().unwrap().kind(), ErrorKind::Usage);
}

#[test]
fn files_that_are_no_store_are_foreign() {
    let foreign = |what, bytes: &[u8]| refused(what, bytes, ErrorKind::Foreign, &["cannot use"]);
    refused("empty", b"", ErrorKind::Foreign, &["empty"]);
    refused("tiny", b"SnAp", ErrorKind::Foreign, &["one sector"]);
    foreign("text", "precious words\n".repeat(900).as_bytes());
    foreign("qcow2", &[b"QFI\xfb\0\0\0\x03", &[7; 9000][..]].concat());
    foreign("swapped", &[b"pAnS\x01", &[0; 9000][..]].concat());
    foreign("another version", &with_header(8, 2));
}

/// Zeros, then a superblock's magic.
fn filesystem(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    bytes[offset..][..magic.len()].copy_from_slice(magic);
    bytes
}

#[test]
fn filesystems_that_begin_with_zeros_are_not_taken_for_unused_files() {
    for (name, offset, magic) in [
        ("ext4", 1024 + 56, &b"\x53\xef"[..]),
        ("swap", 4086, b"SWAPSPACE2"),
        ("ISO 9660", 32768 + 1, b"CD001"),
        ("btrfs", 65536 + 64, b"_BHRfS_M"),
        ("reiserfs", 65536 + 52, b"ReIsEr2Fs"),
        ("gfs2", 65536, b"\x01\x16\x19\x70"),
        ("ufs2", 65536 + 1372, b"\x19\x01\x54\x19"),
    ] {
        let bytes = filesystem(offset, magic);
        refused(name, &bytes, ErrorKind::Foreign, &["not a store"]);
    }
}

#[test]
fn a_store_that_a_kernel_invalidated_is_refused_with_the_reason() {
    let words = ["invalidated", "hint: "];
    refused(
        "valid=0",
        &with_header(4, 0),
        ErrorKind::InvalidStore,
        &words,
    );
}

#[test]
fn any_valid_flag_but_zero_is_valid() {
    for valid in [2, 0x8000_0000] {
        let bench = Bench::with_cow(&with_header(4, valid));
        drop(bench.open().unwrap());
        assert_eq!(
            bench.cow()[4..8],
            u32::try_from(valid).unwrap().to_le_bytes()
        );
    }
}

#[test]
fn chunk_sizes_that_cannot_be_are_named() {
    for (sectors, word) in [
        (0, "0"),
        (3, "3"),
        (1 << 21, "1073741824"),
        (1 << 16, "33554432"),
        (1 << 31, "2147483648"),
        (u32::MAX as usize, "4294967295"),
    ] {
        let bytes = with_header(12, sectors);
        refused(
            "chunk size",
            &bytes,
            ErrorKind::Corrupt,
            &[word, "chunk size"],
        );
    }
    // Possible, but the device is smaller than that.
    let words = ["16777216", "first metadata area is missing"];
    refused(
        "large",
        &with_header(12, 1 << 15),
        ErrorKind::Corrupt,
        &words,
    );
}

#[test]
fn entries_that_cannot_be_are_named() {
    let third = "area 0, entry 2";
    for (what, old_chunk, new_chunk, word) in [
        ("beyond the end", 6, 40, "beyond the end"),
        ("far beyond the end", 6, 1 << 50, "1125899906842624"),
        ("the first area", 6, 1, "metadata"),
        ("high bits", 6, (1 << 56) | 4, "run length"),
        ("all bits", 6, u64::MAX, "18446744073709551615"),
        ("an old chunk twice", 5, 4, "second for its old chunk"),
        ("a new chunk twice", 6, 2, "new chunk 2"),
    ] {
        let bytes = with_third_entry(old_chunk, new_chunk);
        refused(
            what,
            &bytes,
            ErrorKind::Corrupt,
            &[third, word, "usnap check"],
        );
    }
    // The second area of a store that is long enough to have one.
    let mut bytes = image(CHUNK, 300, &[(5, 2), (9, 3)]);
    put_exception(&mut bytes, CHUNK, 2, 6, 258);
    let words = [third, "metadata"];
    refused("the second area", &bytes, ErrorKind::Corrupt, &words);
}

#[test]
fn damage_in_a_later_area_is_located_there() {
    let chunk_len = 512;
    let mut exceptions = first_exceptions(chunk_len, 70);
    exceptions[40].1 = 1000;
    let bytes = image(chunk_len, 100, &exceptions);
    let words = ["area 1, entry 8", "old chunk 40", "new chunk 1000"];
    refused("a later area", &bytes, ErrorKind::Corrupt, &words);

    let mut exceptions = first_exceptions(chunk_len, 70);
    exceptions[66].1 = exceptions[3].1;
    let bytes = image(chunk_len, 100, &exceptions);
    let words = ["area 2, entry 2", "new chunk 5"];
    refused(
        "new chunk twice, far apart",
        &bytes,
        ErrorKind::Corrupt,
        &words,
    );
}

#[test]
fn a_store_that_was_cut_off_says_which_area_is_missing() {
    let bytes = damaged(|_| {});
    let cut = &bytes[..CHUNK + 100];
    let words = ["first metadata area is missing"];
    refused("cut in the first area", cut, ErrorKind::Corrupt, &words);
    let words = ["area 0, entry 1", "new chunk 3", "beyond the end"];
    refused("cut", &bytes[..3 * CHUNK], ErrorKind::Corrupt, &words);
    // All 32 entries of the first area are used, so there must be a second.
    let full = image(512, 34, &first_exceptions(512, 32));
    refused(
        "next area",
        &full,
        ErrorKind::Corrupt,
        &["area 1", "chunk 34"],
    );
}

#[test]
fn an_origin_that_is_too_short_for_the_store_is_refused_before_it_is_changed() {
    let bytes = with_third_entry(64, 4);
    let words = ["1 of its chunks", "too short"];
    refused("behind the end", &bytes, ErrorKind::OriginMismatch, &words);
}

#[test]
fn an_origin_that_is_missing_or_empty_is_said() {
    let open = |path: &std::path::Path| usnap_engine::origin::Origin::open(path).unwrap_err();
    let bench = Bench::new();
    let error = open(&bench.cow_path());
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        whole_message(&error).contains("cannot use origin"),
        "{error:?}"
    );
    std::fs::write(bench.cow_path(), b"").unwrap();
    assert_eq!(open(&bench.cow_path()).kind(), ErrorKind::Usage);
    assert_eq!(open(bench.folder.path()).kind(), ErrorKind::Usage);
}
