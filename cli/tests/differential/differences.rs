//! Where we differ from the kernel, knowingly: a test a difference, which shows both sides. SPEC.md,
//! section 10, says why.

use std::sync::LazyLock;

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use usnap_engine::{Durability, ErrorKind};
use usnap_test_support::{Need, missing};

use crate::boot::{Part, fast_root, play_on_kernel};
use crate::history::{History, bytes};
use crate::ours::{Files, Ours};
use crate::play::{Device as _, Played, Side as _, play};
use crate::store_view::entries;

/// The histories, by name; what the COW device holds before is made by [`cow`].
const CASES: &[(&str, &str)] = &[
    (
        "full-po",
        "1 8 64 40 PO plain 0 w0+24#1 w24+8#2 w0+8#3 r0+24 a w0+8#4 r0+24",
    ),
    ("full-p", "1 8 64 40 P plain 0 w0+24#1 w16+16#2 r0+24 a"),
    ("poisoned", "2 1 64 34 PO plain 0 w0+31#1 w31+1#2 r0+1"),
    ("tail", "3 8 13 80 PO garbage 0 w8+5#1"),
    ("commit", "4 8 64 80 PO plain 0 w0+8#1"),
    ("junk", "5 8 64 160 PO plain 0 w8+8#1 a r40+8"),
    ("metadata", "6 8 64 160 PO plain 0 r0+8"),
    ("twice", "6 8 64 160 PO plain 0 r0+8"),
    ("outside", "7 8 64 160 PO plain 0 r0+8"),
    ("invalid", "8 8 64 160 PO plain 0 r0+8"),
    ("identity", "9 8 64 160 PO identity 0 w0+20#1 a w30+9#2"),
    ("identity-full", "9 8 64 40 P identity 0 w0+64#1"),
    ("no-discard", "10 8 64 160 PO plain 0 w0+8#1 d0+8 r0+8"),
    (
        "cut-discard",
        "11 8 64 160 PO plain 1 w8+8#1 w0+8#2 w16+8#3 d4+8 r0+64",
    ),
    ("four-zeros", "12 8 64 160 PO garbage 0 r0+8"),
];

/// All of it in one boot: what each began with, and what the kernel showed.
static KERNEL: LazyLock<std::result::Result<Vec<(Part, Played)>, String>> = LazyLock::new(|| {
    let played = || {
        let parts = CASES.iter().map(|(name, _)| part(name));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let played = play_on_kernel(&parts)?;
        Ok(parts.into_iter().zip(played).collect())
    };
    played().map_err(|error: Error| format!("{error:#}"))
});

fn history(name: &str) -> Result<History> {
    let found = CASES.iter().find(|(other, _)| *other == name);
    found.context("no such case")?.1.parse()
}

fn part(name: &str) -> Result<Part> {
    let history = history(name)?;
    let cow = cow(name, &history)?;
    Ok(Part {
        cow,
        ..Part::whole(&history)
    })
}

/// What the COW device holds.
fn cow(name: &str, history: &History) -> Result<Vec<u8>> {
    let shape = &history.shape;
    let with = |entries: &[(usize, u64, u64)]| -> Result<Vec<u8>> {
        let mut cow = std::fs::read(Files::create(fast_root(), shape)?.cow())?;
        for (index, old, new) in entries {
            let at = bytes(shape.chunk) + index * 16;
            cow[at..at + 8].copy_from_slice(&old.to_le_bytes());
            cow[at + 8..at + 16].copy_from_slice(&new.to_le_bytes());
        }
        Ok(cow)
    };
    match name {
        "junk" => with(&[(0, 0, 2), (2, 5, 9)]),
        "metadata" => with(&[(0, 0, 1)]),
        "twice" => with(&[(0, 0, 2), (1, 1, 2)]),
        "outside" => with(&[(0, 1000, 2)]),
        "invalid" => {
            let mut cow = with(&[(0, 0, 2)])?;
            cow[4] = 0;
            Ok(cow)
        }
        "identity" | "identity-full" => {
            // After a first session the record names the origin.
            let files = Files::create(fast_root(), shape)?;
            let path = files.cow();
            let mut side = Ours::new(files, shape, Durability::Flush);
            side.activate()?;
            side.deactivate()?;
            Ok(std::fs::read(path)?)
        }
        _ => Ok(shape.unused_cow()),
    }
}

