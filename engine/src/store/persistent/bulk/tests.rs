//! Loading in bulk against the plain walk: the same table and the same metadata of every store, and
//! of a damaged one the same refusal.

use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use usnap_format::{ChunkSize, Exception, Layout, NewChunk, OldChunk, SECTOR_SIZE};

use super::areas::Division;
use super::load_divided;
use crate::device::{BlockDevice, MemDevice};
use crate::num::to_usize;
use crate::store::persistent::rules;
use crate::table::{ExceptionTable, Loading, Run, Slot};

/// How a store's entries lie.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Consecutive in both numbers, but for what areas break.
    Sequential,
    /// Old chunks anywhere.
    Scattered,
    /// As that, with new chunks that nobody names between them.
    Holes(u64),
    /// As that, with neighbours exchanged.
    Swapped,
    /// The last number first.
    Backwards,
}

/// What is done to a store's bytes.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Of one entry the new chunk is another's.
    SharedNew(usize, usize),
    /// Of the first entry of an area the new chunk is that of the one before.
    SharedAcross(usize),
    /// Of one entry the old chunk is another's.
    SharedOld(usize, usize),
    /// An entry names this new chunk.
    New(usize, u64),
    /// An entry is for this old chunk.
    Old(usize, u64),
    /// An entry becomes the terminator.
    End(usize),
    /// A byte behind the last entry.
    Junk(usize, u8),
    /// The device ends at this entry's chunk.
    CutOff(usize),
}

#[derive(Clone, Debug)]
struct Plan {
    sectors: u32,
    order: Order,
    entries: usize,
    /// Chunks that the origin has, beside the entries.
    more_chunks: u64,
    damage: Vec<Damage>,
    division: (u64, u64, u64),
}

fn plans() -> impl Strategy<Value = Plan> {
    let order = prop_oneof![
        3 => prop::strategy::Just(Order::Sequential),
        3 => prop::strategy::Just(Order::Scattered),
        1 => (1_u64..40).prop_map(Order::Holes),
        1 => prop::strategy::Just(Order::Swapped),
        1 => prop::strategy::Just(Order::Backwards),
    ];
    let at = any::<usize>();
    let new = prop_oneof![
        0_u64..200,
        any::<u64>(),
        (0_u64..8).prop_map(|n| (1 << 56) + n)
    ];
    let damage = prop_oneof![
        (at, at).prop_map(|(a, b)| Damage::SharedNew(a, b)),
        at.prop_map(Damage::SharedAcross),
        (at, at).prop_map(|(a, b)| Damage::SharedOld(a, b)),
        (at, new.clone()).prop_map(|(a, n)| Damage::New(a, n)),
        (at, new).prop_map(|(a, n)| Damage::Old(a, n)),
        at.prop_map(Damage::End),
        (at, any::<u8>()).prop_map(|(a, b)| Damage::Junk(a, b)),
        at.prop_map(Damage::CutOff),
    ];
    let damages = prop_oneof![
        2 => prop::strategy::Just(Vec::new()),
        3 => prop::collection::vec(damage, 1..3),
    ];
    let sectors = prop_oneof![
        4 => prop::strategy::Just(1_u32),
        2 => prop::strategy::Just(2),
        2 => prop::strategy::Just(8),
        1 => prop::strategy::Just(128),
    ];
    let division = (1_u64..5, 0_u64..40_000, 0_u64..10_000);
    let size = prop_oneof![
        0_usize..300,
        0_usize..3000,
        (0_usize..100).prop_map(|n| n * 32)
    ];
    (sectors, order, size, 0_u64..3000, damages, division).prop_map(
        |(sectors, order, entries, more_chunks, damage, division)| Plan {
            sectors,
            order,
            // Two areas of the largest are enough.
            entries: if sectors == 128 { entries * 3 } else { entries },
            more_chunks,
            damage,
            division,
        },
    )
}

struct Store {
    device: MemDevice,
    chunk_size: ChunkSize,
    chunk_count: u64,
}

impl Plan {
    fn exceptions(&self, layout: Layout) -> Vec<Exception> {
        let count = self.entries as u64;
        let spread = count + self.more_chunks;
        let nth = |n| layout.nth_data_chunk(n).unwrap();
        // Odd and so without a common factor with a power of two: no old chunk comes twice.
        let scattered = |n: u64| (n * 0x9E37_79B1) % spread.next_power_of_two();
        let mut all: Vec<Exception> = (0..count)
            .map(|n| {
                let (old_chunk, new_chunk) = match self.order {
                    Order::Sequential => (n, nth(n)),
                    Order::Holes(step) => (scattered(n), nth(n + n / step)),
                    Order::Backwards => (n, nth(count - 1 - n)),
                    Order::Scattered | Order::Swapped => (scattered(n), nth(n)),
                };
                Exception {
                    old_chunk: OldChunk(old_chunk),
                    new_chunk,
                }
            })
            .collect();
        if let Order::Swapped = self.order {
            all.chunks_exact_mut(2).for_each(|pair| pair.reverse());
        }
        all
    }

