//! Ranges narrowed down to the sectors whose content differs.

use std::ops::Range;

use usnap_format::SECTOR_SIZE;

use crate::device::BlockDevice;
use crate::error::Result;
use crate::num::to_usize;
use crate::pieces::PIECE_BYTES;

/// Of some ranges those in which two devices differ, by sectors; neighbours are joined.
pub struct Exact<'a, I> {
    ranges: I,
    devices: [&'a dyn BlockDevice; 2],
    /// What is left of the range that is looked at; its beginning is in the buffers.
    left: Range<u64>,
    /// As much of it was read.
    read_end: u64,
    read_start: u64,
    bufs: [Vec<u8>; 2],
}

impl<'a, I: Iterator<Item = Range<u64>>> Exact<'a, I> {
    /// The ranges of `ranges` (ascending) in which `one` and `other` differ.
    pub fn new(ranges: I, one: &'a dyn BlockDevice, other: &'a dyn BlockDevice) -> Self {
        Self {
            ranges,
            devices: [one, other],
            left: 0..0,
            read_end: 0,
            read_start: 0,
            bufs: [(); 2].map(|()| vec![0; to_usize(PIECE_BYTES)]),
        }
    }

    /// The next one.
    ///
    /// # Errors
    /// `Io`.
    pub fn next_range(&mut self) -> Result<Option<Range<u64>>> {
        let mut found: Option<Range<u64>> = None;
        loop {
            if self.left.is_empty() {
                match self.ranges.next() {
                    Some(range) => self.left = range,
                    None => return Ok(found),
                }
                continue;
            }
            if self.left.start >= self.read_end || self.left.start < self.read_start {
                self.read()?;
            }
            let start = self.left.start;
            let end = ((start / SECTOR_SIZE + 1) * SECTOR_SIZE).min(self.left.end);
            let differs = self.differs(start..end);
            match &mut found {
                Some(range) if differs && range.end == start => range.end = end,
                // Looked at again by the next call.
                Some(_) => return Ok(found),
                None if differs => found = Some(start..end),
                None => {}
            }
            self.left.start = end;
        }
    }

    /// Fills the buffers from where we are to the next whole piece.
    fn read(&mut self) -> Result<()> {
        let start = self.left.start;
        let len = (PIECE_BYTES - start % PIECE_BYTES).min(self.left.end - start);
        for (device, buf) in self.devices.iter().zip(&mut self.bufs) {
            buf.resize(to_usize(len), 0);
            device.read_at(buf, start)?;
        }
        (self.read_start, self.read_end) = (start, start + len);
        Ok(())
    }

    fn differs(&self, range: Range<u64>) -> bool {
        let at = to_usize(range.start - self.read_start)..to_usize(range.end - self.read_start);
        let [one, other] = &self.bufs;
        one.get(at.clone()) != other.get(at)
    }
}

#[cfg(test)]
mod tests {
    use super::Exact;
    use crate::device::MemDevice;

    #[test]
    fn equal_sectors_are_left_out_and_neighbours_joined() {
        let one = vec![1; (3 << 20) + 100];
        let mut other = one.clone();
        let places = [0, 511, 512, 5000, (1 << 20) - 1, 1 << 20, (3 << 20) + 99];
        for at in places {
            other[at] = 2;
        }
        let size = one.len() as u64;
        let found = |ranges: &[std::ops::Range<u64>]| {
            let (one, other) = (MemDevice::from_bytes(&one), MemDevice::from_bytes(&other));
            let mut exact = Exact::new(ranges.iter().cloned(), &one, &other);
            let mut found = Vec::new();
            while let Some(range) = exact.next_range().unwrap() {
                found.push(range);
            }
            found
        };
        let mib = 1 << 20;
        let all = [
            0..1024,
            4608..5120,
            mib - 512..mib + 512,
            3 * mib..3 * mib + 100,
        ];
        assert_eq!(found(std::slice::from_ref(&(0..size))), all);
        assert_eq!(found(&[0..100, 4096..8192]), [0..100, 4608..5120]);
        let last = found(&[600..4096, 8192..mib]);
        assert_eq!(last, std::slice::from_ref(&(mib - 512..mib)));
        assert_eq!(found(std::slice::from_ref(&(1024..2048))), []);
        assert_eq!(found(&[]), []);
    }
}
