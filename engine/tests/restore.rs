//! Dumps and the way back: the same metadata, bit for bit, of every store that a kernel made and of a
//! large one; no dump that is wrong is taken; and a cut while a store is restored over another one
//! leaves one of the two, or none.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use usnap_engine::check::check_device;
use usnap_engine::device::{BlockDevice, FileDevice, MemDevice};
use usnap_engine::dump::{DumpForm, DumpWriter, ReadOptions, Visitor, read, walk, walk_device};
use usnap_engine::repair::{Plan, RepairOptions};
use usnap_engine::restore::{Restored, restore_device, restore_new, restore_over};
use usnap_engine::sim::{CrashState, LogWrites};
use usnap_engine::{Error, ErrorKind, Result};

const CHUNK: usize = 4096;

fn dump_of(device: &dyn BlockDevice, form: DumpForm) -> Vec<u8> {
    let mut dump = DumpWriter::new(Vec::new(), form);
    walk_device(device, &mut dump).unwrap();
    dump.end().unwrap()
}

fn text(dump: Vec<u8>) -> String {
    String::from_utf8(dump).unwrap()
}

fn source(dump: &[u8]) -> impl FnMut(&mut dyn Visitor) -> Result<()> {
    move |visitor| read(dump, ReadOptions::default(), visitor)
}

fn vectors() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../format-spec/vectors");
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let stores = paths.filter(|path| path.extension().is_some_and(|e| e == "store"));
    let vectors: Vec<_> = stores
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    assert!(vectors.len() >= 15);
    vectors
}

/// The bytes of the header chunk and of all areas up to the one with the terminator.
fn metadata(store: &[u8]) -> Vec<&[u8]> {
    let sectors: [u8; 4] = store[12..16].try_into().unwrap();
    let chunk_len = 512 * usize::try_from(u32::from_le_bytes(sectors)).unwrap();
    let mut chunks = vec![&store[..chunk_len]];
    for area in (chunk_len..).step_by(chunk_len * (chunk_len / 16 + 1)) {
        let Some(bytes) = store.get(area..area + chunk_len) else {
            break;
        };
        chunks.push(bytes);
        if bytes.chunks(16).any(|entry| entry[8..] == [0; 8]) {
            break;
        }
    }
    chunks
}

#[test]
fn what_is_dumped_is_restored_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (name, store) in vectors() {
        for form in [DumpForm::Text, DumpForm::Json] {
            let dump = dump_of(&MemDevice::from_bytes(&store), form);
            let path = folder.path().join("new.cow");
            let restored = restore_new(&path, &mut source(&dump)).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len(), store.len(), "{name}");
            assert!(metadata(&bytes) == metadata(&store), "{name} {form:?}");
            assert_eq!(restored.size_bytes, store.len() as u64);
            // No data comes from nowhere.
            let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
            let meant: usize = metadata(&bytes).iter().map(|c| c.len()).sum();
            let all: usize = bytes.chunks(512).filter(|s| !is_zero(s)).count() * 512;
            assert!(all <= meant, "{name}");
            assert!(
                dump_of(&MemDevice::from_bytes(&bytes), form) == dump,
                "{name}"
            );
            std::fs::remove_file(&path).unwrap();
        }
    }
}

/// Both ends of the header's padding, and what lies in the place of a record and is none.
#[test]
fn bytes_that_mean_nothing_are_restored_too() {
    let mut store = vectors().swap_remove(0).1;
    for (name, place) in [("no record", 16), ("damaged", 16 + 20), ("padding", 511)] {
        store[16..24].copy_from_slice(b"usnap-id");
        store[place] ^= 0xa5;
        for form in [DumpForm::Text, DumpForm::Json] {
            let dump = dump_of(&MemDevice::from_bytes(&store), form);
            let device = MemDevice::new(store.len() as u64);
            restore_device(&device, &mut source(&dump)).unwrap();
            assert!(metadata(&device.to_bytes()) == metadata(&store), "{name}");
        }
    }
}

