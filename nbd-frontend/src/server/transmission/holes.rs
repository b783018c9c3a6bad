//! Zeros in what was read, left out of what is sent.
//!
//! The data is looked at, not the device asked: where its holes begin and end can cost a device
//! more than the read itself (a seek for the end of data walks a whole file on some filesystems),
//! and zeros that are stored are worth as little as those that are not. Data whose blocks do not
//! begin with zeros costs one comparison a block.

use std::ops::Range;

use crate::proto::{Cookie, MAX_REPLY_HEADER, Replies};
use crate::server::limits::HOLE_BYTES;

/// The unit that is compared; holes begin and end at multiples of it.
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The first run of zero blocks behind `from` that is long enough to be a hole. `offset` is where
/// the data lies on the device.
#[inline]
pub(super) fn next(data: &[u8], from: usize, offset: u64) -> Option<Range<usize>> {
    let mut run = from..from;
    let mut at = from;
    while at < data.len() {
        // The first block ends where the device's does.
        let past_block = usize::try_from((offset + at as u64) % BLOCK as u64).unwrap_or(0);
        let end = data.len().min(at + BLOCK - past_block);
        let block = &data[at..end];
        if *block == ZEROS[..block.len()] {
            run.end = end;
        } else {
            if run.len() >= HOLE_BYTES {
                return Some(run);
            }
            run = end..end;
        }
        at = end;
    }
    (run.len() >= HOLE_BYTES).then_some(run)
}

/// A part of a read's reply, to be laid out as chunks.
pub(super) struct Layout {
    pub(super) replies: Replies,
    /// The request's cookie and offset.
    pub(super) id: (Cookie, u64),
    /// Where the data lies on the device.
    pub(super) offset: u64,
    /// The reply ends with this part.
    pub(super) last: bool,
}

impl Layout {
    /// Turns `len` bytes of data, which lie in `room` behind a header's length, into chunks at the
    /// front of `room`; `hole` is the first hole. Returns the length of the chunks.
    ///
    /// Data only ever moves to the left: a hole is longer than its chunk and another header.
    pub(super) fn leave_out(
        &self,
        room: &mut [u8],
        header_len: usize,
        len: usize,
        hole: Range<usize>,
    ) -> usize {
        const { assert!(HOLE_BYTES > 2 * MAX_REPLY_HEADER) };
        let mut added = 0;
        let mut at = 0;
        let mut hole = Some(hole);
        while at < len {
            let data = at..hole.as_ref().map_or(len, |hole| hole.start);
            if !data.is_empty() {
                let source = header_len + data.start..header_len + data.end;
                room.copy_within(source, added + header_len);
                let mut header = [0; MAX_REPLY_HEADER];
                let offset = self.offset + data.start as u64;
                let last = self.last && data.end == len;
                let data_len = short(data.len());
                self.replies
                    .read_data_header(&mut header, self.id, offset, data_len, last);
                room[added..added + header_len].copy_from_slice(&header[..header_len]);
                added += header_len + data.len();
            }
            at = data.end;
            if let Some(found) = hole {
                let mut chunk = [0; MAX_REPLY_HEADER];
                let offset = self.offset + found.start as u64;
                let last = self.last && found.end == len;
                let hole_len = short(found.len());
                let chunk_len = self
                    .replies
                    .read_hole(&mut chunk, self.id, offset, hole_len, last);
                room[added..added + chunk_len].copy_from_slice(&chunk[..chunk_len]);
                added += chunk_len;
                at = found.end;
                hole = next(&room[header_len..header_len + len], at, self.offset);
            }
        }
        added
    }
}

/// The length of something inside a piece.
fn short(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(shape: &[(u8, usize)]) -> Vec<u8> {
        shape
            .iter()
            .flat_map(|&(byte, len)| std::iter::repeat_n(byte, len))
            .collect()
    }

    #[test]
    fn a_run_of_zeros_is_found_if_it_is_long_enough() {
        let long = 4 * BLOCK;
        assert_eq!(next(&data(&[(0, long)]), 0, 0), Some(0..long));
        assert_eq!(next(&data(&[(0, long - 1)]), 0, 0), None);
        assert_eq!(
            next(&data(&[(1, BLOCK), (0, long), (1, 1)]), 0, 0),
            Some(BLOCK..BLOCK + long)
        );
        let twice = data(&[(0, long), (1, BLOCK), (0, long)]);
        assert_eq!(next(&twice, long, 0), Some(5 * BLOCK..9 * BLOCK));
        assert_eq!(next(&data(&[(1, 10 * BLOCK)]), 0, 0), None);
    }

    #[test]
    fn holes_begin_and_end_at_blocks_of_the_device_or_the_data() {
        let all = data(&[(0, 6 * BLOCK)]);
        assert_eq!(next(&all, 0, 100), Some(0..6 * BLOCK));
        // Data up to the middle of a block, at an offset of 100.
        let late = data(&[(1, 1), (0, 6 * BLOCK)]);
        assert_eq!(next(&late, 0, 100), Some(BLOCK - 100..6 * BLOCK + 1));
    }
}