/// What the kernel showed; nothing where there is none.
fn kernel(name: &str) -> Result<Option<Played>> {
    Ok(kernel_from(name)?.map(|(_, played)| played))
}

/// The same, and what it began with.
fn kernel_from(name: &str) -> Result<Option<(Part, Played)>> {
    if missing(&[Need::GuestKernel])? {
        return Ok(None);
    }
    let place = CASES.iter().position(|(other, _)| *other == name);
    let all = KERNEL.as_ref().map_err(|error| anyhow!("{error}"))?;
    Ok(Some(all[place.context("no such case")?].clone()))
}

/// What we show of the same, every write durable.
fn ours(name: &str) -> Result<Played> {
    let history = history(name)?;
    let files = Files::create(fast_root(), &history.shape)?;
    let mut side = Ours::new(files, &history.shape, Durability::EveryWrite);
    play(&history, 0..history.steps.len(), &mut side)
}

/// Why we do not take a COW device that the kernel takes.
fn refusal(name: &str) -> Result<ErrorKind> {
    let history = history(name)?;
    let cow = cow(name, &history)?;
    let files = Files::with_store(fast_root(), &history.shape, &cow)?;
    let opened = Ours::new(files, &history.shape, Durability::Flush).activate();
    let error = opened.err().context("we take it, too")?;
    Ok(error.downcast::<usnap_engine::Error>()?.kind())
}

fn errors(played: &Played) -> Vec<i32> {
    played.seen.iter().map(|seen| seen.errno).collect()
}

fn statuses(played: &Played) -> Vec<&str> {
    played.seen.iter().map(|seen| &*seen.status).collect()
}

