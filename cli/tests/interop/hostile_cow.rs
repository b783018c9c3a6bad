//! COW files that nobody's writer made, or that are damaged: each is refused or judged in words,
//! within little memory, and not changed by a byte.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use usnap_test_support::cow_bytes::{Header, store};
use usnap_test_support::lab::{Untouched, text, write_file};
use usnap_test_support::tool::Output;
use usnap_test_support::{GIB, Need, Rng, Scratch, Tool, missing};

use crate::LAB;
use crate::data::origin_with_a_hole;
use crate::refused::{FAILED, error_and_hint, is_refusal};

/// 4 KiB chunks, in sectors and in bytes.
const SECTORS: u32 = 8;
const CHUNK: usize = 4096;
/// A store's first area is its second chunk.
const AREA: usize = CHUNK;
/// Address space for a program that looks at a hostile file: far less than the sizes it claims.
const MEMORY: &str = "--as=800000000";

/// What `check` is to say.
#[derive(Clone, Copy)]
enum Verdict {
    /// 3: it found damage and named it.
    Damage,
    /// 1: this is not a store that could be checked, or 3.
    NoStoreOrDamage,
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    verdict: Verdict,
    /// In the refusal of `serve`.
    word: &'static str,
}

/// A store of 64 chunks with these entries in its first area.
fn with_entries(entries: &[(u64, u64)]) -> Vec<u8> {
    store(Header::valid(SECTORS), AREA, entries, 64 * CHUNK)
}

/// A store of 64 chunks with this header and one sound entry.
fn with_header(header: Header) -> Vec<u8> {
    store(header, AREA, &[(5, 2)], 64 * CHUNK)
}

fn cases() -> Vec<Case> {
    use Verdict::{Damage, NoStoreOrDamage};
    let good = Header::valid(SECTORS);
    let case = |name, bytes, verdict, word| Case {
        name,
        bytes,
        verdict,
        word,
    };
    let mut truncated = with_entries(&[(5, 2), (6, 3), (7, 60)]);
    truncated.truncate(10 * CHUNK);
    let mut area_cut = with_entries(&[(5, 2)]);
    area_cut.truncate(AREA + 100);
    let mut areas_full: Vec<(u64, u64)> = (0..256).map(|n| (n, n + 2)).collect();
    areas_full.truncate(256);
    vec![
        case("empty", Vec::new(), NoStoreOrDamage, ""),
        case("a byte", vec![0], NoStoreOrDamage, ""),
        case(
            "random bytes",
            Rng::new(41).bytes(64 * CHUNK),
            NoStoreOrDamage,
            "",
        ),
        case(
            "text",
            b"#!/bin/sh\nexit 0\n".repeat(900),
            NoStoreOrDamage,
            "",
        ),
        case(
            "qcow2",
            [b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 65536]].concat(),
            NoStoreOrDamage,
            "",
        ),
        case(
            "swapped magic",
            with_header(Header {
                magic: *b"pAnS",
                ..good
            }),
            NoStoreOrDamage,
            "",
        ),
        case(
            "version 2",
            with_header(Header { version: 2, ..good }),
            NoStoreOrDamage,
            "version",
        ),
        case(
            "chunk size 0",
            with_header(Header::valid(0)),
            NoStoreOrDamage,
            "chunk",
        ),
        case(
            "chunk size 7",
            with_header(Header::valid(7)),
            NoStoreOrDamage,
            "chunk",
        ),
        case(
            "chunk size 1 GiB",
            with_header(Header::valid(1 << 21)),
            NoStoreOrDamage,
            "",
        ),
        case(
            "chunk size 1 TiB",
            with_header(Header::valid(1 << 31)),
            NoStoreOrDamage,
            "chunk",
        ),
        case(
            "invalid",
            with_header(Header { valid: 0, ..good }),
            NoStoreOrDamage,
            "valid = 0",
        ),
        case(
            "header only",
            with_header(good)[..16].to_vec(),
            NoStoreOrDamage,
            "",
        ),
        case("cut in the area", area_cut, NoStoreOrDamage, ""),
        case("cut before its data", truncated, Damage, ""),
        case(
            "no next area",
            store(good, AREA, &areas_full, 258 * CHUNK),
            Damage,
            "area",
        ),
        case(
            "new chunk beyond the end",
            with_entries(&[(5, 2), (6, 64)]),
            Damage,
            "64",
        ),
        case(
            "new chunk far beyond",
            with_entries(&[(5, 1 << 50)]),
            Damage,
            "",
        ),
        case(
            "new chunk with top bits",
            with_entries(&[(5, 2 | 1 << 56)]),
            Damage,
            "",
        ),
        case(
            "new chunk all ones",
            with_entries(&[(5, u64::MAX)]),
            Damage,
            "",
        ),
        case("new chunk is an area", with_entries(&[(5, 1)]), Damage, ""),
        case(
            "same new chunk twice",
            with_entries(&[(5, 2), (6, 2)]),
            Damage,
            "",
        ),
        case(
            "same old chunk twice",
            with_entries(&[(5, 2), (5, 3)]),
            Damage,
            "",
        ),
        case(
            "old chunk beyond the origin",
            with_entries(&[(1 << 40, 2)]),
            Damage,
            "",
        ),
        case(
            "old chunk all ones",
            with_entries(&[(u64::MAX, 2)]),
            Damage,
            "",
        ),
    ]
}

