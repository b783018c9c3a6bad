//! Threads that write and read at random while it merges, against a model of bytes. Two share the
//! chunks of one half, sector by sector; two have a quarter each, where they go over many chunks.
//! The devices let other threads in before each of their calls, which is where updates get lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use usnap_engine::device::{BlockDevice, ZeroFlags};
use usnap_engine::merge::{MergeState, OnlineMerge};

use crate::random::Random;
use crate::world::{Call, SECTOR, Shape, World, index, make, sector_of};

/// A client: which sectors are its own, and how many it takes at once.
struct Client<'a> {
    merge: &'a OnlineMerge,
    own: Vec<u64>,
    longest: u64,
    model: Vec<u8>,
    random: Random,
    value: u64,
}

impl Client<'_> {
    /// A range of its own sectors: offset and length.
    fn range(&mut self) -> (u64, u64) {
        let at = index(self.random.below(self.own.len() as u64));
        let len = 1 + self.random.below(self.longest);
        let run = self.own[at..].iter().enumerate();
        let first = self.own[at];
        let together = run.take_while(|(i, sector)| **sector == first + *i as u64);
        let sectors = (together.count() as u64).min(len);
        (first * SECTOR, sectors * SECTOR)
    }

    fn step(&mut self) {
        let (offset, len) = self.range();
        let here = index(offset)..index(offset + len);
        match self.random.below(16) {
            0..=7 => {
                let mut data = Vec::new();
                for _ in 0..len / SECTOR {
                    self.value += 1;
                    data.extend(sector_of(self.value));
                }
                // Anywhere inside, now and then.
                let (cut, offset) = if self.random.below(3) == 0 {
                    (100, offset + 100)
                } else {
                    (0, offset)
                };
                self.merge.write_at(&data[cut..], offset).unwrap();
                self.model[here.clone()][cut..].copy_from_slice(&data[cut..]);
            }
            8 => {
                let flags = ZeroFlags::default();
                self.merge.zero_at(offset, len, flags).unwrap();
                self.model[here.clone()].fill(0);
            }
            9 => self.merge.discard_at(offset, len).unwrap(),
            10 => self.merge.flush().unwrap(),
            _ => {}
        }
        let mut found = vec![0xa5; index(len)];
        self.merge.read_at(&mut found, offset).unwrap();
        assert!(found == self.model[here], "{offset}+{len} reads otherwise");
    }
}

fn play(seed: u64) {
    let shape = Shape {
        chunk_bytes: [512, 1024, 4096][index(seed % 3)],
        chunks: 90 + seed % 40,
        seed,
    };
    let images = make(&shape);
    let batch_chunks = 1 + seed % 9;
    let world = World::new(&images, batch_chunks * shape.chunk_bytes);
    let pause = move |_: &'static str, call: Call, offset: u64| {
        match (call, (offset / SECTOR + seed) % 5) {
            (Call::Write, 0) => std::thread::sleep(Duration::from_micros(150)),
            (Call::Read, 1) => std::thread::sleep(Duration::from_micros(50)),
            _ => std::thread::yield_now(),
        }
        Ok(())
    };
    assert!(world.hook.set(Box::new(pause)).is_ok());
    let sectors = shape.size_bytes() / SECTOR;
    let half = sectors / 2;
    let owns = [
        (0..half).step_by(2).collect(),
        (1..half).step_by(2).collect(),
        (half..half + half / 2).collect(),
        (half + half / 2..sectors).collect::<Vec<u64>>(),
    ];
    let merged = AtomicBool::new(false);
    let mut model = images.content.clone();
    std::thread::scope(|scope| {
        let clients = (0..).zip(owns).map(|(number, own)| {
            let mut client = Client {
                merge: &world.merge,
                own,
                longest: 3 * shape.chunk_bytes / SECTOR + 2,
                model: images.content.clone(),
                random: Random::new(seed * 4 + number),
                value: (number + 2) << 32,
            };
            let merged = &merged;
            scope.spawn(move || {
                // On for a while when it is done.
                let mut left = 20;
                while left > 0 {
                    client.step();
                    left -= u64::from(merged.load(Ordering::SeqCst));
                }
                (client.own, client.model)
            })
        });
        let clients: Vec<_> = clients.collect();
        world.merge.run();
        merged.store(true, Ordering::SeqCst);
        for client in clients {
            let (own, its_model) = client.join().unwrap();
            for sector in own {
                let here = index(sector * SECTOR)..index((sector + 1) * SECTOR);
                model[here.clone()].copy_from_slice(&its_model[here]);
            }
        }
    });
    assert_eq!(world.merge.progress().state, MergeState::Done);
    assert_eq!(world.merge.progress().chunks_left, 0);
    assert_eq!(world.merge.progress().chunks_total, images.exceptions);
    assert!(world.content() == model, "seed {seed}: the content");
    world.merge.close().unwrap();
    world.assert_merged(&model);
}

/// `USNAP_ONLINE_SEEDS` says how many histories.
#[test]
fn what_clients_write_while_it_merges_is_what_they_read_and_what_the_origin_becomes() {
    let seeds = std::env::var("USNAP_ONLINE_SEEDS");
    let seeds = seeds.map_or(40, |text| text.parse().unwrap());
    for seed in 0..seeds {
        play(seed);
    }
}
