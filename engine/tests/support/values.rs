//! What a client may find: of each sector the value that it has, and those that it had since the
//! last flush.

use std::collections::BTreeMap;

use crate::random::Random;

const SECTOR: usize = 512;

/// A sector's content.
type Sector = [u8; SECTOR];

/// The content of a device, and its recent past.
#[derive(Clone)]
pub(crate) struct Values {
    now: Vec<u8>,
    /// What sectors were since the last flush, other than now.
    before: BTreeMap<usize, Vec<Sector>>,
}

fn sector_of(content: &[u8], sector: usize) -> Sector {
    *content[sector * SECTOR..]
        .first_chunk()
        .expect("devices are whole sectors")
}

fn sectors(offset: usize, len: usize) -> std::ops::Range<usize> {
    offset / SECTOR..(offset + len).div_ceil(SECTOR)
}

impl Values {
    pub(crate) fn new(content: Vec<u8>) -> Self {
        assert!(content.len().is_multiple_of(SECTOR));
        Self {
            now: content,
            before: BTreeMap::new(),
        }
    }

    /// The content, if nothing is lost.
    pub(crate) fn now(&self) -> &[u8] {
        &self.now
    }

    /// These bytes are being written: each sector has its old or its new value.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        for sector in sectors(offset, data.len()) {
            let old = sector_of(&self.now, sector);
            self.may_be(sector, old);
        }
        self.now[offset..offset + data.len()].copy_from_slice(data);
    }

    /// The sectors that lie in the range as a whole may be zeros, or what they were.
    pub(crate) fn trim(&mut self, offset: usize, len: usize) {
        for sector in offset.div_ceil(SECTOR)..(offset + len) / SECTOR {
            self.may_be(sector, [0; SECTOR]);
        }
    }

    fn may_be(&mut self, sector: usize, value: Sector) {
        let before = self.before.entry(sector).or_default();
        if !before.contains(&value) {
            before.push(value);
        }
    }

    /// What is found now, after something that may have been done or not, sector by sector.
    pub(crate) fn settle(&mut self, offset: usize, len: usize, found: &[u8]) -> Result<(), String> {
        for sector in sectors(offset, len) {
            let (old, new) = (sector_of(&self.now, sector), sector_of(found, sector));
            if old != new {
                self.check_sector(sector, &new)?;
                self.may_be(sector, old);
                self.now[sector * SECTOR..][..SECTOR].copy_from_slice(&new);
            }
        }
        Ok(())
    }

    /// What there is now is durable.
    pub(crate) fn flush(&mut self) {
        self.before.clear();
    }

    /// Whether each sector has one of its values.
    pub(crate) fn check(&self, content: &[u8]) -> Result<(), String> {
        if content.len() != self.now.len() {
            return Err(format!("{} bytes long", content.len()));
        }
        let pairs = content.chunks(SECTOR).zip(self.now.chunks(SECTOR));
        for (sector, (found, wanted)) in pairs.enumerate() {
            if found != wanted {
                self.check_sector(sector, found)?;
            }
        }
        Ok(())
    }

    fn check_sector(&self, sector: usize, found: &[u8]) -> Result<(), String> {
        let before = self.before.get(&sector).map_or(&[][..], Vec::as_slice);
        if before.iter().any(|value| value == found) {
            return Ok(());
        }
        let words = |sector: &[u8]| {
            let word = |at: usize| sector[at..at + 4].iter().map(|b| format!("{b:02x}"));
            word(0)
                .chain([" ".into()])
                .chain(word(256))
                .collect::<String>()
        };
        let before: Vec<String> = before.iter().map(|value| words(value)).collect();
        Err(format!(
            "sector {sector} is {}, should be {} or one of {before:?}",
            words(found),
            words(&sector_of(&self.now, sector))
        ))
    }
}

/// Bytes that say by whom (`stamp`) and for which place they were written.
pub(crate) fn payload(stamp: u64, offset: usize, len: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(len + SECTOR);
    for sector in sectors(offset, len) {
        let word = Random::new(stamp << 20 ^ sector as u64).next() | 1;
        data.extend(std::iter::repeat_n(word.to_le_bytes(), SECTOR / 8).flatten());
    }
    data.drain(..offset % SECTOR);
    data.truncate(len);
    data
}
