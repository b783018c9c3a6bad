//! Each kind of damage, mended.

use usnap_engine::check::FindingKind;
use usnap_engine::repair::{RepairOptions, StepKind};

use crate::bench::{Bench, dropping, options, revalidating};
use crate::stores::{entry_offset, first_exceptions, image, put_exception};

/// Damages a vector's store, sees that check finds it, repairs it, and looks what remains.
fn mend(
    name: &str,
    damage: impl FnOnce(&mut Vec<u8>, &Bench),
    found: &[FindingKind],
    options: &RepairOptions,
    steps: &[StepKind],
    lost: &[u64],
) -> Bench {
    let bench = Bench::of(name);
    let mut bytes = bench.sound.clone();
    damage(&mut bytes, &bench);
    bench.put(&bytes);
    let report = bench.check();
    let kinds: Vec<FindingKind> = report.findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, found, "{name}");
    assert_eq!(bench.repair(options), steps, "{name}");
    bench.assert_content(lost);
    bench
}

const VECTORS: [&str; 6] = [
    "chunk-512",
    "chunk-4k",
    "chunk-16k",
    "four-areas",
    "half-merged",
    "junk",
];

#[test]
fn junk_behind_the_terminator_is_zeroed_and_nothing_else_changes() {
    for name in VECTORS {
        let junk = |bytes: &mut Vec<u8>, bench: &Bench| {
            let n = bench.exceptions.len() + 2;
            put_exception(bytes, bench.chunk_len, n, 1, 3);
        };
        let found = [FindingKind::JunkBehindTerminator];
        let bench = mend(name, junk, &found, &options(), &[StepKind::ClearJunk], &[]);
        assert!(bench.cow() == bench.sound, "{name}");
    }
}

/// Entries of which a sector became zeros, and what a kernel leaves that is interrupted, look alike.
#[test]
fn whole_sectors_of_entries_behind_one_of_zeros_are_zeroed_only_where_asked() {
    let entries = first_exceptions(4096, 110);
    let mut bytes = image(4096, 120, &entries);
    let store = Bench::of("chunk-4k");
    let sector = |n: usize| entry_offset(4096, n * 32)..entry_offset(4096, n * 32) + 512;
    bytes[sector(1)].fill(0);
    store.put(&bytes);
    let message = store.check().findings[0].message.clone();
    assert!(
        message.contains("; 46 entries among them could be ones, whole sectors"),
        "{message}"
    );
    let error = store.refused(&options());
    assert!(error.to_string().contains("46 entries"), "{error}");
    assert!(
        error.hint().unwrap().contains("--drop-damaged"),
        "{error:?}"
    );
    assert_eq!(store.repair(&dropping()), [StepKind::ClearJunk]);
    let wanted = image(4096, 120, &entries[..32]);
    assert!(store.cow()[4096..8192] == wanted[4096..8192]);

    // No whole sector of them; a terminator among entries; entries that repeat others.
    let [mut partial, mut ended, mut repeating] = [(); 3].map(|()| bytes.clone());
    partial[sector(2)][..16].fill(0);
    ended[sector(0)][512 - 16..].fill(0);
    repeating.copy_within(sector(0), sector(2).start);
    for bytes in [partial, ended, repeating] {
        store.put(&bytes);
        assert_eq!(store.repair(&options()), [StepKind::ClearJunk]);
    }
}

#[test]
fn the_kernels_own_junk_is_zeroed() {
    let bench = Bench::of("junk");
    bench.put(&crate::vector::read("junk").store);
    assert_eq!(bench.repair(&options()), [StepKind::ClearJunk]);
    assert!(bench.cow() == bench.sound);
}

#[test]
fn what_can_not_be_at_the_very_end_is_cut_off() {
    use FindingKind as F;
    for (old, new, kind) in [
        (9999, 1, F::EntryPointsAtMetadata),
        (9999, (1 << 60) | 5, F::EntryHighBits),
        (9999, u64::MAX, F::EntryHighBits),
    ] {
        for name in VECTORS {
            let last = |bytes: &mut Vec<u8>, bench: &Bench| {
                let n = bench.exceptions.len();
                put_exception(bytes, bench.chunk_len, n, old, new);
            };
            let steps = [StepKind::DropEntry];
            let bench = mend(name, last, &[kind], &options(), &steps, &[]);
            assert!(bench.cow() == bench.sound, "{name}");
        }
    }
}

