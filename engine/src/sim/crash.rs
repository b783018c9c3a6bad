//! What a power cut may leave of a device, from the log of what was done to it (the fault model is
//! in `sim/mod.rs`).

use std::collections::BTreeMap;

use super::{Dice, Event};
use crate::num::{SECTOR_LEN, to_usize};

/// A sector's content.
type Sector = [u8; SECTOR_LEN];

/// A value that a sector got, and with which event.
#[derive(Clone)]
struct Value {
    event: u64,
    content: Box<Sector>,
}

/// A device at one moment: what is durable, and what each other sector may be.
#[derive(Clone)]
pub struct CrashState {
    /// As of the last flush that completed.
    durable: Vec<u8>,
    /// As a reader sees it.
    cached: Vec<u8>,
    /// The values that sectors got and that no flush covered, oldest first.
    volatile: BTreeMap<usize, Vec<Value>>,
    events: u64,
}

impl CrashState {
    /// A device that holds `image`, all of it durable, and whose log begins now.
    #[must_use]
    pub fn new(mut image: Vec<u8>) -> Self {
        image.resize(image.len().next_multiple_of(SECTOR_LEN), 0);
        Self {
            cached: image.clone(),
            durable: image,
            volatile: BTreeMap::new(),
            events: 0,
        }
    }

    /// The device goes on.
    pub fn add(&mut self, event: &Event) {
        let number = self.events;
        self.events += 1;
        if let Event::Flush { covers } = event {
            self.flush(*covers);
            return;
        }
        let Some((offset, len)) = event.range().filter(|(_, len)| *len > 0) else {
            return;
        };
        let end = to_usize(offset.saturating_add(len));
        if end > self.cached.len() {
            // The device has grown.
            let len = end.next_multiple_of(SECTOR_LEN);
            self.cached.resize(len, 0);
            self.durable.resize(len, 0);
        }
        event.apply(&mut self.cached);
        for sector in to_usize(offset) / SECTOR_LEN..end.div_ceil(SECTOR_LEN) {
            let content = Box::new(sector_of(&self.cached, sector));
            let value = Value {
                event: number,
                content,
            };
            self.volatile.entry(sector).or_default().push(value);
        }
    }

    /// What was done before event number `covers` is durable now.
    fn flush(&mut self, covers: u64) {
        let durable = &mut self.durable;
        self.volatile.retain(|sector, values| {
            let covered = values.partition_point(|value| value.event < covers);
            if let Some(last) = values.drain(..covered).next_back() {
                put_sector(durable, *sector, &last.content);
            }
            !values.is_empty()
        });
    }

    /// The bytes, as a reader sees them before the cut.
    #[must_use]
    pub fn cached(&self) -> &[u8] {
        &self.cached
    }

    /// Every image that a cut now may leave, each once.
    #[must_use]
    pub fn images(&self) -> Images {
        let choices = self.choices();
        let ways = choices.iter().map(|(_, contents)| contents.len() as u64);
        Images {
            left: Some(ways.fold(1_u64, u64::saturating_mul)),
            digits: vec![0; choices.len()],
            image: self.durable.clone(),
            choices,
        }
    }

    /// `count` of the images, chosen by `seed`: some near to everything, some near to nothing, some
    /// anywhere between. They may repeat.
    #[must_use]
    pub fn samples(&self, count: u64, seed: u64) -> Samples {
        Samples {
            choices: self.choices(),
            durable: self.durable.clone(),
            dice: Dice::new(seed),
            left: count,
        }
    }

    /// All images if they are not more than `max`, else `max` samples.
    pub fn some_images(&self, max: u64, seed: u64) -> Box<dyn Iterator<Item = Vec<u8>>> {
        let images = self.images();
        if images.count_left() <= max {
            Box::new(images)
        } else {
            Box::new(self.samples(max, seed))
        }
    }

