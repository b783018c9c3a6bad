//! SPEC.md says what the code does: its tables are compared with the constants row by row, none
//! missing and none to spare, and its worked example with the code and with the kernel's bytes.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use usnap_format::{
    AreaIndex, ChunkSize, EXCEPTION_LEN, EXCEPTION_NEW_CHUNK_OFFSET, EXCEPTION_OLD_CHUNK_OFFSET,
    EXCEPTIONS_PER_SECTOR, Exception, FIRST_DATA_CHUNK, HEADER_CHUNK, HEADER_CHUNK_SIZE_OFFSET,
    HEADER_LEN, HEADER_MAGIC_OFFSET, HEADER_VALID_OFFSET, HEADER_VERSION_OFFSET, Header,
    IDENTITY_BOOT_ID_OFFSET, IDENTITY_CRC32_OFFSET, IDENTITY_FLAG_CLEAN, IDENTITY_FLAG_JOURNAL,
    IDENTITY_FLAG_ORIGIN, IDENTITY_FLAG_ORIGIN_CHANGING, IDENTITY_FLAGS_OFFSET,
    IDENTITY_LABEL_OFFSET, IDENTITY_LEN, IDENTITY_MAGIC, IDENTITY_MAGIC_OFFSET,
    IDENTITY_MTIME_NS_OFFSET, IDENTITY_MTIME_S_OFFSET, IDENTITY_OFFSET,
    IDENTITY_ORIGIN_SIZE_OFFSET, IDENTITY_RESERVED_OFFSET, IDENTITY_SAMPLE_CRC32_OFFSET,
    IDENTITY_SAMPLE_SCHEME_OFFSET, IDENTITY_SESSION_OFFSET, IDENTITY_VERSION,
    IDENTITY_VERSION_OFFSET, LABEL_LEN, Layout, MAGIC, MAGIC_BYTES, NEW_CHUNK_BITS, NewChunk,
    OldChunk, SECTOR_SIZE, Usage, VERSION, encode_exception,
};

const SPEC: &str = include_str!("../SPEC.md");
const KERNEL_MADE: &[u8] = include_bytes!("../vectors/chunk-4k.store");

/// The part of SPEC.md below the heading that begins with `heading`, up to the next one like it.
fn section(heading: &str) -> &'static str {
    let start = SPEC
        .find(heading)
        .unwrap_or_else(|| panic!("no section {heading}"));
    let section = &SPEC[start..];
    section[1..]
        .find("\n## ")
        .map_or(section, |end| &section[..=end])
}

/// The rows, without the header's, of the table in `section` whose first column is called `column`.
fn table(section: &str, column: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_matches('|');
        line.split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect()
    };
    let mut lines = section.lines().skip_while(|line| {
        !(line.starts_with('|') && cells(line).first().is_some_and(|cell| cell == column))
    });
    assert!(lines.next().is_some(), "no table of {column}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .collect()
}

fn number(text: &str) -> u64 {
    let parsed = text
        .strip_prefix("0x")
        .map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    parsed.unwrap_or_else(|_| panic!("{text} is no number"))
}

/// Compares a table of fields with their offsets; the field after the last begins at `len`.
fn assert_fields(rows: &[Vec<String>], expected: &[(&str, usize)], len: usize) {
    let names: Vec<&str> = rows.iter().map(|row| row[2].as_str()).collect();
    assert_eq!(
        names,
        expected.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );
    let ends = expected
        .iter()
        .skip(1)
        .map(|&(_, offset)| offset)
        .chain([len]);
    for ((row, (name, offset)), end) in rows.iter().zip(expected).zip(ends) {
        assert_eq!(number(&row[0]), *offset as u64, "offset of {name}");
        assert_eq!(number(&row[1]), (end - offset) as u64, "size of {name}");
    }
}