#[test]
fn a_hostile_cow_is_refused_in_words_and_not_changed() -> Result<()> {
    if missing(&[Need::Program("prlimit")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("hostile")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let origin = text(&origin)?;
    let judged = cases()
        .into_iter()
        .map(|case| (case.name, judge(&scratch, origin, &case)));
    let failures: Vec<String> = judged
        .filter_map(|(name, judged)| Some(format!("{name}: {:#}", judged.err()?)))
        .collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn judge(scratch: &Scratch, origin: &str, case: &Case) -> Result<()> {
    let cow = scratch.join("hostile.cow");
    write_file(&cow, &case.bytes)?;
    let untouched = Untouched::note(&cow)?;
    let cow = text(&cow)?;
    is_refusal(&serve(scratch, origin, cow)?, &[cow, case.word])?;

    let checked = limited(&["check", cow, "--origin", origin])?;
    let code = checked.status.code();
    match case.verdict {
        Verdict::Damage => ensure!(code == Some(3), "exit code 3 was expected: {checked}"),
        Verdict::NoStoreOrDamage if code == Some(3) => {}
        Verdict::NoStoreOrDamage => is_refusal(&checked, &[cow])?,
    }
    if code == Some(3) {
        ensure!(
            checked.stdout.lines().count() > 1,
            "no finding is named: {checked}"
        );
    }
    for look in ["status", "dump"] {
        let seen = limited(&[look, cow])?;
        if seen.status.code() != Some(0) {
            // What was read before the damage may have been printed.
            ensure!(
                seen.status.code() == Some(FAILED),
                "exit code 0 or 1: {seen}"
            );
            error_and_hint(&seen)?;
        }
    }
    untouched.verify()
}

#[test]
fn chunks_of_1_gib_are_refused_even_where_the_file_could_hold_them() -> Result<()> {
    if missing(&[Need::Program("prlimit")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("gib")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let cow = scratch.sparse_file("hostile.cow", 4 * GIB)?;
    let header = store(Header::valid(1 << 21), 16, &[], 16);
    let file = OpenOptions::new().write(true).open(&cow)?;
    file.write_all_at(&header, 0)?;
    file.sync_all()?;
    let before = file.metadata()?;
    let cow = text(&cow)?;
    is_refusal(&serve(&scratch, text(&origin)?, cow)?, &[cow, "chunk size"])?;
    for look in ["status", "check", "dump"] {
        is_refusal(&limited(&[look, cow])?, &[cow, "chunk size"])?;
    }
    let after = file.metadata()?;
    ensure!(
        before.modified()? == after.modified()? && before.len() == after.len(),
        "changed"
    );
    Ok(())
}

#[test]
fn an_invalidated_store_shows_as_invalid_and_as_what_to_do() -> Result<()> {
    let scratch = LAB.scratch("invalid")?;
    let cow = scratch.join("c.cow");
    write_file(
        &cow,
        &with_header(Header {
            valid: 0,
            ..Header::valid(SECTORS)
        }),
    )?;
    assert_eq!(LAB.status_line(&cow)?, "Invalid");
    Ok(())
}

/// Serves, which must end by itself.
fn serve(scratch: &Scratch, origin: &str, cow: &str) -> Result<Output> {
    let socket = scratch.join("s");
    let output = limited(&["serve", origin, "--cow", cow, "--socket", text(&socket)?])?;
    ensure!(!socket.exists(), "a socket was left behind: {output}");
    Ok(output)
}

fn limited(args: &[&str]) -> Result<Output> {
    let usnap = Tool::new("prlimit")
        .args([MEMORY, LAB.program()])
        .args(args);
    usnap.limit(Duration::from_secs(20)).run()
}
