//! The power is cut before each call of a merge. Of both devices any subset of what was not synced
//! may be left; each such pair of images is judged.

use usnap_engine::merge::MergeOptions;
use usnap_engine::sim::CrashState;

use crate::film::{Film, Which, batches, merge};
use crate::plain_kernel::PlainKernel;
use crate::plain_loader::{compose_store, load};
use crate::random::Random;
use crate::stores_of::{Pair, Shape, record_of};

/// Images of each device at one cut: all if they are not more, else so many samples.
const IMAGES: u64 = 24;
/// So many chunks a kernel writes afterwards, more than an area's worth.
const KERNEL_BEYOND: usize = 8;

/// Judges what cuts leave of one merge.
pub(crate) struct Judge<'a> {
    pub(crate) pair: &'a Pair,
    pub(crate) options: MergeOptions,
    random: Random,
    /// How many pairs of images were judged.
    pub(crate) images: u64,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(pair: &'a Pair, options: MergeOptions) -> Self {
        Self {
            pair,
            options,
            random: Random::new(pair.shape.exceptions as u64),
            images: 0,
        }
    }

    /// Cuts the power before each event of `film`, and after the last.
    pub(crate) fn play(&mut self, film: &Film) -> Result<(), String> {
        let mut cow = CrashState::new(self.pair.cow.clone());
        let mut origin = CrashState::new(self.pair.origin.clone());
        self.cut(&cow, &origin)?;
        for (number, (which, event)) in film.iter().enumerate() {
            match which {
                Which::Cow => cow.add(event),
                Which::Origin => origin.add(event),
            }
            self.cut(&cow, &origin)
                .map_err(|e| format!("after event {number} of {}: {e}", film.len()))?;
        }
        Ok(())
    }

    /// Cuts the power after the last event of `film`.
    pub(crate) fn end(&mut self, film: &Film) -> Result<(), String> {
        let mut cow = CrashState::new(self.pair.cow.clone());
        let mut origin = CrashState::new(self.pair.origin.clone());
        for (which, event) in film {
            match which {
                Which::Cow => cow.add(event),
                Which::Origin => origin.add(event),
            }
        }
        self.cut(&cow, &origin)
    }

    fn cut(&mut self, cow: &CrashState, origin: &CrashState) -> Result<(), String> {
        let len = self.pair.origin.len();
        let origins: Vec<Vec<u8>> = origin.some_images(IMAGES, self.random.next()).collect();
        for cow in cow.some_images(IMAGES, self.random.next()) {
            // Not all with all: which of the origin's goes with which is left to chance.
            for _ in 0..2 {
                let chosen = self.random.below(origins.len() as u64);
                let origin = &origins[usize::try_from(chosen).unwrap()][..len];
                self.judge(&cow, origin)?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, cow: &[u8], origin: &[u8]) -> Result<(), String> {
        self.images += 1;
        let store = load(cow)?;
        let content = compose_store(origin, cow, &store)?;
        if content != self.pair.content {
            return Err("the store over the origin shows something else".to_owned());
        }
        self.is_said_to_change(cow, origin)?;
        if self.images.is_multiple_of(2) {
            self.kernel_writes_on(cow, origin, &content)
                .map_err(|e| format!("a kernel writes on: {e}"))?;
        }
        if self.images.is_multiple_of(5) {
            let merged = merge(cow, origin, &self.options).map_err(|e| format!("again: {e}"))?;
            self.pair
                .assert_merged(&merged.origin, &merged.cow)
                .map_err(|e| format!("merged again: {e}"))?;
        }
        Ok(())
    }

    /// An origin that is neither what it was nor what it becomes is known as one that changes.
    fn is_said_to_change(&self, cow: &[u8], origin: &[u8]) -> Result<(), String> {
        let is_between = origin != self.pair.origin && origin != self.pair.content;
        match record_of(cow) {
            Some(record) if is_between && !record.origin_changing => {
                Err("the record does not say that the origin is changing".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// A kernel takes the store as a snapshot over the origin and writes more than an area's worth,
    /// and it is loaded again: no stale entry comes alive.
    fn kernel_writes_on(
        &mut self,
        cow: &[u8],
        origin: &[u8],
        content: &[u8],
    ) -> Result<(), String> {
        let chunk_len = self.pair.shape.chunk_len;
        let mut content = content.to_vec();
        let mut kernel = PlainKernel::activate(cow.to_vec())?;
        let whole = origin.len() / chunk_len;
        let first = usize::try_from(self.random.below(whole as u64)).unwrap();
        let all = whole.min(chunk_len / 16 + KERNEL_BEYOND);
        for chunk in (0..all).map(|n| (first + n) % whole) {
            if !kernel.has_room() {
                break;
            }
            let byte = u8::try_from(self.random.below(256)).unwrap();
            let data = vec![byte; chunk_len];
            content[chunk * chunk_len..][..chunk_len].copy_from_slice(&data);
            kernel.write(vec![(chunk as u64, data)]);
            if !kernel.ends_where_it_should() {
                return Err("a stale entry comes alive".to_owned());
            }
        }
        let image = kernel.image();
        let store = load(image)?;
        if compose_store(origin, image, &store)? != content {
            return Err("it reads something else than it wrote".to_owned());
        }
        Ok(())
    }
}

/// Merges a store in batches of so many chunks, and judges all cuts.
pub(crate) fn judged(shape: Shape, chunks: usize) -> Result<u64, String> {
    let pair = Pair::new(shape, chunks as u64);
    let options = batches(shape.chunk_len, chunks);
    let merged = merge(&pair.cow, &pair.origin, &options)?;
    pair.assert_merged(&merged.origin, &merged.cow)?;
    let mut judge = Judge::new(&pair, options);
    judge.play(&merged.film)?;
    Ok(judge.images)
}

pub(crate) const SHAPE: Shape = Shape {
    chunk_len: 512,
    exceptions: 70,
    is_disordered: false,
    is_stale: false,
    has_record: true,
};

#[test]
fn a_merge_may_be_cut_off_at_any_write() {
    let mut images = 0;
    for (chunk_len, exceptions, chunks) in [
        // 32, 64 and 256 entries an area.
        (512, 70, 40),
        (512, 70, 7),
        (512, 32, 32),
        (512, 33, 1000),
        (1024, 150, 90),
        (1024, 128, 33),
        (4096, 300, 270),
        (4096, 250, 100),
    ] {
        for (is_disordered, is_stale, has_record) in [
            (false, false, true),
            (true, true, true),
            (true, false, false),
        ] {
            let shape = Shape {
                chunk_len,
                exceptions,
                is_disordered,
                is_stale,
                has_record,
            };
            images += judged(shape, chunks)
                .unwrap_or_else(|e| panic!("{shape:?}, batches of {chunks}: {e}"));
        }
    }
    assert!(images > 2_000, "only {images} images");
}