#[test]
fn constants_are_as_the_spec_says() {
    let expected = BTreeMap::from([
        ("SECTOR_SIZE", SECTOR_SIZE),
        ("HEADER_LEN", HEADER_LEN as u64),
        ("EXCEPTION_LEN", EXCEPTION_LEN as u64),
        ("EXCEPTIONS_PER_SECTOR", EXCEPTIONS_PER_SECTOR),
        ("MAGIC", u64::from(MAGIC)),
        ("VERSION", u64::from(VERSION)),
        ("NEW_CHUNK_BITS", u64::from(NEW_CHUNK_BITS)),
        ("HEADER_CHUNK", HEADER_CHUNK.0),
        ("FIRST_DATA_CHUNK", FIRST_DATA_CHUNK.0),
        ("ChunkSize::MAX_SECTORS", u64::from(ChunkSize::MAX_SECTORS)),
        ("IDENTITY_OFFSET", IDENTITY_OFFSET),
        ("IDENTITY_LEN", IDENTITY_LEN as u64),
        ("IDENTITY_VERSION", u64::from(IDENTITY_VERSION)),
        ("LABEL_LEN", LABEL_LEN as u64),
    ]);
    let rows = table(section("## 1. "), "constant");
    let found: BTreeMap<&str, u64> = rows
        .iter()
        .map(|row| (row[0].as_str(), number(&row[1])))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_headers_fields_are_as_the_spec_says() {
    let rows = table(section("## 3. "), "offset");
    let expected = [
        ("magic", HEADER_MAGIC_OFFSET),
        ("valid", HEADER_VALID_OFFSET),
        ("version", HEADER_VERSION_OFFSET),
        ("chunk size", HEADER_CHUNK_SIZE_OFFSET),
    ];
    assert_fields(&rows, &expected, HEADER_LEN);
    let [magic, _, version, _] = &rows[..] else {
        panic!("four fields")
    };
    let text = String::from_utf8(MAGIC_BYTES.to_vec()).expect("text");
    assert_eq!(magic[3], format!("0x{MAGIC:x}: the bytes `{text}"));
    assert_eq!(number(&version[3]), u64::from(VERSION));
}

#[test]
fn the_entrys_fields_are_as_the_spec_says() {
    let rows = table(section("## 4. "), "offset");
    let expected = [
        ("old chunk", EXCEPTION_OLD_CHUNK_OFFSET),
        ("new chunk", EXCEPTION_NEW_CHUNK_OFFSET),
    ];
    assert_fields(&rows, &expected, EXCEPTION_LEN);
}

#[test]
fn the_identity_records_fields_are_as_the_spec_says() {
    let rows = table(section("## 9. "), "offset");
    let expected = [
        ("magic", IDENTITY_MAGIC_OFFSET),
        ("version", IDENTITY_VERSION_OFFSET),
        ("flags", IDENTITY_FLAGS_OFFSET),
        ("sample scheme", IDENTITY_SAMPLE_SCHEME_OFFSET),
        ("origin size", IDENTITY_ORIGIN_SIZE_OFFSET),
        ("mtime seconds", IDENTITY_MTIME_S_OFFSET),
        ("mtime nanoseconds", IDENTITY_MTIME_NS_OFFSET),
        ("sample crc32", IDENTITY_SAMPLE_CRC32_OFFSET),
        ("session", IDENTITY_SESSION_OFFSET),
        ("boot id", IDENTITY_BOOT_ID_OFFSET),
        ("label", IDENTITY_LABEL_OFFSET),
        ("reserved", IDENTITY_RESERVED_OFFSET),
        ("crc32", IDENTITY_CRC32_OFFSET),
    ];
    assert_fields(&rows, &expected, IDENTITY_LEN);
    let [magic, version, flags, ..] = &rows[..] else {
        panic!("three fields and more")
    };
    let text = String::from_utf8(IDENTITY_MAGIC.to_vec()).expect("text");
    assert_eq!(magic[3], format!("the bytes `{text}"));
    assert_eq!(number(&version[3]), u64::from(IDENTITY_VERSION));
    let known = format!(
        "{IDENTITY_FLAG_ORIGIN}: there is an origin; {IDENTITY_FLAG_CLEAN}: clean; \
         {IDENTITY_FLAG_JOURNAL}: journal; {IDENTITY_FLAG_ORIGIN_CHANGING}: the origin is changing; \
         no others"
    );
    assert_eq!(flags[3], known);
    assert!(section("## 9. ").contains(&format!("0x{:x}", crc32fast::hash(b"123456789"))));
}

#[test]
fn chunk_sizes_have_the_figures_that_the_spec_says() {
    let rows = table(section("## 2. "), "C");
    assert_eq!(rows.len(), 7);
    for row in rows {
        let figures: Vec<u64> = row.iter().map(|cell| number(cell)).collect();
        let sectors = u32::try_from(figures[0]).expect("a chunk size");
        let chunk_size = ChunkSize::from_sectors(sectors).expect("a chunk size");
        let layout = Layout::new(chunk_size);
        let area = |k| layout.area_location(AreaIndex(k)).expect("a chunk").0;
        let chunks = layout.chunks_for(1000).expect("small");
        let exceptions = chunk_size.exceptions_per_area();
        let found = [
            figures[0],
            chunk_size.bytes(),
            exceptions,
            area(0),
            area(1),
            area(2),
            chunks,
        ];
        assert_eq!(figures, found);
    }
}

#[test]
fn the_sizes_that_the_spec_calls_poisoned_are() {
    let rows = table(section("## 6. "), "B");
    assert_eq!(rows.len(), 5);
    for row in rows {
        let chunk_size = ChunkSize::from_bytes(number(&row[0])).expect("a chunk size");
        let (count, unit) = row[1].split_once(' ').expect("a size with its unit");
        let shift = match unit {
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            other => panic!("unit {other}"),
        };
        let bytes = number(count) << shift;
        assert_eq!(bytes, number(&row[2]));
        assert!(
            Layout::new(chunk_size).kernel_poisoned(chunk_size.whole_chunks(bytes)),
            "{row:?}"
        );
    }
}

/// The hex dumps of the worked example: where each begins, and its bytes.
fn dumps() -> Vec<(usize, Vec<u8>)> {
    let mut dumps = Vec::new();
    for block in section("## 11. ").split("```text\n").skip(1) {
        let (block, _) = block.split_once("```").expect("an end");
        let mut bytes = Vec::new();
        let mut start = None;
        for line in block.lines() {
            let (at, line) = line.split_once("  ").expect("offset and bytes");
            let at = usize::from_str_radix(at, 16).expect("an offset");
            let begin = *start.get_or_insert(at);
            assert_eq!(at, begin + bytes.len(), "lines follow each other");
            let byte = |byte| u8::from_str_radix(byte, 16).expect("a byte");
            bytes.extend(line.split(' ').map(byte));
        }
        dumps.push((start.expect("a line"), bytes));
    }
    dumps
}

#[test]
fn the_worked_example_is_what_the_kernel_wrote() {
    let dumps = dumps();
    assert_eq!(dumps.len(), 2);
    for (at, bytes) in dumps {
        let range: Range<usize> = at..at + bytes.len();
        assert_eq!(KERNEL_MADE[range], bytes);
    }
}

#[test]
fn the_worked_example_is_what_the_code_writes() {
    let [(header_at, header), (area_at, area)] = &dumps()[..] else {
        panic!("two dumps")
    };
    let chunk_size = ChunkSize::from_sectors(8).expect("a chunk size");
    let layout = Layout::new(chunk_size);
    assert_eq!(*header_at, 0);
    assert_eq!(header[..HEADER_LEN], Header::new(chunk_size).encode());

    let location = layout
        .area_location(AreaIndex(0))
        .and_then(|area| chunk_size.new_to_offset(area));
    assert_eq!(location, Some(*area_at as u64));
    let mut written = vec![0; area.len()];
    for (n, old_chunk) in (0..).zip([10, 2, 12, 13, 14, 31].map(OldChunk)) {
        let new_chunk = layout.nth_data_chunk(n).expect("small");
        encode_exception(
            &mut written,
            n,
            Exception {
                old_chunk,
                new_chunk,
            },
        )
        .expect("room");
    }
    assert_eq!(written, *area);
}

#[test]
fn the_worked_examples_figures_are_right() {
    let text = section("## 11. ").replace('\n', " ");
    let chunk_size = ChunkSize::from_sectors(8).expect("a chunk size");
    let layout = Layout::new(chunk_size);
    let device_bytes = KERNEL_MADE.len() as u64;
    let device_chunks = chunk_size.whole_chunks(device_bytes);
    let next_free = layout.next_free_after(6).expect("small");
    let usage = Usage::persistent(layout, next_free, AreaIndex(0), device_bytes);
    let area_1 = layout.area_location(AreaIndex(1)).expect("small");
    for claim in [
        format!("a COW device of {} KiB", device_bytes >> 10),
        format!(
            "so E = {}, D = {device_chunks}",
            chunk_size.exceptions_per_area()
        ),
        format!("next_free is {next_free}"),
        format!("Area 1 would be chunk {area_1}"),
        format!("its capacity is {}", layout.capacity(device_chunks)),
        format!("The status line is `{usage}`: {next_free} chunks of 8 sectors"),
    ] {
        assert!(text.contains(&claim), "the spec does not say: {claim}");
    }
    assert!(area_1 > NewChunk(device_chunks));
}

#[test]
fn files_that_the_spec_names_exist() {
    let named: Vec<&str> = SPEC
        .split('`')
        .filter(|name| name.starts_with("vectors/") && name.len() > 8)
        .collect();
    assert!(named.len() >= 2, "{named:?}");
    for name in named {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        assert!(fs::exists(&path).expect("a look"), "{name}");
    }
}