    /// For each sector that may be one of several things, these: first the durable one, last the
    /// newest. All differ.
    fn choices(&self) -> Vec<(usize, Vec<Sector>)> {
        let choice = |(sector, values): (&usize, &Vec<Value>)| {
            let mut contents = vec![sector_of(&self.durable, *sector)];
            for value in values.iter().rev() {
                if !contents.contains(&value.content) {
                    contents.insert(1, *value.content);
                }
            }
            (contents.len() > 1).then_some((*sector, contents))
        };
        self.volatile.iter().filter_map(choice).collect()
    }
}

fn sector_of(image: &[u8], sector: usize) -> Sector {
    let start = sector * SECTOR_LEN;
    let bytes = image.get(start..start + SECTOR_LEN);
    bytes
        .and_then(|bytes| bytes.first_chunk())
        .copied()
        .unwrap_or([0; SECTOR_LEN])
}

fn put_sector(image: &mut [u8], sector: usize, content: &Sector) {
    let start = sector * SECTOR_LEN;
    if let Some(place) = image.get_mut(start..start + SECTOR_LEN) {
        place.copy_from_slice(content);
    }
}

/// All images of a cut; `len` is how many are left.
pub struct Images {
    choices: Vec<(usize, Vec<Sector>)>,
    /// Which content each of those sectors has in `image`.
    digits: Vec<usize>,
    image: Vec<u8>,
    /// None behind the last.
    left: Option<u64>,
}

impl Images {
    /// How many images are left: exact up to 2^64 - 1, which stands for that many or more.
    #[must_use]
    pub fn count_left(&self) -> u64 {
        self.left.unwrap_or(0)
    }
}

impl Iterator for Images {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let left = self.left?;
        let image = self.image.clone();
        self.left = if left > 1 { Some(left - 1) } else { None };
        // The next number, a digit a sector.
        for ((sector, contents), digit) in self.choices.iter().zip(&mut self.digits) {
            *digit = (*digit + 1) % contents.len();
            if let Some(content) = contents.get(*digit) {
                put_sector(&mut self.image, *sector, content);
            }
            if *digit != 0 {
                break;
            }
        }
        Some(image)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = to_usize(self.count_left());
        (left, Some(left))
    }
}

impl ExactSizeIterator for Images {}

/// Some images of a cut.
pub struct Samples {
    choices: Vec<(usize, Vec<Sector>)>,
    durable: Vec<u8>,
    dice: Dice,
    left: u64,
}

impl Iterator for Samples {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(1)?;
        let mut image = self.durable.clone();
        // How many sectors in sixteen keep what they had; and one may go against the rest.
        let lost = [0, 1, 4, 8, 12, 15, 16];
        let lost = lost
            .get(to_usize(self.dice.below(lost.len() as u64)))
            .copied()
            .unwrap_or(8);
        let odd_one = match self.choices.len() as u64 {
            0 => 0,
            count => self.dice.below(2 * count),
        };
        for (number, (sector, contents)) in (0..).zip(&self.choices) {
            let keeps = self.dice.below(16) < lost;
            if keeps != (number == odd_one) {
                continue;
            }
            // The newest half of the time, else any of the others.
            let newer = contents.len().saturating_sub(1);
            let content = if newer > 1 && self.dice.below(2) == 0 {
                contents.get(1 + to_usize(self.dice.below(newer as u64)))
            } else {
                contents.last()
            };
            if let Some(content) = content {
                put_sector(&mut image, *sector, content);
            }
        }
        Some(image)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = to_usize(self.left);
        (left, Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::CrashState;
    use crate::device::{BlockDevice, MemDevice, ZeroFlags};
    use crate::sim::{Event, LogWrites};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    /// What the first byte of each sector may be together, over all images.
    fn outcomes(state: &CrashState) -> BTreeSet<Vec<u8>> {
        let images = state.images();
        let count = images.len();
        let firsts = |image: Vec<u8>| image.chunks(512).map(|sector| sector[0]).collect();
        let outcomes: BTreeSet<Vec<u8>> = images.map(firsts).collect();
        assert_eq!(outcomes.len(), count, "each once, and as many as it said");
        outcomes
    }

    fn after(device: &LogWrites) -> CrashState {
        let mut state = CrashState::new(vec![0; 2048]);
        device.take_log().iter().for_each(|event| state.add(event));
        state
    }

    fn device() -> LogWrites {
        LogWrites::new(Arc::new(MemDevice::new(2048)))
    }

    #[test]
    fn each_sector_has_any_of_its_values_since_the_flush() {
        let device = device();
        device.write_at(&[1; 1024], 0).unwrap();
        device.flush().unwrap();
        device.write_at(&[2; 1024], 0).unwrap();
        device.write_at(&[3; 512], 512).unwrap();
        let wanted = [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]];
        let wanted = wanted.map(|[a, b]| vec![a, b, 0, 0]);
        assert_eq!(outcomes(&after(&device)), BTreeSet::from(wanted));
    }

