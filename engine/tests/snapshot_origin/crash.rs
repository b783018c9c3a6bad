//! Power cuts of all devices at once, before each flush and after each request: the origin has of
//! each sector one of its values since its last flush, and every store that is still valid, opened
//! over it, is its snapshot: its moment, with its own flushed writes. The canaries change the order
//! of what was done, and the same judge must complain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::sim::{CrashState, Event};
use usnap_engine::snapshot_origin::{MemberState, SnapshotOrigin, WhenFull};
use usnap_engine::store::initialise;
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

use crate::random::Random;
use crate::tape::{Tape, Taped};
use crate::values::{Values, payload};
use crate::workers::{from_environment, run};

const SIZE: usize = 24 * 1024 + 512;
const IMAGES: u64 = 60_000;
const SNAPSHOTS_MAX: usize = 3;
const STEPS: u64 = 24;
/// So many images of a cut are looked at.
const IMAGES_PER_CUT: u64 = 2;

type Events = Vec<(usize, Event)>;
/// What becomes of the events of one request.
type Bend = fn(Events) -> Events;

struct Device {
    state: CrashState,
    values: Values,
    snapshot: Option<Arc<Snapshot>>,
    is_dropped: bool,
}

struct Story {
    origin: SnapshotOrigin,
    tape: Arc<Tape>,
    /// The origin first.
    devices: Vec<Device>,
    bend: Bend,
    images: u64,
    drops: u64,
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("small")
}

fn read_all(device: &dyn BlockDevice) -> Vec<u8> {
    let mut content = vec![0; index(device.size_bytes())];
    device.read_at(&mut content, 0).expect("it reads");
    content
}

/// A range of whole sectors, or not.
fn range(random: &mut Random, is_whole: bool) -> (usize, usize) {
    let step = if is_whole || random.below(2) == 0 {
        512
    } else {
        1
    };
    let at = index(random.below(SIZE as u64)) / step * step;
    let len = (step * (1 + index(random.below(8)))).min(SIZE - at);
    (at, if random.below(8) == 0 { SIZE - at } else { len })
}

impl Story {
    fn new(when_full: WhenFull, bend: Bend) -> Self {
        let tape = Arc::new(Tape::default());
        let content = payload(7, 0, SIZE);
        let origin = Taped::new(&content, 0, &tape);
        Self {
            origin: SnapshotOrigin::on_device(origin, when_full),
            tape,
            devices: vec![Device {
                state: CrashState::new(content.clone()),
                values: Values::new(content),
                snapshot: None,
                is_dropped: false,
            }],
            bend,
            images: 0,
            drops: 0,
        }
    }

    fn add(&mut self, random: &mut Random) -> Result<(), String> {
        let chunk_bytes = 512 << random.below(3);
        let chunk_size = ChunkSize::from_bytes(chunk_bytes).expect("a power of two");
        let chunks = match random.below(4) {
            0 => 4 + random.below(20),
            _ => 120,
        };
        let store = MemDevice::new(chunks * chunk_bytes);
        initialise(&store, chunk_size, None).expect("there is room");
        let image = read_all(&store);
        let number = self.devices.len();
        let cow = Taped::new(&image, number, &self.tape);
        let options = SnapshotOptions::default();
        let name = format!("s{number}");
        let added = self.origin.add_device(&name, None, cow, &options);
        let content = self.devices[0].values.now().to_vec();
        self.devices.push(Device {
            state: CrashState::new(image),
            values: Values::new(content),
            snapshot: None,
            is_dropped: false,
        });
        self.see()?;
        self.devices[0].values.flush();
        self.devices[number].snapshot = Some(added.expect("it opens"));
        self.cut()
    }

    fn change_origin(&mut self, random: &mut Random, stamp: u64) -> Result<(), String> {
        let kind = random.below(8);
        let (offset, len) = range(random, kind < 2);
        let (at, long) = (offset as u64, len as u64);
        let values = &mut self.devices[0].values;
        let result = match kind {
            0 => {
                values.write(offset, &vec![0; len]);
                self.origin.zero_at(at, long, ZeroFlags::default())
            }
            1 => {
                values.trim(offset, len);
                self.origin.discard_at(at, long)
            }
            2 => {
                let result = self.origin.flush();
                self.see()?;
                self.devices[0].values.flush();
                return result
                    .map_err(|e| format!("{e:?}"))
                    .and_then(|()| self.cut());
            }
            _ => {
                let data = payload(stamp, offset, len);
                values.write(offset, &data);
                self.origin.write_at(&data, at)
            }
        };
        if let Err(error) = &result
            && error.kind() != ErrorKind::NoSpace
        {
            return Err(format!("the origin: {error:?}"));
        }
        let found = read_all(&self.origin);
        self.devices[0].values.settle(offset, len, &found)?;
        for (device, state) in self.devices[1..].iter_mut().zip(self.origin.snapshots()) {
            let is_dropped = state.state != MemberState::Active;
            self.drops += u64::from(is_dropped && !device.is_dropped);
            device.is_dropped = is_dropped;
        }
        self.see()?;
        self.cut()
    }

