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
                self.check_range(sector * SECTOR, &new)?;
                self.may_be(sector, old);
                self.now[sector * SECTOR..][..SECTOR].copy_from_slice(&new);
            }
        }
        Ok(())
    }

    /// What there is now is durable.
    pub(crate) fn flush(&mut self) {
        self.flush_but(&[]);
    }

    /// The same, but not of these ranges: somebody is at work there.
    pub(crate) fn flush_but(&mut self, ranges: &[(usize, usize)]) {
        self.before.retain(|sector, _| {
            let is_in = |(offset, len): &(usize, usize)| sectors(*offset, *len).contains(sector);
            ranges.iter().any(is_in)
        });
    }

    /// Whether each sector has one of its values.
    pub(crate) fn check(&self, content: &[u8]) -> Result<(), String> {
        if content.len() != self.now.len() {
            return Err(format!("{} bytes long", content.len()));
        }
        self.check_range(0, content)
    }

    /// The same of some bytes at `offset`, which may begin and end inside a sector.
    pub(crate) fn check_range(&self, offset: usize, found: &[u8]) -> Result<(), String> {
        for sector in sectors(offset, found.len()) {
            let start = (sector * SECTOR).max(offset);
            let end = ((sector + 1) * SECTOR).min(offset + found.len());
            let here = &found[start - offset..end - offset];
            if self.now[start..end] == *here {
                continue;
            }
            let within = start - sector * SECTOR..end - sector * SECTOR;
            let before = self.before.get(&sector).map_or(&[][..], Vec::as_slice);
            let is_known = |value: &Sector| value[within.clone()] == *here;
            if !before.iter().any(is_known) {
                return Err(self.complaint(sector, here, within.start));
            }
        }
        Ok(())
    }

    /// Says what a sector holds, from byte `within` on, and what it might.
    fn complaint(&self, sector: usize, found: &[u8], within: usize) -> String {
        let words = |bytes: &[u8]| -> String {
            let (head, tail) = bytes.split_at(bytes.len() / 2);
            let first = |part: &[u8]| part.iter().take(4).map(|b| format!("{b:02x}")).collect();
            let (head, tail): (String, String) = (first(head), first(tail));
            format!("{head} {tail}")
        };
        let before = self.before.get(&sector).map_or(&[][..], Vec::as_slice);
        let before: Vec<String> = before.iter().map(|v| words(&v[within..])).collect();
        format!(
            "sector {sector} is {}, should be {} or one of {before:?}",
            words(found),
            words(&sector_of(&self.now, sector)[within..])
        )
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