#[test]
fn an_entry_that_repeats_another_goes_unasked_wherever_it_lies() {
    use FindingKind as F;
    for name in ["chunk-512", "chunk-4k", "four-areas", "half-merged"] {
        let bench = Bench::of(name);
        let count = bench.exceptions.len();
        for n in [0, count / 2, count - 1] {
            let repeat = |bytes: &mut Vec<u8>, bench: &Bench| {
                // The entry's own place and one more at the end.
                let (old, new) = bench.exceptions[n];
                put_exception(bytes, bench.chunk_len, count, old, new);
            };
            let found = [F::OldChunkTwice, F::NewChunkTwice];
            let steps = [StepKind::DropEntry];
            let bench = mend(name, repeat, &found, &options(), &steps, &[]);
            assert!(bench.cow() == bench.sound, "{name}");
        }
    }
}

#[test]
fn a_second_entry_for_a_chunk_at_the_end_is_cut_off() {
    use FindingKind as F;
    let end = |bytes: &mut Vec<u8>, bench: &Bench, old: u64, new: u64| {
        put_exception(bytes, bench.chunk_len, bench.exceptions.len(), old, new);
    };
    let steps = [StepKind::DropEntry];
    for name in ["chunk-4k", "chunk-512"] {
        let first = Bench::of(name).exceptions[0];
        let old_twice = |bytes: &mut Vec<u8>, bench: &Bench| end(bytes, bench, first.0, 12);
        let new_twice = |bytes: &mut Vec<u8>, bench: &Bench| end(bytes, bench, 55, first.1);
        mend(
            name,
            old_twice,
            &[F::OldChunkTwice],
            &options(),
            &steps,
            &[],
        );
        mend(
            name,
            new_twice,
            &[F::NewChunkTwice],
            &options(),
            &steps,
            &[],
        );
    }
}

#[test]
fn entries_in_the_middle_go_when_asked_and_only_their_chunks_with_them() {
    use FindingKind as F;
    for (new, kind) in [
        (1 << 57, F::EntryHighBits),
        (0xffff, F::EntryOutOfRange),
        (1, F::EntryPointsAtMetadata),
    ] {
        for name in ["chunk-512", "chunk-4k", "chunk-16k", "four-areas"] {
            let bench = Bench::of(name);
            let count = bench.exceptions.len();
            for places in [
                vec![0],
                vec![1],
                vec![0, count / 2],
                (0..count / 2).collect(),
            ] {
                let lost: Vec<u64> = places.iter().map(|n| bench.exceptions[*n].0).collect();
                let damage = |bytes: &mut Vec<u8>, bench: &Bench| {
                    for n in &places {
                        let (old, _) = bench.exceptions[*n];
                        put_exception(bytes, bench.chunk_len, *n, old, new);
                    }
                };
                let found = vec![kind; lost.len()];
                let twice = vec![F::NewChunkTwice; lost.len() - 1];
                let both: Vec<F> = [&found[..1], &twice_with(&found[1..], &twice)].concat();
                let steps = vec![StepKind::DropEntry; lost.len()];
                mend(name, damage, &both, &dropping(), &steps, &lost);
            }
        }
    }
}

/// Each entry that can't be, and that it has the new chunk of the first.
fn twice_with(found: &[FindingKind], twice: &[FindingKind]) -> Vec<FindingKind> {
    let pairs = found.iter().zip(twice);
    pairs.flat_map(|(found, twice)| [*found, *twice]).collect()
}

#[test]
fn a_whole_area_of_garbage_goes_when_asked() {
    let bench = Bench::of("four-areas");
    let mut bytes = bench.sound.clone();
    let start = entry_offset(512, 32);
    bytes[start..start + 512].fill(0x5a);
    bench.put(&bytes);
    assert!(
        bench
            .refused(&options())
            .to_string()
            .contains("area 1, entry 0")
    );
    assert_eq!(bench.repair(&dropping()).len(), 32);
    let lost: Vec<u64> = bench.exceptions[32..64].iter().map(|e| e.0).collect();
    bench.assert_content(&lost);
}

