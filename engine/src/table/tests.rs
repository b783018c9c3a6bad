//! The index against a map, and claims under several threads.

mod model;
mod threads;

use std::collections::BTreeMap;

use proptest::prelude::{any, prop, proptest};
use usnap_format::{Exception, NewChunk, OldChunk};

use super::loading::{Loading, MappedRun, TwiceMapped};
use super::{ExceptionTable, Run, Slot, TOUCHED_CHUNKS};

#[test]
fn an_empty_table_is_one_unmapped_run() {
    let table = ExceptionTable::new(10 * TOUCHED_CHUNKS).unwrap();
    let run = table.run_at(OldChunk(5), 9 * TOUCHED_CHUNKS);
    assert_eq!(
        run,
        Run {
            slot: Slot::Unmapped,
            count: 9 * TOUCHED_CHUNKS
        }
    );
}

#[test]
fn a_claim_is_exclusive_and_given_back_when_dropped() {
    let table = ExceptionTable::new(100).unwrap();
    let claim = table.claim(OldChunk(10), 5).unwrap();
    assert_eq!((claim.first(), claim.count()), (OldChunk(10), 5));
    assert!(table.claim(OldChunk(12), 1).is_none());
    assert_eq!(
        table.claim(OldChunk(8), 9).unwrap().count(),
        2,
        "stops at a pending chunk"
    );
    assert!(table.claim(OldChunk(14), 1).is_none());
    assert_eq!(
        table.lookup(OldChunk(14)),
        Slot::Unmapped,
        "as readers see it"
    );
    drop(claim);
    assert_eq!(table.lookup(OldChunk(14)), Slot::Unmapped);
}

#[test]
fn a_snapshot_too_large_to_index_is_refused_before_anything_is_allocated() {
    let error = ExceptionTable::new(u64::MAX).err().unwrap();
    assert_eq!(error.kind(), crate::ErrorKind::Usage);
}

#[test]
fn publishing_a_part_leaves_the_rest_claimed() {
    let table = ExceptionTable::new(100).unwrap();
    let mut claim = table.claim(OldChunk(0), 4).unwrap();
    claim.publish(3, NewChunk(2));
    assert_eq!(
        table.run_at(OldChunk(0), 4),
        Run {
            slot: Slot::Mapped(NewChunk(2)),
            count: 3
        }
    );
    assert!(table.claim(OldChunk(3), 1).is_none());
    drop(claim);
    assert_eq!(table.lookup(OldChunk(3)), Slot::Unmapped);
}

#[test]
fn chunks_beyond_the_end_are_neither_loaded_nor_claimed() {
    let table = ExceptionTable::new(3).unwrap();
    assert!(!table.load(Exception {
        old_chunk: OldChunk(3),
        new_chunk: NewChunk(2)
    }));
    assert_eq!(table.claim(OldChunk(1), 10).unwrap().count(), 2);
}

#[test]
fn those_who_wait_for_a_chunk_wake_when_it_is_published_or_given_up() {
    for publish in [true, false] {
        let table = ExceptionTable::new(10).unwrap();
        let mut claim = table.claim(OldChunk(7), 1).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| table.wait_while_pending(OldChunk(7)));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            if publish {
                claim.publish(1, NewChunk(2));
            }
            drop(claim);
        });
        let expected = if publish {
            Slot::Mapped(NewChunk(2))
        } else {
            Slot::Unmapped
        };
        assert_eq!(table.lookup(OldChunk(7)), expected);
    }
}

#[test]
fn of_many_threads_exactly_one_gets_each_chunk() {
    let table = ExceptionTable::new(2000).unwrap();
    let got: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut got = 0;
                    for old in 0..2000 {
                        if let Some(mut claim) = table.claim(OldChunk(old), 1) {
                            claim.publish(1, NewChunk(old + 2));
                            got += 1;
                        }
                    }
                    got
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(got.iter().sum::<u64>(), 2000);
}

fn run(old: u64, new: u64, count: u64) -> MappedRun {
    MappedRun {
        old: OldChunk(old),
        new: NewChunk(new),
        count,
    }
}

#[test]
fn a_table_is_filled_by_several_threads_in_any_order() {
    let runs = [run(2000, 9000, 3), run(0, 2, 600), run(1500, 700, 100)];
    let loading = Loading::new(2001).unwrap();
    for run in runs {
        loading.count(run);
    }
    let filling = loading.make_room();
    std::thread::scope(|scope| {
        for run in runs {
            let filling = &filling;
            scope.spawn(move || filling.add(run));
        }
    });
    let table = filling.finish().unwrap();
    for old in 0..2001 {
        let new = runs.iter().find_map(|run| {
            let at = old - run.old.0.min(old);
            (old >= run.old.0 && at < run.count).then(|| NewChunk(run.new.0 + at))
        });
        let expected = new.map_or(Slot::Unmapped, Slot::Mapped);
        assert_eq!(table.lookup(OldChunk(old)), expected, "{old}");
    }
    assert_eq!(
        table.lookup(OldChunk(2001)),
        Slot::Unmapped,
        "behind the end"
    );
}

#[test]
fn the_lowest_chunk_that_is_added_twice_is_named() {
    let runs = [
        run(70, 100, 20),
        run(89, 300, 1),
        run(1000, 400, 5),
        run(80, 200, 3),
    ];
    let loading = Loading::new(5000).unwrap();
    for run in runs {
        loading.count(run);
    }
    let filling = loading.make_room();
    for run in runs {
        filling.add(run);
    }
    let twice = TwiceMapped {
        old_chunk: OldChunk(80),
    };
    assert_eq!(filling.finish().err(), Some(twice));
}

proptest! {
    #[test]
    fn runs_agree_with_a_map(
        entries in prop::collection::btree_map(0_u64..70_000, 2_u64..500, 0..200),
        from in 0_u64..70_000,
        max in 1_u64..70_000,
        dense in any::<bool>(),
    ) {
        let entries: BTreeMap<u64, u64> = if dense {
            entries.into_iter().map(|(old, new)| (old % 300, new)).collect()
        } else {
            entries
        };
        let table = ExceptionTable::new(140_000).unwrap();
        for (&old, &new) in &entries {
            let exception = Exception { old_chunk: OldChunk(old), new_chunk: NewChunk(new) };
            assert!(table.load(exception));
            assert!(!table.load(exception), "twice");
        }
        let run = table.run_at(OldChunk(from), max);
        let first = entries.get(&from).copied();
        for i in 0..run.count {
            let expected = first.map(|first| first + i);
            assert_eq!(entries.get(&(from + i)).copied(), expected);
        }
        assert!(run.count >= 1 && run.count <= max);
        if run.count < max {
            let next = entries.get(&(from + run.count)).copied();
            assert_ne!(next, first.map(|first| first + run.count), "the run ends too early");
        }
    }
}
