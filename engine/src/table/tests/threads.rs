//! Readers beside writers: nobody sees a chunk that was never there, misses one that was published,
//! or finds one before what it stands for was written. By hand also under Miri:
//!
//! > MIRIFLAGS=-Zmiri-many-seeds=0..64 cargo +nightly miri test -p usnap-engine --lib table::tests::threads

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use usnap_format::{Exception, NewChunk, OldChunk};

use super::super::{ExceptionTable, Slot};
use crate::num::to_usize;

const CHUNKS: u64 = if cfg!(miri) { 40 } else { 2 * 4096 };
const ROUNDS: u64 = if cfg!(miri) { 1 } else { 60 };
const WRITERS: u64 = 2;
const READERS: u64 = 2;

/// Where each chunk goes, so that any other answer is known to be wrong: some go on in each other,
/// some don't.
fn new_chunk(old: u64) -> u64 {
    if (old / 16).is_multiple_of(3) {
        50_000 + old
    } else {
        10_000 + (old * 7) % 9973 * 3
    }
}

/// A different order of everything for each `seed`.
fn order(seed: u64) -> impl Iterator<Item = u64> {
    let step = [1, 3, 7, 11, 13][to_usize(seed % 5)];
    // Multiples of a prime that does not divide the count meet every chunk.
    (0..CHUNKS).map(move |i| (i * step * 17 + seed * 31) % CHUNKS)
}

struct Shared {
    table: ExceptionTable,
    /// What "the data" of a chunk is: written before it is published.
    data: Vec<AtomicU64>,
    /// Set after it is published, or taken out.
    told: Vec<AtomicBool>,
    done: AtomicBool,
}

impl Shared {
    fn new() -> Self {
        Self {
            table: ExceptionTable::new(CHUNKS).unwrap(),
            data: (0..CHUNKS).map(|_| AtomicU64::new(0)).collect(),
            told: (0..CHUNKS).map(|_| AtomicBool::new(false)).collect(),
            done: AtomicBool::new(false),
        }
    }

    fn was_told(&self, old: u64) -> bool {
        self.told[to_usize(old)].load(Ordering::Acquire)
    }

    fn tell(&self, old: u64) {
        self.told[to_usize(old)].store(true, Ordering::Release);
    }

    fn write(&self, old: u64) {
        // Chunks that go on in each other together, where it gets them.
        let max = (0..3).take_while(|i| new_chunk(old + i) == new_chunk(old) + i);
        let Some(mut claim) = self.table.claim(OldChunk(old), max.count() as u64) else {
            self.table.wait_while_pending(OldChunk(old));
            return;
        };
        let count = claim.count();
        if old.is_multiple_of(5) && !self.was_told(old) && count > 1 {
            // Gives back all, and comes again for the first.
            drop(claim);
            return self.write_one(old);
        }
        self.publish(&mut claim, count);
    }

    fn write_one(&self, old: u64) {
        match self.table.claim(OldChunk(old), 1) {
            Some(mut claim) => self.publish(&mut claim, 1),
            None => self.table.wait_while_pending(OldChunk(old)),
        }
    }

    fn publish(&self, claim: &mut super::super::Claim<'_>, count: u64) {
        let first = claim.first().0;
        for old in first..first + count {
            let before = self.data[to_usize(old)].swap(new_chunk(old), Ordering::Relaxed);
            assert_eq!(before, 0, "{old} was claimed twice");
        }
        claim.publish(count, NewChunk(new_chunk(first)));
        (first..first + count).for_each(|old| self.tell(old));
    }

    fn read(&self, seed: u64) {
        loop {
            let is_last = self.done.load(Ordering::Acquire) || cfg!(miri);
            for old in order(seed) {
                self.look(old);
                self.look_at_run(old, seed % 40 + 2);
            }
            if is_last {
                return;
            }
        }
    }

    fn look(&self, old: u64) {
        let was_told = self.was_told(old);
        match self.table.lookup(OldChunk(old)) {
            Slot::Unmapped => assert!(!was_told, "{old} was published"),
            Slot::Mapped(new) => self.has_data(old, new.0),
        }
    }

    fn look_at_run(&self, old: u64, max: u64) {
        let max = max.min(CHUNKS - old);
        let told: Vec<bool> = (old..old + max).map(|old| self.was_told(old)).collect();
        let run = self.table.run_at(OldChunk(old), max);
        for i in 0..run.count {
            match run.slot {
                Slot::Unmapped => assert!(!told[to_usize(i)], "{old} + {i} was published"),
                Slot::Mapped(new) => self.has_data(old + i, new.0 + i),
            }
        }
    }

    fn has_data(&self, old: u64, new: u64) {
        assert_eq!(new, new_chunk(old), "{old} is somewhere else");
        let data = self.data[to_usize(old)].load(Ordering::Relaxed);
        assert_eq!(data, new, "{old} was found before its data");
    }
}

#[test]
fn readers_beside_writers_see_only_what_was_published() {
    for round in 0..ROUNDS {
        let shared = Shared::new();
        let (shared, done) = (&shared, &shared.done);
        std::thread::scope(|scope| {
            for reader in 0..READERS {
                scope.spawn(move || shared.read(round + 7 * reader));
            }
            let writers = (0..WRITERS).map(|writer| {
                scope.spawn(move || {
                    for old in order(round * 3 + writer) {
                        shared.write(old);
                    }
                })
            });
            for writer in writers.collect::<Vec<_>>() {
                writer.join().unwrap();
            }
            done.store(true, Ordering::Release);
        });
        for old in 0..CHUNKS {
            shared.write_one(old);
            shared.look(old);
            assert!(shared.was_told(old), "{old} is nowhere");
        }
    }
}

#[test]
fn readers_beside_one_who_takes_out_see_each_chunk_until_it_is_gone() {
    for round in 0..ROUNDS {
        let shared = Shared::new();
        for old in (0..CHUNKS).filter(|old| old % 4 > round % 4) {
            let exception = Exception {
                old_chunk: OldChunk(old),
                new_chunk: NewChunk(new_chunk(old)),
            };
            assert!(shared.table.load(exception));
        }
        let shared = &shared;
        std::thread::scope(|scope| {
            for reader in 0..READERS {
                scope.spawn(move || {
                    loop {
                        let is_last = shared.done.load(Ordering::Acquire) || cfg!(miri);
                        for old in order(round + reader) {
                            let was_gone = shared.was_told(old);
                            match shared.table.lookup(OldChunk(old)) {
                                Slot::Mapped(new) => {
                                    assert_eq!(new.0, new_chunk(old), "{old}");
                                    assert!(!was_gone, "{old} was taken out");
                                }
                                Slot::Unmapped => {
                                    let begun = shared.data[to_usize(old)].load(Ordering::Relaxed);
                                    let was_there = old % 4 > round % 4;
                                    assert!(!was_there || begun == 1, "{old} is still there");
                                }
                            }
                        }
                        if is_last {
                            return;
                        }
                    }
                });
            }
            scope.spawn(move || {
                for old in order(round * 5 + 1) {
                    // What the origin has, before the entry goes.
                    shared.data[to_usize(old)].store(1, Ordering::Relaxed);
                    shared.table.unload(OldChunk(old));
                    shared.tell(old);
                }
                shared.done.store(true, Ordering::Release);
            });
        });
    }
}