    fn change_snapshot(&mut self, random: &mut Random, stamp: u64) -> Result<(), String> {
        if self.devices.len() < 2 {
            return Ok(());
        }
        let number = 1 + index(random.below(self.devices.len() as u64 - 1));
        let device = &mut self.devices[number];
        let snapshot = Arc::clone(device.snapshot.as_ref().expect("it was added"));
        if device.is_dropped {
            return Ok(());
        }
        let (offset, len) = range(random, false);
        let mut is_durable = false;
        let result = match random.below(4) {
            0 => {
                is_durable = true;
                snapshot.flush()
            }
            1 => {
                device.values.write(offset, &vec![0; len]);
                snapshot.zero_at(offset as u64, len as u64, ZeroFlags::default())
            }
            _ => {
                let data = payload(stamp, offset, len);
                device.values.write(offset, &data);
                snapshot.write_at(&data, offset as u64)
            }
        };
        if let Err(error) = result
            && error.kind() != ErrorKind::NoSpace
        {
            return Err(format!("snapshot {number}: {error:?}"));
        }
        device.values.settle(offset, len, &read_all(&*snapshot))?;
        self.see()?;
        if is_durable {
            self.devices[number].values.flush();
        }
        self.cut()
    }

    /// Takes what was done; before each flush the power may go.
    fn see(&mut self) -> Result<(), String> {
        for (number, event) in (self.bend)(self.tape.take()) {
            if matches!(event, Event::Flush { .. }) {
                self.cut()?;
            }
            self.devices[number].state.add(&event);
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), String> {
        for seed in 0..IMAGES_PER_CUT {
            let before = self.images;
            let image = |device: &Device, number: usize| {
                let seed = before * 8 + seed * 64 + number as u64;
                device.state.samples(1, seed).next().expect("one")
            };
            let origin = image(&self.devices[0], 0);
            let values = &self.devices[0].values;
            values.check(&origin).map_err(|e| format!("origin: {e}"))?;
            let origin = Arc::new(MemDevice::from_bytes(&origin));
            for (number, device) in self.devices.iter().enumerate().skip(1) {
                if device.snapshot.is_none() {
                    // Nobody was told yet that it is one.
                    continue;
                }
                self.images += 1;
                let cow = Arc::new(MemDevice::from_bytes(&image(device, number)));
                let options = SnapshotOptions::default();
                match Snapshot::on_devices(origin.clone(), cow, &options) {
                    Ok(snapshot) => device.values.check(&read_all(&snapshot)),
                    Err(e) if e.kind() == ErrorKind::InvalidStore && device.is_dropped => Ok(()),
                    Err(e) => Err(format!("does not open: {e:?}")),
                }
                .map_err(|e| format!("snapshot {number}: {e}"))?;
            }
        }
        Ok(())
    }
}

/// How many images were judged, and how many snapshots dropped.
fn play(seed: u64, bend: Bend) -> Result<(u64, u64), String> {
    let mut random = Random::new(seed);
    let when_full = match random.below(2) {
        0 => WhenFull::Drop,
        _ => WhenFull::Refuse,
    };
    let mut story = Story::new(when_full, bend);
    for step in 1..=STEPS {
        let stepped = match random.below(10) {
            0..2 if story.devices.len() <= SNAPSHOTS_MAX => story.add(&mut random),
            2..5 => story.change_snapshot(&mut random, step),
            _ => story.change_origin(&mut random, step),
        };
        stepped.map_err(|e| format!("step {step}: {e}\nagain: USNAP_ORIGIN_SEED={seed}"))?;
    }
    Ok((story.images, story.drops))
}

#[test]
fn a_power_cut_leaves_every_snapshot_its_moment() {
    let wanted = from_environment("USNAP_ORIGIN_IMAGES", IMAGES);
    let first = from_environment("USNAP_ORIGIN_SEED", 0);
    let drops = AtomicU64::new(0);
    let job = |seed| {
        let (images, dropped) = play(seed, |events| events)?;
        drops.fetch_add(dropped, Ordering::Relaxed);
        Ok(images)
    };
    run(
        "snapshot origin: power cuts",
        "images",
        first..u64::MAX,
        wanted,
        job,
    );
    assert!(wanted < IMAGES || drops.into_inner() > 10);
}

/// Whether the judge complains of such an order, in one of many histories.
fn is_caught(bend: Bend) -> bool {
    (0..60).any(|seed| play(seed, bend).is_err())
}

#[test]
fn an_origin_that_does_not_wait_for_the_commit_is_caught() {
    assert!(is_caught(|events| {
        let is_origins_change = |(number, event): &(usize, Event)| {
            *number == 0 && !matches!(event, Event::Flush { .. })
        };
        let (mut early, others): (Events, Events) = events.into_iter().partition(is_origins_change);
        early.extend(others);
        early
    }));
}

#[test]
fn a_commit_that_is_not_synced_is_caught() {
    assert!(is_caught(|mut events| {
        let changes_origin = events
            .iter()
            .any(|(number, event)| *number == 0 && !matches!(event, Event::Flush { .. }));
        if changes_origin {
            events.retain(|(number, event)| *number == 0 || !matches!(event, Event::Flush { .. }));
        }
        events
    }));
}

#[test]
fn a_snapshot_of_an_origin_that_is_not_durable_is_caught() {
    assert!(is_caught(|mut events| {
        // A snapshot's first event is its store's flush; an origin's flush before it is the moment's.
        let is_added = matches!(&events[..], [(0, Event::Flush { .. }), (1.., _), ..]);
        if is_added {
            events.remove(0);
        }
        events
    }));
}
