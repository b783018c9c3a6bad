//! Going through a device in pieces: data, and zeros of which nothing is read where they are holes.

use std::ops::Range;

use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

/// One read is at most so long.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;
/// Runs of zeros are looked for in blocks of this size, which filesystems allocate.
const BLOCK_LEN: usize = 4096;

/// What a piece is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Data(&'a [u8]),
    /// So many bytes of zeros.
    Zeros(u64),
}

/// How a range is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holes {
    /// The device is asked where they are.
    Asked,
    /// What is read tells. For where asking costs more than reading: small pieces all over a file.
    Read,
}

/// Hands the range to `see`, in order and without a gap. `buf` has `PIECE_BYTES`.
pub(crate) fn each_piece(
    device: &dyn BlockDevice,
    range: Range<u64>,
    holes: Holes,
    buf: &mut [u8],
    see: &mut dyn FnMut(u64, Piece<'_>) -> Result<()>,
) -> Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let mut data_end = range.end;
        if holes == Holes::Asked {
            let extent = device.extent_at(offset, range.end - offset)?;
            data_end = offset + extent.len;
            if extent.zero {
                see(offset, Piece::Zeros(extent.len))?;
                offset = data_end;
                continue;
            }
        }
        while offset < data_end {
            // To the next whole piece, so that reads are aligned.
            let len = (PIECE_BYTES - offset % PIECE_BYTES).min(data_end - offset);
            let Some(buf) = buf.get_mut(..to_usize(len)) else {
                let context = format!("cannot read {len} bytes at once");
                return Err(Error::new(ErrorKind::OutOfRange, context));
            };
            device.read_at(buf, offset)?;
            split(buf, offset, see)?;
            offset += len;
        }
    }
    Ok(())
}

/// Splits what was read into data and zeros, at multiples of a block of the device.
fn split(
    bytes: &[u8],
    mut offset: u64,
    see: &mut dyn FnMut(u64, Piece<'_>) -> Result<()>,
) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let first = BLOCK_LEN - to_usize(offset % BLOCK_LEN as u64);
        let zero = is_zero(rest.get(..first).unwrap_or(rest));
        let mut len = first.min(rest.len());
        while let Some(block) = rest.get(len..).filter(|block| !block.is_empty()) {
            let block = block.get(..BLOCK_LEN).unwrap_or(block);
            if is_zero(block) != zero {
                break;
            }
            len += block.len();
        }
        let (now, later) = rest.split_at(len);
        let piece = if zero {
            Piece::Zeros(len as u64)
        } else {
            Piece::Data(now)
        };
        see(offset, piece)?;
        offset += len as u64;
        rest = later;
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    // Compared with itself, a byte on: memcmp, whatever the optimiser makes of loops.
    match bytes {
        [] => true,
        [first, rest @ ..] => *first == 0 && bytes.get(..rest.len()) == Some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::{Holes, PIECE_BYTES, Piece, each_piece};
    use crate::device::{BlockDevice, MemDevice};

    fn pieces(bytes: &[u8], range: std::ops::Range<u64>) -> Vec<(u64, u64, bool)> {
        let device = MemDevice::from_bytes(bytes);
        let mut seen = Vec::new();
        let mut buf = vec![0; usize::try_from(PIECE_BYTES).unwrap()];
        each_piece(
            &device,
            range,
            Holes::Read,
            &mut buf,
            &mut |offset, piece| {
                seen.push(match piece {
                    Piece::Data(data) => {
                        let mut there = vec![0; data.len()];
                        device.read_at(&mut there, offset)?;
                        assert!(there == data);
                        (offset, data.len() as u64, false)
                    }
                    Piece::Zeros(len) => (offset, len, true),
                });
                Ok(())
            },
        )
        .unwrap();
        seen
    }

    #[test]
    fn zeros_are_told_apart_by_blocks_of_the_device() {
        let mut bytes = vec![0; 40_000];
        bytes[9000] = 1;
        assert_eq!(
            pieces(&bytes, 0..40_000),
            [(0, 8192, true), (8192, 4096, false), (12_288, 27_712, true)]
        );
        assert_eq!(
            pieces(&bytes, 8999..9010),
            [(8999, 11, false)],
            "parts of a block"
        );
        assert_eq!(
            pieces(&bytes, 9001..20_000),
            [(9001, 10_999, true)],
            "what is not asked for does not count"
        );
        assert_eq!(pieces(&bytes, 7..7), []);
    }

    #[test]
    fn reads_end_at_whole_pieces() {
        let bytes = vec![7; (3 << 20) + 5];
        let seen = pieces(&bytes, 1000..bytes.len() as u64);
        let expected = [
            (1000, (1 << 20) - 1000, false),
            (1 << 20, 1 << 20, false),
            (2 << 20, 1 << 20, false),
            (3 << 20, 5, false),
        ];
        assert_eq!(seen, expected);
    }
}
