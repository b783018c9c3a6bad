//! `check`: each kind of damage is found where it is, nothing else is, and nothing is changed.

use usnap_engine::ErrorKind;
use usnap_engine::check::{CheckReport, FindingKind, check};
use usnap_engine::device::{BlockDevice, FileDevice, ZeroFlags};
use usnap_format::{AreaIndex, NewChunk, OldChunk};

use crate::bench::{Bench, CHUNK, create_options};
use crate::stores::{first_exceptions, image, put_exception, put_u32};

fn report_on(bench: &Bench) -> CheckReport {
    let before = bench.fingerprint();
    let report = check(&bench.cow_path(), Some(&bench.origin_path())).unwrap();
    assert_eq!(bench.fingerprint(), before);
    report
}

type Found = (FindingKind, Option<u64>, Option<u64>);

/// Kind, area and index of each finding.
fn found(report: &CheckReport) -> Vec<Found> {
    assert_eq!(report.findings.len() as u64, report.finding_count);
    assert_eq!(report.is_clean(), report.findings.is_empty());
    let area = |area: Option<AreaIndex>| area.map(|area| area.0);
    let findings = report.findings.iter();
    findings.map(|f| (f.kind, area(f.area), f.index)).collect()
}

fn found_in(bytes: &[u8]) -> Vec<Found> {
    found(&report_on(&Bench::with_cow(bytes)))
}

fn damaged(damage: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = image(CHUNK, 40, &[(5, 2), (9, 3), (6, 4)]);
    damage(&mut bytes);
    bytes
}

fn entry(n: usize, old_chunk: u64, new_chunk: u64) -> Vec<u8> {
    damaged(|bytes| put_exception(bytes, CHUNK, n, old_chunk, new_chunk))
}

#[test]
fn a_sound_store_has_no_findings() {
    let report = report_on(&Bench::with_cow(&damaged(|_| {})));
    assert!(report.is_clean());
    assert_eq!((report.exceptions, report.areas), (3, 1));
    let report = report_on(&Bench::with_cow(&image(
        512,
        110,
        &first_exceptions(512, 64),
    )));
    assert!(report.is_clean());
    assert_eq!((report.exceptions, report.areas), (64, 3));
}

#[test]
fn a_store_that_was_used_has_no_findings() {
    let bench = Bench::with_created(&create_options(40));
    let (snapshot, _) = bench.open().unwrap();
    snapshot.write_at(&[1; 30_000], 5_000).unwrap();
    snapshot.discard_at(0, 20_000).unwrap();
    snapshot.flush().unwrap();
    assert!(report_on(&bench).is_clean(), "while it is in use");
    drop(snapshot);
    assert!(report_on(&bench).is_clean());
}

#[test]
fn each_entry_that_cannot_be_is_found_where_it_is() {
    use FindingKind as F;
    let at = |kind| vec![(kind, Some(0), Some(2))];
    assert_eq!(found_in(&entry(2, 6, 40)), at(F::EntryOutOfRange));
    assert_eq!(found_in(&entry(2, 6, 1)), at(F::EntryPointsAtMetadata));
    assert_eq!(found_in(&entry(2, 6, (1 << 56) | 4)), at(F::EntryHighBits));
    assert_eq!(found_in(&entry(2, 6, u64::MAX)), at(F::EntryHighBits));
    assert_eq!(found_in(&entry(2, 5, 4)), at(F::OldChunkTwice));
    assert_eq!(found_in(&entry(2, 6, 2)), at(F::NewChunkTwice));
    assert_eq!(found_in(&entry(2, 64, 4)), at(F::OutsideOrigin));
}

#[test]
fn a_finding_says_what_the_exception_is() {
    let report = report_on(&Bench::with_cow(&entry(2, 6, 40)));
    let finding = &report.findings[0];
    let exception = finding.exception.unwrap();
    assert_eq!(exception.old_chunk, OldChunk(6));
    assert_eq!(exception.new_chunk, NewChunk(40));
    for word in ["area 0", "entry 2", "old chunk 6", "new chunk 40"] {
        assert!(finding.message.contains(word), "{}", finding.message);
    }
}

#[test]
fn several_findings_are_all_there_in_order() {
    use FindingKind as F;
    let mut bytes = entry(1, 5, 2);
    put_exception(&mut bytes, CHUNK, 2, 70, 1 << 60);
    put_u32(&mut bytes, 4, 0);
    let wanted = vec![
        (F::Invalidated, None, None),
        (F::OldChunkTwice, Some(0), Some(1)),
        (F::NewChunkTwice, Some(0), Some(1)),
        (F::EntryHighBits, Some(0), Some(2)),
        (F::OutsideOrigin, Some(0), Some(2)),
    ];
    assert_eq!(found_in(&bytes), wanted);
}

#[test]
fn junk_behind_the_terminator_is_found() {
    use FindingKind as F;
    let wanted = vec![(F::JunkBehindTerminator, Some(0), Some(9))];
    assert_eq!(found_in(&entry(9, 1, 7)), wanted);
    let wanted = vec![(F::JunkBehindTerminator, Some(0), Some(3))];
    assert_eq!(
        found_in(&entry(3, 1, 0)),
        wanted,
        "in the terminator itself"
    );
}

