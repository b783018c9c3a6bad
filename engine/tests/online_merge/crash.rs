//! Power cuts while it merges and clients write. Both devices keep a log, and their events one
//! order; at each of them some images of both are put together by a loader that shares no line with
//! the engine: what was flushed is there, and each sector is one of its values since. Some are merged
//! to their end as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use usnap_engine::Result;
use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::merge::OnlineMerge;
use usnap_engine::sim::{CrashState, Event, LogWrites};

use crate::plain_loader::compose;
use crate::random::Random;
use crate::world::{Call, Images, SECTOR, Shape, World, index, make, sector_of};

/// What happened, in the order in which it did.
enum Happened {
    Cow(Event),
    Origin(Event),
    /// A client began to write this value to this sector.
    Begun(u64, u64),
    /// A client's flush ended; it began when so many had happened.
    Flushed(usize),
}

/// Or what is wrong, as a sentence.
type Verdict<T> = std::result::Result<T, String>;

type Story = Arc<Mutex<Vec<Happened>>>;

/// Hands a device's events over to the story, right after each call.
struct Told {
    log: LogWrites,
    story: Story,
    tell: fn(Event) -> Happened,
}

impl Told {
    fn after<T>(&self, result: T) -> T {
        let events = self.log.take_log().into_iter().map(self.tell);
        self.story.lock().unwrap().extend(events);
        result
    }
}

impl BlockDevice for Told {
    fn size_bytes(&self) -> u64 {
        self.log.size_bytes()
    }

    fn name(&self) -> &str {
        self.log.name()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.log.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.after(self.log.write_at(data, offset))
    }

    fn flush(&self) -> Result<()> {
        self.after(self.log.flush())
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.after(self.log.discard_at(offset, len))
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.after(self.log.zero_at(offset, len, flags))
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.log.reserve_at(offset, len)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.log.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

/// A client that gets its turn before each read and write of the merge.
struct Client {
    merge: Weak<OnlineMerge>,
    story: Story,
    random: Mutex<Random>,
    is_busy: AtomicBool,
    value: Mutex<u64>,
}

impl Client {
    fn turn(&self) {
        // What it asks for makes calls of its own.
        let Some(merge) = self.merge.upgrade() else {
            return;
        };
        if self.is_busy.swap(true, Ordering::SeqCst) {
            return;
        }
        // Several in a row now and then: a write and a flush between two calls of the merge.
        let random = |end| self.random.lock().unwrap().below(end);
        let steps = if random(4) == 0 { 12 } else { 1 };
        (0..steps).for_each(|_| self.step(&merge));
        self.is_busy.store(false, Ordering::SeqCst);
    }

    fn step(&self, merge: &OnlineMerge) {
        let (kind, at, count) = {
            let mut random = self.random.lock().unwrap();
            let sectors = merge.size_bytes() / SECTOR;
            let at = random.below(sectors);
            (
                random.below(12),
                at,
                (1 + random.below(4)).min(sectors - at),
            )
        };
        match kind {
            // One that would have to wait for the thread it stands in for is left out.
            0..=4 if !merge.would_wait(at * SECTOR, count * SECTOR) => {
                let mut data = Vec::new();
                for sector in at..at + count {
                    let mut value = self.value.lock().unwrap();
                    *value += 1;
                    data.extend(sector_of(*value));
                    let begun = Happened::Begun(sector, *value);
                    self.story.lock().unwrap().push(begun);
                }
                merge.write_at(&data, at * SECTOR).unwrap();
            }
            5 => {
                let begun = self.story.lock().unwrap().len();
                merge.flush().unwrap();
                self.story.lock().unwrap().push(Happened::Flushed(begun));
            }
            _ => {}
        }
    }
}

/// Merges all of it, a client at work, and returns what happened.
fn record(images: &Images, seed: u64, batch_bytes: u64) -> Vec<Happened> {
    let story = Story::default();
    let told = |memory: &Arc<MemDevice>, tell| {
        Arc::new(Told {
            log: LogWrites::new(memory.clone()),
            story: Arc::clone(&story),
            tell,
        })
    };
    let cow = Arc::new(MemDevice::from_bytes(&images.cow));
    let origin = Arc::new(MemDevice::from_bytes(&images.origin));
    let (above_cow, above_origin) = (told(&cow, Happened::Cow), told(&origin, Happened::Origin));
    let world = World::over(cow, origin, above_cow, above_origin, batch_bytes);
    let client = Client {
        merge: Arc::downgrade(&world.merge),
        story: Arc::clone(&story),
        random: Mutex::new(Random::new(seed)),
        is_busy: AtomicBool::new(false),
        value: Mutex::new(1 << 40),
    };
    let hook = move |_: &'static str, call: Call, _: u64| {
        // A flush is made under a lock that a client's flush takes, too.
        if call != Call::Flush {
            client.turn();
        }
        Ok(())
    };
    assert!(world.hook.set(Box::new(hook)).is_ok());
    while world.merge.merge_one_batch().unwrap() {}
    let content = world.content();
    world.assert_merged(&content);
    drop(world);
    std::mem::take(&mut *story.lock().unwrap())
}

/// What a sector may be.
struct Values {
    /// Each with the place in the story at which it was begun; the first is durable.
    begun: Vec<(usize, [u8; 512])>,
}

struct Judge {
    cow: CrashState,
    origin: CrashState,
    sectors: Vec<Values>,
}

impl Judge {
    fn new(images: &Images) -> Self {
        let sectors = images.content.chunks(512).map(|sector| Values {
            begun: vec![(0, sector.try_into().unwrap())],
        });
        Self {
            cow: CrashState::new(images.cow.clone()),
            origin: CrashState::new(images.origin.clone()),
            sectors: sectors.collect(),
        }
    }