#[test]
fn an_area_behind_the_end_of_the_file_is_added() {
    use FindingKind as F;
    for cut in [0, 1, 511] {
        // Area 1 lies at chunk 34, which is cut off, or all but `cut` bytes of it.
        let damage = |bytes: &mut Vec<u8>, _: &Bench| {
            bytes.truncate(34 * 512 + cut);
            bytes[34 * 512..].fill(0x77);
        };
        let steps = [StepKind::Extend];
        let bench = mend(
            "full-area",
            damage,
            &[F::AreaMissing],
            &options(),
            &steps,
            &[],
        );
        assert_eq!(bench.cow().len(), 35 * 512);
        assert!(bench.cow() == bench.sound[..35 * 512], "{cut}");
    }
}

#[test]
fn what_a_kernel_invalidated_is_valid_again_with_all_that_it_had_committed() {
    for (name, steps) in [
        ("invalid", &[StepKind::Revalidate][..]),
        ("poisoned", &[StepKind::Extend, StepKind::Revalidate]),
    ] {
        let bench = Bench::of(name);
        assert_eq!(bench.check().findings[0].kind, FindingKind::Invalidated);
        let error = bench.refused(&options());
        assert!(error.hint().unwrap().contains("--revalidate"), "{name}");
        let notes = bench.plan(&revalidating()).unwrap().notes;
        assert!(notes[0].contains("had not committed"), "{notes:?}");
        assert_eq!(bench.repair(&revalidating()), steps, "{name}");
        bench.assert_content(&[]);
        // Nothing but the flag, and room behind the end.
        let mut wanted = bench.sound.clone();
        wanted[4] = 1;
        assert!(bench.cow().starts_with(&wanted), "{name}");
        assert_eq!(bench.check().notes, [], "{name}");
    }
}

#[test]
fn a_damaged_identity_record_is_zeroed_or_written_anew() {
    use usnap_engine::repair::Repair;
    let damage = |bytes: &mut Vec<u8>, _: &Bench| bytes[60] ^= 1;
    let steps = [StepKind::RewriteIdentity];
    let found = [FindingKind::Identity];
    let bench = mend("identity", damage, &found, &options(), &steps, &[]);
    let mut wanted = bench.sound.clone();
    wanted[16..256].fill(0);
    assert!(bench.cow() == wanted);

    let bench = Bench::of("identity");
    let mut bytes = bench.sound.clone();
    bytes[60] ^= 1;
    bench.put(&bytes);
    let origin = bench.origin_path();
    let open = || Repair::open(&bench.cow_path(), Some(&origin), &options(), false);
    let report = open().unwrap().carry_out().unwrap();
    assert_eq!(report.findings, []);
    let with_origin = usnap_engine::check::check(&bench.cow_path(), Some(&origin)).unwrap();
    assert_eq!(with_origin.findings, []);
    assert!(bench.cow()[256..] == bench.sound[256..]);
    // An origin that is too small for the entries is not the one.
    bench.put(&bytes);
    std::fs::write(&origin, vec![1; 5000]).unwrap();
    let error = open().unwrap().carry_out().unwrap_err();
    assert!(error.to_string().contains("does not have"), "{error}");
    assert!(bench.cow() == bytes);
}

#[test]
fn several_kinds_at_once_are_mended_at_once() {
    let bench = Bench::of("four-areas");
    let mut bytes = bench.sound.clone();
    bytes[1] ^= 4;
    bytes[4] = 0;
    put_exception(&mut bytes, 512, 102, 5, 3);
    bench.put(&bytes);
    let found = [
        FindingKind::HeaderDamaged,
        FindingKind::Invalidated,
        FindingKind::JunkBehindTerminator,
    ];
    let kinds = bench.check().findings;
    assert_eq!(kinds.iter().map(|f| f.kind).collect::<Vec<_>>(), found);
    let steps = [
        StepKind::ClearJunk,
        StepKind::RewriteHeader,
        StepKind::Revalidate,
    ];
    assert_eq!(bench.repair(&revalidating()), steps);
    assert!(bench.cow() == bench.sound);
}