/// A dump as the version before showed it.
const FIRST_VERSION: &str = "usnap-dump 1
header valid 7 chunk_size_sectors 8 cow_size_bytes 40960
origin size_bytes 65536 sample_scheme 3 sample_crc32 0x01020304 mtime -2.999999999
label \"a \\\"b\\\" \\u{200b}\"
area 0 chunk 1
5 -> 2
18446744073709551615 -> 1
end 2
";

#[test]
fn dumps_of_the_first_version_are_read() {
    let device = MemDevice::new(40960);
    let restored = restore_device(&device, &mut source(FIRST_VERSION.as_bytes())).unwrap();
    let Restored {
        exceptions,
        areas,
        notes,
        ..
    } = &restored;
    assert_eq!((*exceptions, *areas), (2, 1));
    assert!(
        notes[0].contains("area 0, entry 1") && notes[0].contains("metadata"),
        "{notes:?}"
    );
    let again = text(dump_of(&device, DumpForm::Text));
    let second = FIRST_VERSION.replace("usnap-dump 1", "usnap-dump 2");
    let lines: Vec<&str> = again
        .lines()
        .filter(|line| !line.starts_with("record"))
        .collect();
    assert_eq!(lines, second.lines().collect::<Vec<_>>());
    assert_eq!(check_device(&device).unwrap().finding_count, 1);
}

