//! The index against a map: everything that can be done to it, in any order.

use std::collections::BTreeMap;

use proptest::prelude::{ProptestConfig, Strategy, prop, prop_oneof, proptest};
use usnap_format::{Exception, NewChunk, OldChunk};

use super::super::loading::{Loading, MappedRun, TwiceMapped};
use super::super::{ExceptionTable, Slot};

/// Some stripes, the last region not whole.
const CHUNKS: u64 = 3 * 4096 + 700;

#[derive(Clone, Debug)]
enum Op {
    /// Claims, publishes so many, gives back the rest.
    Write {
        first: u64,
        max: u64,
        publish: u64,
        new: u64,
    },
    /// Claims one in so many chunks, and publishes them.
    Scatter {
        first: u64,
        step: u64,
        count: u64,
        new: u64,
    },
    Load {
        old: u64,
        new: u64,
    },
    Unload {
        first: u64,
        step: u64,
        count: u64,
    },
}

fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..CHUNKS + 5,
        500_u64..530,
        4080_u64..4110,
        CHUNKS - 20..CHUNKS + 5,
    ]
}

/// Where an old chunk may go: runs that go on in each other, anything, and what only a dense block
/// can hold.
fn new_chunk(kind: u64, old: u64) -> u64 {
    match kind % 20 {
        0 => (1 << 46) - 3 + old,
        1..=9 => 100_000 + old,
        10..=14 => 200_000 + old,
        _ => 3 + (old * 7919) % 65_521,
    }
}

fn op() -> impl Strategy<Value = Op> {
    let kind = 1_u64..2000;
    let rare = prop_oneof![200 => kind, 1 => 0_u64..1];
    (rare, place(), 1_u64..40, 0_u64..700, 0..9).prop_map(|(kind, first, step, count, which)| {
        match which {
            0..=3 => Op::Write {
                first,
                max: count / 8 + 1,
                publish: if step % 4 == 0 { step } else { count },
                new: kind,
            },
            4 | 5 => Op::Scatter {
                first,
                step: step % 4 + 1,
                count,
                new: kind,
            },
            6 | 7 => Op::Load {
                old: first,
                new: kind,
            },
            _ => Op::Unload {
                first,
                step: step % 5 + 1,
                count: count / 2,
            },
        }
    })
}

#[derive(Default)]
struct Model(BTreeMap<u64, u64>);

impl Model {
    fn write(&mut self, table: &ExceptionTable, first: u64, max: u64, publish: u64, kind: u64) {
        let free = (first..CHUNKS.min(first + max)).take_while(|old| !self.0.contains_key(old));
        let free = free.count() as u64;
        let Some(mut claim) = table.claim(OldChunk(first), max) else {
            assert_eq!(free, 0, "{first} is free");
            return;
        };
        assert_eq!((claim.first().0, claim.count()), (first, free));
        assert_eq!(table.lookup(OldChunk(first)), Slot::Unmapped);
        assert!(table.claim(OldChunk(first + free - 1), 1).is_none());
        let publish = publish.min(free);
        let new = new_chunk(kind, first);
        claim.publish(publish, NewChunk(new));
        self.0
            .extend((0..publish).map(|i| (first + i, new.saturating_add(i))));
        assert_eq!(claim.count(), free - publish);
    }

    fn apply(&mut self, table: &ExceptionTable, op: &Op) {
        match *op {
            Op::Write {
                first,
                max,
                publish,
                new,
            } => self.write(table, first, max, publish, new),
            Op::Scatter {
                first,
                step,
                count,
                new,
            } => {
                for i in 0..count {
                    self.write(table, first + i * step, 1, 1, new);
                }
            }
            Op::Load { old, new } => {
                let new = new_chunk(new, old);
                let exception = Exception {
                    old_chunk: OldChunk(old),
                    new_chunk: NewChunk(new),
                };
                let is_free = old < CHUNKS && !self.0.contains_key(&old);
                assert_eq!(table.load(exception), is_free);
                if is_free {
                    self.0.insert(old, new);
                }
            }
            Op::Unload { first, step, count } => {
                for old in (0..count).map(|i| first + i * step) {
                    table.unload(OldChunk(old));
                    self.0.remove(&old);
                }
            }
        }
    }
}

