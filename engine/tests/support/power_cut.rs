//! What a power cut may leave: every sector has one of the values that it had since the last sync.

use std::collections::BTreeMap;

use crate::recorder::{Event, apply};

const SECTOR: usize = 512;

/// A device at one moment.
pub(crate) struct PowerCut {
    /// As of the last sync.
    durable: Vec<u8>,
    /// As a reader sees it.
    cached: Vec<u8>,
    /// The values that sectors got since the last sync, oldest first.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl PowerCut {
    pub(crate) fn new(image: Vec<u8>) -> Self {
        Self {
            cached: image.clone(),
            durable: image,
            unsynced: BTreeMap::new(),
        }
    }

    /// The device goes on.
    pub(crate) fn add(&mut self, event: &Event) {
        apply(&mut self.cached, event);
        let range = match event {
            Event::Write { offset, data } => *offset..offset + data.len(),
            Event::Zero { offset, len } | Event::Discard { offset, len } => *offset..offset + len,
            Event::Reserve { .. } => return,
            Event::Sync => {
                self.durable.clone_from(&self.cached);
                self.unsynced.clear();
                return;
            }
        };
        for sector in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            let value = self.cached[sector * SECTOR..][..SECTOR].to_vec();
            self.unsynced.entry(sector).or_default().push(value);
        }
    }

    /// The images that a cut now may leave: all of them, or `max` of them, chosen by `seed`.
    pub(crate) fn images(&self, max: u64, seed: u64) -> impl Iterator<Item = Vec<u8>> {
        let ways = self.unsynced.values().map(|values| values.len() as u64 + 1);
        let all = ways.fold(1_u64, u64::saturating_mul);
        let mut random = seed;
        (0..all.min(max)).map(move |n| {
            // A number in mixed digits, a digit a sector; or digits at random.
            let mut digits = n;
            let mut image = self.durable.clone();
            for (sector, values) in &self.unsynced {
                let ways = values.len() as u64 + 1;
                let digit = if all <= max {
                    let digit = digits % ways;
                    digits /= ways;
                    digit
                } else {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    (random >> 20) % ways
                };
                let digit = usize::try_from(digit).expect("few values");
                if let Some(value) = digit.checked_sub(1).and_then(|i| values.get(i)) {
                    image[sector * SECTOR..][..SECTOR].copy_from_slice(value);
                }
            }
            image
        })
    }
}