/// Wrong dumps, the place where each is wrong, and a word of why.
#[test]
fn wrong_dumps_are_refused_with_the_place() {
    let whole = text(dump_of(
        &MemDevice::from_bytes(
            &vectors()
                .into_iter()
                .find(|v| v.0 == "four-areas")
                .unwrap()
                .1,
        ),
        DumpForm::Text,
    ));
    let lines: Vec<&str> = whole.lines().collect();
    let until = |n: usize| lines[..n].join("\n") + "\n";
    let replaced = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        whole.replacen(from, to, 1)
    };
    let cases = [
        (String::new(), "1, column 1", "cut off"),
        ("hello\n".to_owned(), "1, column 1", "no dump"),
        ("usnap-dump 3\n".to_owned(), "1, column 12", "version 3"),
        (
            "usnap-dump 2\narea 0 chunk 1\n".to_owned(),
            "2, column 1",
            "header",
        ),
        (until(2), "3, column 1", "cut off"),
        (until(50), "51, column 1", "cut off"),
        (whole.replace("end 100", ""), "108, column 1", "cut off"),
        (whole.clone() + "more\n", "108, column 1", "more"),
        (
            replaced("valid 1", "valid 4294967296"),
            "2, column 14",
            "out of range",
        ),
        (replaced("valid 1", "valid -1"), "2, column 14", "number"),
        (
            replaced("sectors 1 ", "sectors 3 "),
            "2, column 52",
            "power of two",
        ),
        (
            replaced("sectors 1 ", "sectors 65536 "),
            "2, column 56",
            "larger",
        ),
        (
            replaced("bytes 65536", "bytes 1023"),
            "2, column 52",
            "two chunks",
        ),
        (
            replaced("area 0 chunk 1", "area 1 chunk 34"),
            "3, column 14",
            "area 0",
        ),
        (
            replaced("area 0 chunk 1", "area 0 chunk 2"),
            "3, column 14",
            "chunk 1, not 2",
        ),
        (
            replaced("area 1", "area 0"),
            "36, column 14",
            "area 0 does not come",
        ),
        (replaced("7 -> 3\n", ""), "35, column 14", "--repack"),
        (
            replaced("7 -> 3\n", "7 -> 3\n7 -> 3\n"),
            "36, column 8",
            "no room",
        ),
        (
            replaced("7 -> 3", "7 -> 0"),
            "5, column 6",
            "ends the areas",
        ),
        (replaced("7 -> 3", "7 - 3"), "5, column 3", "->"),
        (replaced("7 -> 3", "7 -> 3 4"), "5, column 8", "goes on"),
        (
            replaced("7 -> 3", "7 -> 99999999999999999999"),
            "5, column 6",
            "out of range",
        ),
        (replaced("7 -> 3", "7 -> \u{e9}"), "5, column 6", "number"),
        (
            replaced("end 100", "end 99"),
            "107, column 5",
            "100 exceptions",
        ),
        (
            replaced("end 100", "junk 72 01\nend 100"),
            "107, column 9",
            "an exception",
        ),
        (
            replaced("end 100", "junk 600 01\nend 100"),
            "107, column 10",
            "600",
        ),
        (
            replaced("end 100", "junk 64 0x\nend 100"),
            "107, column 9",
            "hexadecimal",
        ),
        (
            replaced("end 100", "missing area 4 chunk 133\nend 100"),
            "107, column 22",
            "only 4",
        ),
        (
            replaced("area 0", "padding 16 00\npadding 16 00\narea 0"),
            "4, column 12",
            "16",
        ),
        (
            replaced("area 0", "label \"a\narea 0"),
            "3, column 7",
            "quotes",
        ),
        (
            replaced("area 0", "label \"\\u{7}\"\narea 0"),
            "3, column 7",
            "control",
        ),
        (
            replaced("area 0", "record clean 2\narea 0"),
            "3, column 14",
            "0 or 1",
        ),
        (
            "usnap-dump 2 ".to_owned() + &"x".repeat(5000),
            "1, column 1",
            "longer",
        ),
    ];
    let mut wrong = Vec::new();
    for (dump, place, word) in cases {
        let error = refusal(dump.as_bytes());
        let wanted = format!("line {place}: ");
        if !error.contains(&wanted) || !error.contains(word) {
            wrong.push(format!("{place} {word}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wrong_json_is_refused_with_the_place() {
    let store = vectors().into_iter().find(|v| v.0 == "junk").unwrap().1;
    let whole = text(dump_of(&MemDevice::from_bytes(&store), DumpForm::Json));
    let replaced = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        whole.replacen(from, to, 1)
    };
    let cases = [
        ("{".to_owned(), "1, column 2", "cut off"),
        ("{}".to_owned(), "1, column 2", "exceptions"),
        ("{\"areas\":[]}".to_owned(), "1, column 2", "first"),
        (
            replaced("\"usnap_dump\":2", "\"usnap_dump\":9"),
            "1, column 15",
            "version 9",
        ),
        (
            replaced("\"valid\":1", "\"valid\":1.5"),
            "1, column 25",
            "number",
        ),
        (
            replaced("\"valid\":1", "\"valid\":0x1"),
            "1, column 25",
            "decimal",
        ),
        (
            replaced("\"valid\":1", "\"valid\":1,\"valid\":1"),
            "1, column 27",
            "another",
        ),
        (replaced("\"valid\"", "\"velid\""), "1, column 17", "velid"),
        (
            replaced("\"label\":null", "\"label\":nil"),
            "1, column 81",
            "null",
        ),
        (
            replaced("\"exceptions\":2}", "\"exceptions\":3}"),
            "8, column 14",
            "2 exceptions",
        ),
        (replaced("\n],", "\n"), "8, column 1", "','"),
        (whole.trim_end().to_owned() + "{}", "8, column 16", "more"),
        (
            replaced("\"new_chunk\":2", "\"new_chunk\":0"),
            "4, column 29",
            "ends the areas",
        ),
        (
            replaced("\"old_chunk\":5,", ""),
            "4, column 15",
            "old_chunk and new_chunk",
        ),
        (
            replaced("\"label\":null", "\"label\":\"\\ud800x\""),
            "1, column 81",
            "character",
        ),
        (
            replaced(
                "\"label\":null",
                &format!("\"label\":\"{}\"", "x".repeat(5000)),
            ),
            "1, column 81",
            "longer",
        ),
    ];
    let mut wrong = Vec::new();
    for (dump, place, word) in cases {
        let error = refusal(dump.as_bytes());
        let wanted = format!("line {place}: ");
        if !error.contains(&wanted) || !error.contains(word) {
            wrong.push(format!("{place} {word}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for end in 0..whole.trim_end().len() {
        assert!(refusal(&whole.as_bytes()[..end]).contains("cannot read the dump"));
    }
    // White space is free.
    let spaced = whole.replace([',', ':'], " \n,").replace(" \n,", " , ");
    assert!(refusal(spaced.as_bytes()).contains("':'"));
    let spaced = whole.replace(':', "\t:\r\n ").replace('[', " [ ");
    let device = MemDevice::new(store.len() as u64);
    restore_device(&device, &mut source(spaced.as_bytes())).unwrap();
    assert!(metadata(&device.to_bytes()) == metadata(&store));
}

/// What is said of a dump that is not taken; nothing was made of it.
fn refusal(dump: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let made = restore_new(&folder.path().join("new.cow"), &mut source(dump));
    let Err(error) = made else {
        return String::from_utf8_lossy(dump).into_owned();
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    error.to_string()
}

#[test]
fn repacking_fills_areas_where_lines_were_removed() {
    let store = vectors()
        .into_iter()
        .find(|v| v.0 == "four-areas")
        .unwrap()
        .1;
    let whole = text(dump_of(&MemDevice::from_bytes(&store), DumpForm::Text));
    for every in [2, 3, 7] {
        let is_kept = |(n, line): &(usize, &str)| !line.contains("->") || n % every != 0;
        let kept: Vec<&str> = whole
            .lines()
            .enumerate()
            .filter(is_kept)
            .map(|l| l.1)
            .collect();
        let dump = kept.join("\n");
        let mut source = |visitor: &mut dyn Visitor| {
            read(dump.as_bytes(), ReadOptions { repack: true }, visitor)
        };
        let device = MemDevice::from_bytes(&store);
        let restored = restore_device(&device, &mut source).unwrap();
        let entries = |dump: &str| -> Vec<String> {
            dump.lines()
                .filter(|l| l.contains("->"))
                .map(str::to_owned)
                .collect()
        };
        let wanted = entries(&dump);
        assert_eq!(restored.exceptions, wanted.len() as u64);
        assert_eq!(entries(&text(dump_of(&device, DumpForm::Text))), wanted);
        assert!(check_device(&device).unwrap().is_clean());
    }
}

/// A store of 4 KiB chunks with so many exceptions, in order.
fn store_with(entries: usize, salt: u64) -> Vec<u8> {
    let chunks = 2 + entries + entries / 256 + 3;
    let mut dump = format!(
        "usnap-dump 2\nheader valid 1 chunk_size_sectors 1 cow_size_bytes {}\narea 0 chunk 1\n",
        chunks.max(200) * 512
    );
    for n in 0..entries {
        if n > 0 && n % 32 == 0 {
            let _ = writeln!(dump, "area {} chunk {}", n / 32, 1 + n / 32 * 33);
        }
        let _ = writeln!(dump, "{} -> {}", n as u64 * 7 + salt, 2 + n + n / 32);
    }
    if entries.is_multiple_of(32) && entries > 0 {
        let _ = writeln!(
            dump,
            "area {} chunk {}",
            entries / 32,
            1 + entries / 32 * 33
        );
    }
    let _ = writeln!(dump, "end {entries}");
    let device = MemDevice::new(chunks.max(200) as u64 * 512);
    restore_device(&device, &mut source(dump.as_bytes())).unwrap();
    device.to_bytes()
}

/// Every cut while one store is restored over another: readers find the old one, the new one, or
/// are refused; and a repair makes nothing else of it.
#[test]
fn a_cut_leaves_the_old_store_the_new_one_or_none() {
    for (old, new) in [(70, 40), (40, 70), (0, 64), (64, 0), (5, 3)] {
        let (old, new) = (store_with(old, 0), store_with(new, 1));
        let known: Vec<Vec<u8>> = [&old, &new]
            .map(|store| dump_of(&MemDevice::from_bytes(store), DumpForm::Text))
            .to_vec();
        let log = LogWrites::new(Arc::new(MemDevice::from_bytes(&old)));
        restore_device(&log, &mut source(&known[1])).unwrap();
        let mut state = CrashState::new(old.clone());
        let mut reached = [0; 3];
        for event in log.take_log() {
            for image in state.some_images(40, 1) {
                reached[judge(&image, &known)] += 1;
            }
            state.add(&event);
        }
        assert_eq!(judge(state.cached(), &known), 1);
        assert!(reached[0] > 0 && reached[2] > 0, "{reached:?}");
    }
}

/// Which of the known stores it is; the number behind them where it is none.
fn judge(image: &[u8], known: &[Vec<u8>]) -> usize {
    let device = MemDevice::from_bytes(image);
    let mut dump = DumpWriter::new(Vec::new(), DumpForm::Text);
    if walk_device(&device, &mut dump).is_ok() {
        let dump = dump.end().unwrap();
        let found = known.iter().position(|one| *one == dump);
        return found.unwrap_or_else(|| panic!("{}", text(dump)));
    }
    let plan = Plan::make(&device, &RepairOptions::default());
    if plan.is_ok_and(|plan| plan.carry_out(&device).is_ok()) {
        let entries = |dump: &[u8]| -> Vec<String> {
            let text = text(dump.to_vec());
            text.lines()
                .filter(|l| l.contains("->"))
                .map(str::to_owned)
                .collect()
        };
        let repaired = entries(&dump_of(&device, DumpForm::Text));
        assert!(
            known.iter().any(|one| entries(one) == repaired),
            "{repaired:?}"
        );
    }
    known.len()
}

#[test]
fn over_another_file_is_refused_and_an_interrupted_one_is_restored_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.cow");
    let store = store_with(70, 0);
    let dump = dump_of(&MemDevice::from_bytes(&store), DumpForm::Text);
    let refused = |bytes: &[u8], kind: ErrorKind, word: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = restore_over(&path, false, &mut source(&dump)).unwrap_err();
        let said = format!("{error:?}");
        assert!(error.kind() == kind && said.contains(word), "{said}");
        assert!(
            std::fs::read(&path).unwrap() == bytes,
            "{word}: it was changed"
        );
    };
    let chunk_4k = vectors().into_iter().find(|v| v.0 == "chunk-4k").unwrap().1;
    refused(&chunk_4k, ErrorKind::Usage, "chunks have 4096 bytes");
    refused(&[7; 9000], ErrorKind::Foreign, "header");
    refused(&[0; 9000], ErrorKind::Foreign, "header");
    refused(&store[..60 * 512], ErrorKind::Usage, "chunk 73");
    let error = restore_new(&path, &mut source(&dump)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);

    let mut interrupted = store.clone();
    interrupted[..16].copy_from_slice(b"usnap restoring\n");
    interrupted[16..20].copy_from_slice(&1_u32.to_le_bytes());
    interrupted[512..1024].fill(0);
    std::fs::write(&path, &interrupted).unwrap();
    let error = walk(&path, &mut DumpWriter::new(Vec::new(), DumpForm::Text)).unwrap_err();
    assert!(
        error.hint().unwrap().contains("restore --over"),
        "{error:?}"
    );
    assert!(
        Plan::make(
            &MemDevice::from_bytes(&interrupted),
            &RepairOptions::default()
        )
        .is_err()
    );
    let other = dump_of(&MemDevice::from_bytes(&chunk_4k), DumpForm::Text);
    assert!(restore_over(&path, false, &mut source(&other)).is_err());
    restore_over(&path, false, &mut source(&dump)).unwrap();
    assert!(std::fs::read(&path).unwrap() == store);
}

/// A million exceptions, and what it costs in memory: nothing that grows with them.
#[test]
fn a_million_exceptions_are_restored_bit_for_bit_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let entries = 1_000_000_u64;
    let mut dump = String::from("usnap-dump 2\n");
    let _ = writeln!(
        dump,
        "header valid 1 chunk_size_sectors 8 cow_size_bytes {}",
        (entries + entries / 256 + 9) * CHUNK as u64
    );
    for n in 0..entries {
        if n % 256 == 0 {
            let _ = writeln!(dump, "area {} chunk {}", n / 256, 1 + n / 256 * 257);
        }
        // Neither sorted nor without gaps.
        let _ = writeln!(dump, "{} -> {}", (n * 7919) % 16_777_213, 2 + n + n / 256);
    }
    let _ = writeln!(dump, "end {entries}");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let mut restored = None;
    let memory = allocation_counter::measure(|| {
        restored = Some(restore_new(&first, &mut source(dump.as_bytes())).unwrap());
    });
    assert!(memory.bytes_max < 1 << 20, "{memory:?}");
    assert_eq!(restored.unwrap().exceptions, entries);
    for form in [DumpForm::Text, DumpForm::Json] {
        let mut writer = DumpWriter::new(Vec::new(), form);
        walk(&first, &mut writer).unwrap();
        let again = writer.end().unwrap();
        assert!(form == DumpForm::Json || again == dump.as_bytes());
        restore_new(&second, &mut source(&again)).unwrap();
        assert_same_metadata(&first, &second, entries / 256 + 1);
        std::fs::remove_file(&second).unwrap();
    }
}

/// Compares header and so many areas of 4 KiB chunks.
fn assert_same_metadata(first: &Path, second: &Path, areas: u64) {
    let [first, second] = [first, second].map(|path| FileDevice::open_read_only(path).unwrap());
    assert_eq!(first.size_bytes(), second.size_bytes());
    let areas = (0..areas).map(|area| 1 + area * 257);
    for chunk in std::iter::once(0).chain(areas) {
        let [first, second] = [&first, &second].map(|device| {
            let mut bytes = [0; CHUNK];
            device.read_at(&mut bytes, chunk * CHUNK as u64).unwrap();
            bytes
        });
        assert!(first == second, "chunk {chunk}");
    }
}

/// The largest chunks that there are, and a file that no filesystem has.
#[test]
fn a_hostile_dump_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let head = |size: &str| {
        format!("usnap-dump 2\nheader valid 1 chunk_size_sectors 32768 cow_size_bytes {size}\n")
    };
    for (dump, is_taken) in [
        (head("33554432") + "area 0 chunk 1\nend 0\n", true),
        (
            head("18446744073709551615") + "area 0 chunk 1\nend 0\n",
            false,
        ),
        (head("33554432") + &"padding 16 01\n".repeat(100_000), false),
        ("{\"usnap_dump\":2,".repeat(100_000), false),
        ("[".repeat(10_000_000), false),
        (
            "{\"usnap_dump\":".to_owned() + &"9".repeat(10_000_000),
            false,
        ),
        (
            "{\"usnap_dump\":2,\"label\":\"".to_owned() + &"x".repeat(10_000_000),
            false,
        ),
        ("usnap-dump".to_owned() + &" ".repeat(10_000_000), false),
    ] {
        let path = folder.path().join("new.cow");
        let mut result: Result<Restored> = Err(Error::new(ErrorKind::Io, "not run"));
        let memory = allocation_counter::measure(|| {
            result = restore_new(&path, &mut source(dump.as_bytes()));
        });
        assert!(memory.bytes_max < 64 << 20, "{memory:?}");
        assert_eq!(result.is_ok(), is_taken, "{result:?}");
        let _gone = std::fs::remove_file(&path);
    }
}