    fn store(&self) -> Store {
        let chunk_size = ChunkSize::from_sectors(self.sectors).unwrap();
        let layout = Layout::new(chunk_size);
        let mut entries = self.exceptions(layout);
        let count = entries.len();
        let max = entries.iter().map(|entry| entry.new_chunk.0).max();
        // With room for the area that comes next.
        let mut chunks = max
            .unwrap_or(1)
            .max(layout.chunks_for(count as u64).unwrap())
            + 1;
        let mut junk = Vec::new();
        for damage in &self.damage {
            let entry = |at: usize| (count > 0).then(|| at % count);
            match *damage {
                Damage::SharedNew(a, b) => {
                    if let (Some(a), Some(b)) = (entry(a), entry(b)) {
                        entries[a].new_chunk = entries[b].new_chunk;
                    }
                }
                Damage::SharedAcross(a) => {
                    let in_area = to_usize(chunk_size.exceptions_per_area());
                    if let Some(a) = (count > in_area).then(|| a % (count / in_area) * in_area)
                        && a > 0
                    {
                        entries[a].new_chunk = entries[a - 1].new_chunk;
                    }
                }
                Damage::SharedOld(a, b) => {
                    if let (Some(a), Some(b)) = (entry(a), entry(b)) {
                        entries[a].old_chunk = entries[b].old_chunk;
                    }
                }
                Damage::New(a, new) => {
                    if let Some(a) = entry(a) {
                        entries[a].new_chunk = NewChunk(new);
                    }
                }
                Damage::Old(a, old) => {
                    if let Some(a) = entry(a) {
                        entries[a].old_chunk = OldChunk(old);
                    }
                }
                Damage::End(a) => {
                    if let Some(a) = entry(a) {
                        entries[a].new_chunk = NewChunk(0);
                    }
                }
                Damage::Junk(at, byte) => junk.push((at, byte)),
                Damage::CutOff(a) => {
                    if let Some(a) = entry(a) {
                        chunks = entries[a].new_chunk.0.clamp(2, chunks);
                    }
                }
            }
        }
        // The device is written to whole, and cut off then.
        let whole = max.unwrap_or(1) + chunk_size.stride() + 2;
        let device = MemDevice::new((whole + chunk_size.stride()) * chunk_size.bytes());
        for (n, entry) in (0_u64..).zip(&entries) {
            let (area, index) = layout.entry_position(n);
            let area = layout.area_location(area).unwrap();
            let offset = chunk_size.new_to_offset(area).unwrap() + index * 16;
            let words = [
                entry.old_chunk.0.to_le_bytes(),
                entry.new_chunk.0.to_le_bytes(),
            ];
            device.write_at(words.as_flattened(), offset).unwrap();
        }
        let (area, index) = layout.entry_position(count as u64);
        let area = chunk_size
            .new_to_offset(layout.area_location(area).unwrap())
            .unwrap();
        let left = chunk_size.bytes() - index * 16;
        for (at, byte) in junk {
            let offset = area + index * 16 + at as u64 % left;
            device.write_at(&[byte], offset).unwrap();
        }
        device.resize(chunks * chunk_size.bytes() + SECTOR_SIZE / 2);
        Store {
            device,
            chunk_size,
            // Some plans have entries behind the origin's end.
            chunk_count: (count as u64 + self.more_chunks).next_power_of_two() * 7 / 8,
        }
    }
}

/// All runs of a table.
fn runs(table: &ExceptionTable) -> Vec<(u64, Slot)> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < table.chunk_count() {
        let Run { slot, count } = table.run_at(OldChunk(at), table.chunk_count() - at);
        if let Slot::Mapped(first) = slot {
            all.extend((0..count).map(|n| (at + n, Slot::Mapped(NewChunk(first.0 + n)))));
        }
        at += count;
    }
    all
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1000))]

    #[test]
    fn bulk_and_the_plain_walk_agree(plan in plans()) {
        let store = plan.store();
        let (threads, round_bytes, share_bytes) = plan.division;
        let division = Division { threads, round_bytes, share_bytes };
        let table = ExceptionTable::new(store.chunk_count).unwrap();
        let plain = rules::load(&store.device, store.chunk_size, &table);
        let loading = Loading::new(store.chunk_count).unwrap();
        let bulk = load_divided(&store.device, store.chunk_size, loading, division).unwrap();
        match (plain, bulk) {
            (Ok(plain), Some((bulk, bulk_table))) => {
                prop_assert_eq!(plain, bulk);
                prop_assert!(runs(&table) == runs(&bulk_table), "the tables differ");
            }
            (Err(_), None) => {}
            (Ok(_), None) => prop_assert!(false, "bulk loading refuses a sound store"),
            (Err(error), Some(_)) => prop_assert!(false, "bulk loading takes a store: {error:?}"),
        }
    }
}