#[test]
fn a_missing_area_is_found() {
    let found = found_in(&image(512, 34, &first_exceptions(512, 32)));
    assert_eq!(found, [(FindingKind::AreaMissing, Some(1), None)]);
}

#[test]
fn a_size_that_a_kernel_cannot_fill_and_a_hole_are_notes() {
    let report = report_on(&Bench::with_cow(&image(512, 34, &first_exceptions(512, 3))));
    assert!(report.is_clean());
    let kinds: Vec<FindingKind> = report.notes.iter().map(|note| note.kind).collect();
    assert_eq!(kinds, [FindingKind::PoisonedSize]);

    let bench = Bench::with_cow(&damaged(|bytes| bytes[CHUNK..2 * CHUNK].fill(0)));
    let device = FileDevice::open_read_write(&bench.cow_path()).unwrap();
    device
        .zero_at(CHUNK as u64, CHUNK as u64, ZeroFlags::default())
        .unwrap();
    let hole = device.extent_at(CHUNK as u64, CHUNK as u64).unwrap().hole;
    drop(device);
    let report = report_on(&bench);
    assert!(report.is_clean());
    let kinds: Vec<FindingKind> = report.notes.iter().map(|note| note.kind).collect();
    assert_eq!(kinds.contains(&FindingKind::AreaHole), hole);
}

#[test]
fn a_header_that_the_areas_make_up_for_is_found_and_the_areas_checked() {
    use FindingKind as F;
    let in_order = |damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = image(CHUNK, 40, &first_exceptions(CHUNK, 5));
        damage(&mut bytes);
        found_in(&bytes)
    };
    let header = [(F::HeaderDamaged, None, None)];
    assert_eq!(in_order(&|bytes| bytes[2] ^= 0x10), header, "magic");
    assert_eq!(in_order(&|bytes| put_u32(bytes, 8, 7)), header, "version");
    for chunk_size in [0, 3, 64, 1 << 21, 1 << 25] {
        let found = in_order(&|bytes| put_u32(bytes, 12, chunk_size));
        assert_eq!(found, header, "chunk size {chunk_size}");
    }
    assert_eq!(in_order(&|bytes| bytes[..16].fill(0xa5)), header, "all");
    let mut bytes = image(CHUNK, 40, &first_exceptions(CHUNK, 5));
    bytes[0] = 0;
    put_exception(&mut bytes, CHUNK, 5, 0, 300);
    // The header still names the chunk size.
    let wanted = [
        (F::HeaderDamaged, None, None),
        (F::EntryOutOfRange, Some(0), Some(5)),
        (F::OldChunkTwice, Some(0), Some(5)),
    ];
    assert_eq!(found_in(&bytes), wanted);
    // Else an entry that can't be speaks against a store being there at all.
    bytes[8..16].fill(0xee);
    let check = |bytes: &[u8]| check(&Bench::with_cow(bytes).cow_path(), None);
    assert_eq!(check(&bytes).unwrap_err().kind(), ErrorKind::Foreign);
}

#[test]
fn another_origin_and_a_damaged_record_are_found() {
    use FindingKind as F;
    let bench = Bench::with_created(&create_options(40));
    drop(bench.open().unwrap());
    assert!(report_on(&bench).is_clean());
    let sound = bench.cow();

    let mut content = std::fs::read(bench.origin_path()).unwrap();
    content[5] ^= 1;
    std::fs::write(bench.origin_path(), &content).unwrap();
    assert_eq!(found(&report_on(&bench)), [(F::OriginDiffers, None, None)]);
    std::fs::write(bench.origin_path(), &content[..content.len() - 1]).unwrap();
    assert_eq!(found(&report_on(&bench)), [(F::OriginDiffers, None, None)]);
    let without_origin = check(&bench.cow_path(), None).unwrap();
    assert!(without_origin.is_clean());

    let mut bytes = sound;
    bytes[30] ^= 1;
    std::fs::write(bench.cow_path(), &bytes).unwrap();
    assert_eq!(found(&report_on(&bench)), [(F::Identity, None, None)]);
}

#[test]
fn of_very_many_findings_a_thousand_are_kept_and_all_counted() {
    // 41 areas of 32 entries, all for the same old chunk.
    let mut exceptions = first_exceptions(512, 41 * 32);
    for exception in &mut exceptions {
        exception.0 = 7;
    }
    let report = report_on(&Bench::with_cow(&image(512, 42 * 33, &exceptions)));
    assert_eq!(report.finding_count, 41 * 32 - 1);
    assert_eq!(report.findings.len(), 1000);
    assert!(!report.is_clean());
}

#[test]
fn what_cannot_be_checked_is_an_error() {
    let kind = |bench: &Bench| check(&bench.cow_path(), None).unwrap_err().kind();
    assert_eq!(kind(&Bench::new()), ErrorKind::NotFound);
    assert_eq!(kind(&Bench::with_cow(b"")), ErrorKind::Foreign);
    assert_eq!(kind(&Bench::with_cow(&[7; 9000])), ErrorKind::Foreign);
    let mut empty = image(CHUNK, 40, &[]);
    put_u32(&mut empty, 12, 3);
    assert_eq!(kind(&Bench::with_cow(&empty)), ErrorKind::Corrupt);
}