fn digest(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn valid(played: &Played) -> u8 {
    played.cow[4]
}

#[test]
fn a_full_device_refuses_the_write_that_needs_room_and_no_other() -> Result<()> {
    let (Some(po), Some(p)) = (kernel("full-po")?, kernel("full-p")?) else {
        return Ok(());
    };
    // Three chunks fit. Under PO even the write to a mapped chunk fails, until reactivated.
    assert_eq!(errors(&po), [0, 5, 5, 0, 0, 0, 0, 0]);
    let overflow = "Overflow";
    let full = "40/40 16";
    let expected = [full, overflow, overflow, overflow, full, full, full, full];
    assert_eq!(statuses(&po), expected);
    let mine = ours("full-po")?;
    assert_eq!(errors(&mine), [0, 28, 0, 0, 0, 0, 0, 0]);
    assert_eq!(statuses(&mine), [full; 8]);
    assert_ne!(po.seen[3].content, mine.seen[3].content);
    assert_eq!(po.seen[6].content, mine.seen[6].content);
    // Under P the store is gone, what was in it included.
    assert_eq!(errors(&p), [0, 5, 5, 0, 5]);
    assert_eq!((statuses(&p)[1], valid(&p)), ("Invalid", 0));
    let mine = ours("full-p")?;
    assert_eq!((errors(&mine), valid(&mine)), (vec![0, 28, 0, 0, 0], 1));
    Ok(())
}

#[test]
fn a_poisoned_size_kills_the_kernels_store_and_not_ours() -> Result<()> {
    let Some(theirs) = kernel("poisoned")? else {
        return Ok(());
    };
    assert_eq!(
        statuses(&theirs),
        ["33/34 2", "Invalid", "Invalid", "Invalid"]
    );
    assert_eq!((errors(&theirs), valid(&theirs)), (vec![0, 5, 5, 5], 0));
    let mine = ours("poisoned")?;
    assert_eq!(statuses(&mine), ["33/34 2"; 4]);
    assert_eq!((errors(&mine), valid(&mine)), (vec![0, 28, 0, 0], 1));
    Ok(())
}

#[test]
fn behind_the_origins_end_the_copy_of_a_cut_chunk_is_zeros_and_not_stale() -> Result<()> {
    let Some(theirs) = kernel("tail")? else {
        return Ok(());
    };
    let mine = ours("tail")?;
    let copy = bytes(2 * 8)..bytes(3 * 8);
    let (theirs_copy, mine_copy) = (&theirs.cow[copy.clone()], &mine.cow[copy.clone()]);
    assert_eq!(theirs_copy[..bytes(5)], mine_copy[..bytes(5)]);
    assert!(theirs_copy[bytes(5)..].iter().all(|byte| *byte == 0xee));
    assert!(mine_copy[bytes(5)..].iter().all(|byte| *byte == 0));
    // And nothing else differs.
    let mut rest = mine.cow.clone();
    rest[copy].copy_from_slice(theirs_copy);
    ensure!(rest == theirs.cow, "something else differs");
    Ok(())
}

#[test]
fn a_first_write_is_committed_at_once_by_the_kernel_and_at_a_flush_by_us() -> Result<()> {
    let Some(theirs) = kernel("commit")? else {
        return Ok(());
    };
    assert_eq!(entries(&theirs.cow, 8), [(0, 2)], "without a flush");
    let history = history("commit")?;
    let files = Files::create(fast_root(), &history.shape)?;
    let mut side = Ours::new(files, &history.shape, Durability::Flush);
    side.activate()?;
    side.write(0, &history.shape.payload(1, 8))?;
    assert_eq!(entries(&side.cow()?, 8), []);
    side.flush()?;
    assert_eq!(entries(&side.cow()?, 8), [(0, 2)]);
    side.deactivate()
}

#[test]
fn junk_behind_the_terminator_comes_alive_in_the_kernel_and_is_cleared_by_us() -> Result<()> {
    let Some(theirs) = kernel("junk")? else {
        return Ok(());
    };
    let part = part("junk")?;
    let shape = &part.history.shape;
    assert_eq!(
        theirs.seen[2].content,
        digest(&vec![0; bytes(8)]),
        "chunk 9"
    );
    assert_eq!(entries(&theirs.cow, 8), [(0, 2), (1, 3), (5, 9)]);
    let files = Files::with_store(fast_root(), shape, &part.cow)?;
    let mut side = Ours::new(files, shape, Durability::EveryWrite);
    let mine = play(&part.history, part.steps, &mut side)?;
    let origin = &shape.origin_content()[bytes(40)..bytes(48)];
    assert_eq!(mine.seen[2].content, digest(origin));
    assert_eq!(entries(&mine.cow, 8), [(0, 2), (1, 3)]);
    Ok(())
}

#[test]
fn entries_that_contradict_the_layout_are_believed_by_the_kernel_and_refused_by_us() -> Result<()> {
    let (Some(metadata), Some(twice)) = (kernel("metadata")?, kernel("twice")?) else {
        return Ok(());
    };
    let cow = part("metadata")?.cow;
    let area = digest(&cow[bytes(8)..bytes(16)]);
    assert_eq!(metadata.seen[0].content, area, "read as data");
    assert_eq!(errors(&twice), [0, 0]);
    assert_eq!(refusal("metadata")?, ErrorKind::Corrupt);
    assert_eq!(refusal("twice")?, ErrorKind::Corrupt);
    Ok(())
}

#[test]
fn an_entry_behind_the_origins_end_is_ignored_by_the_kernel_and_refused_by_us() -> Result<()> {
    let Some(theirs) = kernel("outside")? else {
        return Ok(());
    };
    assert_eq!(statuses(&theirs), ["24/160 16"; 2]);
    assert_eq!(errors(&theirs), [0, 0]);
    assert_eq!(refusal("outside")?, ErrorKind::OriginMismatch);
    Ok(())
}

#[test]
fn an_invalid_store_is_activated_by_the_kernel_and_refused_by_us() -> Result<()> {
    let Some(theirs) = kernel("invalid")? else {
        return Ok(());
    };
    assert_eq!(
        (statuses(&theirs), errors(&theirs)),
        (vec!["Invalid"; 2], vec![5, 5])
    );
    assert_eq!(refusal("invalid")?, ErrorKind::InvalidStore);
    Ok(())
}

#[test]
fn old_bytes_behind_four_zeros_are_overwritten_by_the_kernel_and_not_by_us() -> Result<()> {
    let Some(theirs) = kernel("four-zeros")? else {
        return Ok(());
    };
    assert_eq!(theirs.cow[..4], *b"SnAp");
    assert_eq!(refusal("four-zeros")?, ErrorKind::Foreign);
    Ok(())
}

#[test]
fn the_identity_record_is_kept_by_the_kernel_until_it_gives_the_store_up() -> Result<()> {
    let (Some((part, kept)), Some(gone)) = (kernel_from("identity")?, kernel("identity-full")?)
    else {
        return Ok(());
    };
    let before = part.cow;
    ensure!(before[16..256].iter().any(|byte| *byte != 0), "no record");
    ensure!(
        kept.cow[..bytes(8)] == before[..bytes(8)],
        "the header changed"
    );
    assert_eq!(valid(&gone), 0);
    ensure!(gone.cow[16..bytes(8)].iter().all(|byte| *byte == 0));
    let plain = ours("commit")?;
    ensure!(
        plain.cow[16..bytes(8)].iter().all(|byte| *byte == 0),
        "without one: zeros"
    );
    Ok(())
}

#[test]
fn a_discard_never_touches_a_part_of_a_chunk_or_a_neighbour() -> Result<()> {
    let (Some(none), Some(cut)) = (kernel("no-discard")?, kernel("cut-discard")?) else {
        return Ok(());
    };
    // Without the feature there is no discard at all; ours zeroes and gives the space back.
    const EOPNOTSUPP: i32 = 95;
    assert_eq!(errors(&none), [0, EOPNOTSUPP, 0, 0]);
    let mine = ours("no-discard")?;
    assert_eq!(errors(&mine), [0; 4]);
    assert_eq!(mine.seen[2].content, digest(&vec![0; bytes(8)]));
    assert_eq!(errors(&cut), [0; 6], "{cut:?}");
    // With it, one chunk's length across two chunks: the kernel zeroes the end of the first one's
    // copy, and the beginning of whatever lies behind that, which is the third chunk's.
    let shape = history("cut-discard")?.shape;
    let mut content = shape.origin_content();
    for (at, stamp) in [(8, 1), (0, 2), (16, 3)] {
        content[bytes(at)..bytes(at + 8)].copy_from_slice(&shape.payload(stamp, 8));
    }
    let mine = ours("cut-discard")?;
    assert_eq!(mine.seen[4].content, digest(&content));
    content[bytes(4)..bytes(8)].fill(0);
    content[bytes(16)..bytes(20)].fill(0);
    assert_eq!(cut.seen[4].content, digest(&content), "the kernel's defect");
    Ok(())
}

#[test]
fn the_specification_names_each_of_these_tests() -> Result<()> {
    let spec = include_str!("../../../format-spec/SPEC.md");
    let source = include_str!("differences.rs");
    let tests = source.split("#[test]\nfn ").skip(1);
    for name in tests.filter_map(|rest| rest.split('(').next()) {
        let is_listed = spec.contains(&format!("`{name}`"));
        ensure!(is_listed || name.starts_with("the_specification"), "{name}");
    }
    Ok(())
}