    #[test]
    fn what_a_flush_covered_is_there() {
        let device = device();
        device.write_at(&[1; 2048], 0).unwrap();
        device.zero_at(0, 512, ZeroFlags::default()).unwrap();
        device.discard_at(512, 512).unwrap();
        device.reserve_at(0, 2048).unwrap();
        device.flush().unwrap();
        assert_eq!(
            outcomes(&after(&device)),
            BTreeSet::from([vec![0, 0, 1, 1]])
        );
    }

    #[test]
    fn a_flush_covers_nothing_that_came_while_it_was_under_way() {
        let mut state = CrashState::new(vec![0; 512]);
        let write = |byte| Event::Write {
            offset: 0,
            data: vec![byte; 512],
        };
        state.add(&write(1));
        state.add(&write(2));
        state.add(&write(3));
        state.add(&Event::Flush { covers: 2 });
        assert_eq!(outcomes(&state), BTreeSet::from([vec![2], vec![3]]));
        assert_eq!(state.cached()[0], 3);
    }

    #[test]
    fn values_that_are_equal_make_no_further_image() {
        let device = device();
        device.write_at(&[0; 512], 0).unwrap();
        device.write_at(&[1; 512], 512).unwrap();
        device.write_at(&[0; 512], 512).unwrap();
        device.write_at(&[1; 512], 512).unwrap();
        assert_eq!(after(&device).images().count_left(), 2);
    }

    #[test]
    fn part_of_a_sector_is_written_with_what_is_around_it() {
        let device = device();
        device.write_at(&[1; 10], 507).unwrap();
        let images: Vec<Vec<u8>> = after(&device).images().collect();
        assert_eq!(images.len(), 4);
        for image in images {
            let (first, second) = (&image[507..512], &image[512..517]);
            assert!(first == [0; 5] || first == [1; 5]);
            assert!(second == [0; 5] || second == [1; 5]);
        }
    }

    #[test]
    fn samples_are_images_and_reach_them_all_in_the_end() {
        let device = device();
        device.write_at(&[1; 1536], 0).unwrap();
        device.write_at(&[2; 512], 0).unwrap();
        let state = after(&device);
        let all: BTreeSet<Vec<u8>> = state.images().collect();
        let some: BTreeSet<Vec<u8>> = state.samples(500, 3).collect();
        assert_eq!((all.len(), &some), (12, &all));
        let same: Vec<Vec<u8>> = state.samples(20, 9).collect();
        assert_eq!(state.samples(20, 9).collect::<Vec<_>>(), same);
    }

    /// The canary: two writes that need an order and don't get one must be seen apart.
    #[test]
    fn a_flush_that_is_left_out_is_noticed() {
        let first_without_second = |flushes: bool| {
            let device = device();
            device.write_at(&[1; 512], 512).unwrap();
            if flushes {
                device.flush().unwrap();
            }
            device.write_at(&[2; 512], 0).unwrap();
            // The second refers to the first, so this would be a violation.
            outcomes(&after(&device)).contains(&vec![2, 0, 0, 0])
        };
        assert!(first_without_second(false));
        assert!(!first_without_second(true));
    }
}