    fn add(&mut self, number: usize, happened: &Happened) {
        match happened {
            Happened::Cow(event) => self.cow.add(event),
            Happened::Origin(event) => self.origin.add(event),
            Happened::Begun(sector, value) => {
                let value = (number, sector_of(*value));
                self.sectors[index(*sector)].begun.push(value);
            }
            Happened::Flushed(began) => {
                for values in &mut self.sectors {
                    // The last that was begun before the flush, and so had ended, is durable.
                    let covered = values.begun.partition_point(|(at, _)| at < began);
                    values.begun.drain(..covered.max(1) - 1);
                }
            }
        }
    }

    /// Judges some of the images that a cut now may leave.
    fn judge(&self, count: u64, seed: u64, shape: &Shape) -> Verdict<u64> {
        let cows = self.cow.some_images(count, seed);
        let origins: Vec<_> = self.origin.some_images(count, seed + 1).collect();
        let mut judged = 0;
        for (number, cow) in cows.enumerate() {
            let origin = &origins[number % origins.len()][..index(shape.size_bytes())];
            let content = compose(origin, &cow)?;
            for (sector, found) in content.chunks(512).enumerate() {
                let values = &self.sectors[sector].begun;
                if !values.iter().any(|(_, value)| value == found) {
                    return Err(format!(
                        "sector {sector} is none of the {} values that it may have",
                        values.len()
                    ));
                }
            }
            judged += 1;
            if number == 0 {
                merge_to_the_end(&cow, origin, &content, shape)?;
            }
        }
        Ok(judged)
    }
}

/// The next merge makes the origin what the image shows.
fn merge_to_the_end(cow: &[u8], origin: &[u8], content: &[u8], shape: &Shape) -> Verdict<()> {
    let images = Images {
        cow: cow.to_vec(),
        origin: origin.to_vec(),
        content: content.to_vec(),
        exceptions: 0,
    };
    let world = World::new(&images, 5 * shape.chunk_bytes);
    if world.content() != content {
        return Err("what is served after the cut is something else".to_owned());
    }
    world.merge.run();
    world.merge.close().map_err(|e| format!("{e:?}"))?;
    world.assert_merged(content);
    Ok(())
}

/// Plays a history and judges it; how many images that was.
fn judged(seed: u64, images_each: u64, bend: fn(&mut Vec<Happened>)) -> Verdict<u64> {
    let shape = Shape {
        chunk_bytes: [512, 1024][index(seed % 2)],
        chunks: 60 + seed % 50,
        seed,
    };
    let images = make(&shape);
    let mut story = record(&images, seed, (1 + seed % 50) * shape.chunk_bytes);
    bend(&mut story);
    let mut judge = Judge::new(&images);
    let mut judged = 0;
    for (number, happened) in story.iter().enumerate() {
        judge.add(number, happened);
        let is_moment = matches!(happened, Happened::Cow(_) | Happened::Origin(_));
        if is_moment {
            judged += judge
                .judge(images_each, seed + number as u64, &shape)
                .map_err(|e| format!("seed {seed}, after event {number}: {e}"))?;
        }
    }
    Ok(judged)
}

/// `USNAP_ONLINE_CRASH_HISTORIES` says how many histories.
#[test]
fn what_clients_flushed_while_it_merged_survives_a_power_cut_at_any_moment() {
    let histories = std::env::var("USNAP_ONLINE_CRASH_HISTORIES");
    let histories = histories.map_or(30, |text| text.parse().unwrap());
    let mut images = 0;
    for seed in 0..histories {
        match judged(seed, 6, |_| {}) {
            Ok(count) => images += count,
            Err(what) => panic!("{what}"),
        }
    }
    assert!(images > 100 * histories, "only {images} images");
}

/// The canaries: a rule is broken in what is told, and the judge must say so in some history.
fn is_noticed(bend: fn(&mut Vec<Happened>)) -> bool {
    (0..20).any(|seed| judged(seed, 20, bend).is_err())
}

#[test]
fn a_merge_that_does_not_flush_the_origin_is_noticed() {
    assert!(is_noticed(|story| {
        story.retain(|happened| !matches!(happened, Happened::Origin(Event::Flush { .. })));
    }));
}

#[test]
fn a_merge_that_does_not_flush_what_it_clears_is_noticed() {
    assert!(is_noticed(|story| {
        story.retain(|happened| !matches!(happened, Happened::Cow(Event::Flush { .. })));
    }));
}