/// All lookups, and all runs, each as long as it is.
fn agrees(table: &ExceptionTable, expected: &BTreeMap<u64, u64>) {
    for old in 0..CHUNKS + 3 {
        let slot = expected
            .get(&old)
            .map_or(Slot::Unmapped, |new| Slot::Mapped(NewChunk(*new)));
        assert_eq!(table.lookup(OldChunk(old)), slot, "{old}");
    }
    let mut at = 0;
    while at < CHUNKS {
        let run = table.run_at(OldChunk(at), CHUNKS - at);
        let first = expected.get(&at).copied();
        let same = |i: &u64| expected.get(&(at + i)).copied() == first.map(|first| first + i);
        assert!((0..run.count).all(|i| same(&i)), "{at}: {run:?}");
        let is_end = at + run.count == CHUNKS || !same(&run.count);
        assert!(is_end, "{at}: {run:?} ends too early");
        at += run.count;
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 200 },
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_is_done_the_table_agrees_with_a_map(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let table = ExceptionTable::new(CHUNKS).unwrap();
        let mut model = Model::default();
        for op in &ops {
            model.apply(&table, op);
        }
        agrees(&table, &model.0);
    }

    #[test]
    fn a_table_that_is_loaded_agrees_with_a_map_and_can_be_written(
        runs in prop::collection::vec((place(), 1_u64..50, 0_u64..2000), 1..300),
        step in 1_u64..4,
        may_overlap in prop::bool::weighted(0.2),
        uncounted in prop::bool::weighted(0.1),
        ops in prop::collection::vec(op(), 0..20),
    ) {
        let mut model = Model::default();
        let mut twice: Option<u64> = None;
        let mut all = Vec::new();
        for (first, count, kind) in runs {
            // Lengths of one among them, as scattered chunks have.
            let count = if kind % 3 == 0 { count } else { 1 };
            let first = first / step * step;
            let new = new_chunk(kind.max(1), first);
            let overlaps = (first..CHUNKS.min(first + count)).find(|old| model.0.contains_key(old));
            if overlaps.is_some() && !may_overlap {
                continue;
            }
            for i in (0..count).filter(|i| first + i < CHUNKS) {
                if model.0.insert(first + i, new + i).is_some() {
                    twice = Some(twice.map_or(first + i, |lowest| lowest.min(first + i)));
                }
            }
            all.push(MappedRun { old: OldChunk(first), new: NewChunk(new), count });
        }
        let loading = Loading::new(CHUNKS).unwrap();
        let counted = if uncounted { all.len() / 2 } else { all.len() };
        all.iter().take(counted).for_each(|run| loading.count(*run));
        let filling = loading.make_room();
        all.iter().rev().for_each(|run| filling.add(*run));
        match (filling.finish(), twice) {
            (Ok(table), None) => {
                agrees(&table, &model.0);
                for op in &ops {
                    model.apply(&table, op);
                }
                agrees(&table, &model.0);
            }
            (Err(found), Some(old)) => assert_eq!(found, TwiceMapped { old_chunk: OldChunk(old) }),
            (found, twice) => panic!("{:?} instead of {twice:?}", found.err()),
        }
    }
}

#[test]
fn what_is_far_apart_costs_little() {
    // 128 GiB in chunks of 512 bytes, and 8,192 entries as far apart as can be.
    let chunks = 1 << 28;
    let step = chunks / 8192;
    let loading = Loading::new(chunks).unwrap();
    let runs = (0..8192).map(|i| MappedRun {
        old: OldChunk(i * step),
        new: NewChunk(i + 2),
        count: 1,
    });
    runs.clone().for_each(|run| loading.count(run));
    let filling = loading.make_room();
    runs.for_each(|run| filling.add(run));
    let table = filling.finish().unwrap();
    assert!(
        table.blocks_bytes() <= 8192 * 16,
        "{}",
        table.blocks_bytes()
    );
    let mut at = 0;
    let mut mapped = 0;
    while at < chunks {
        let run = table.run_at(OldChunk(at), chunks - at);
        mapped += u64::from(run.slot != Slot::Unmapped);
        at += run.count;
    }
    assert_eq!(mapped, 8192);
}

#[test]
fn a_block_that_grows_leaves_no_holes_behind() {
    // All regions grow together, one chunk at a time, as under random writes.
    let regions = if cfg!(miri) { 4 } else { 400 };
    let table = ExceptionTable::new(regions * 512).unwrap();
    for i in 0..300 {
        for region in 0..regions {
            let old = region * 512 + (i * 307 + region) % 512;
            let mut claim = table.claim(OldChunk(old), 1).unwrap();
            claim.publish(1, NewChunk(2 * (i * regions + region) + 2));
        }
        let exceptions = (i + 1) * regions;
        let most = 17 * exceptions + 64 * regions;
        let used = table.blocks_used_bytes();
        assert!(used < most, "{used} bytes for {exceptions} exceptions");
    }
}
