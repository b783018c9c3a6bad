//! Samples of what a diff does not change, by which the device is known that it is for: they are the
//! same before it is patched, after, and where that was interrupted.

use std::ops::Range;

use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

/// The device is divided into so many slots, of which one place each is sampled.
const SLOTS: u64 = 256;
/// How much of a slot, and of the first, where partition tables and superblocks lie.
const SAMPLE_BYTES: u64 = 4 << 10;
const FIRST_SAMPLE_BYTES: u64 = 64 << 10;

/// A place that is not changed, and the checksum of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u32,
    /// CRC-32 of the content.
    pub crc32: u32,
}

/// Samples `base` outside `changes`, which are ascending: the first unchanged bytes of each slot.
pub(super) fn choose(
    base: &dyn BlockDevice,
    changes: impl Iterator<Item = Range<u64>>,
) -> Result<Vec<Sample>> {
    let size_bytes = base.size_bytes();
    let mut samples = Vec::new();
    let mut next_slot = 0;
    let mut at = 0;
    // In 128 bits: the product of a size and a count may not fit in 64.
    let slot_start = |slot: u64| {
        let start = u128::from(size_bytes) * u128::from(slot) / u128::from(SLOTS);
        u64::try_from(start).unwrap_or(u64::MAX)
    };
    for change in changes.chain(std::iter::once(size_bytes..size_bytes)) {
        let unchanged = at..change.start;
        at = change.end;
        while next_slot < SLOTS && !unchanged.is_empty() {
            let slot = slot_start(next_slot)..slot_start(next_slot + 1);
            if slot.end <= unchanged.start {
                next_slot += 1;
                continue;
            }
            let start = slot.start.max(unchanged.start);
            let most = if next_slot == 0 {
                FIRST_SAMPLE_BYTES
            } else {
                SAMPLE_BYTES
            };
            let end = unchanged.end.min(slot.end).min(start.saturating_add(most));
            if start >= end {
                break;
            }
            samples.push(sample(base, start..end)?);
            next_slot += 1;
        }
    }
    Ok(samples)
}

fn sample(device: &dyn BlockDevice, range: Range<u64>) -> Result<Sample> {
    let len = range.end - range.start;
    let mut bytes = vec![0; to_usize(len)];
    device.read_at(&mut bytes, range.start)?;
    Ok(Sample {
        offset: range.start,
        len: u32::try_from(len).unwrap_or(u32::MAX),
        crc32: crc32fast::hash(&bytes),
    })
}

/// Compares a device with samples that lie inside it.
///
/// # Errors
/// `OriginMismatch`, `Io`.
pub(crate) fn verify(device: &dyn BlockDevice, samples: &[Sample]) -> Result<()> {
    for wanted in samples {
        let range = wanted.offset..wanted.offset + u64::from(wanted.len);
        if sample(device, range)? != *wanted {
            let context = format!(
                "{} is not what the diff was made for: its content at {} is another, and the diff \
                 does not change it",
                device.name(),
                wanted.offset
            );
            return Err(Error::new(ErrorKind::OriginMismatch, context)
                .with_hint("use a copy of that origin; or, if you are certain, --force"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{choose, verify};
    use crate::device::{BlockDevice, MemDevice};

    #[test]
    fn what_changes_is_not_sampled_and_all_else_is_known_again() {
        let bytes: Vec<u8> = (0..3_000_000_u32)
            .map(|i| u8::try_from(i / 7 % 256).unwrap())
            .collect();
        let device = MemDevice::from_bytes(&bytes);
        let changes = [0..5000, 60_000..1_000_000, 2_999_999..3_000_000];
        let samples = choose(&device, changes.iter().cloned()).unwrap();
        assert!(
            samples.len() > 150 && samples.len() <= 256,
            "{}",
            samples.len()
        );
        for sample in &samples {
            let range = sample.offset..sample.offset + u64::from(sample.len);
            let overlaps = |c: &&std::ops::Range<u64>| c.start < range.end && range.start < c.end;
            assert_eq!(changes.iter().find(overlaps), None);
        }
        verify(&device, &samples).unwrap();
        device.write_at(&[0xff; 5000], 0).unwrap();
        device.write_at(&[0xff; 900_000], 80_000).unwrap();
        verify(&device, &samples).unwrap();
        device.write_at(&[bytes[5000] ^ 1], 5000).unwrap();
        verify(&device, &samples).unwrap_err();
    }

    #[test]
    fn small_devices_and_those_that_change_whole_have_fewer_samples() {
        let device = MemDevice::from_bytes(&[7; 100]);
        let samples = choose(&device, std::iter::empty()).unwrap();
        assert!(!samples.is_empty() && samples.len() <= 100);
        assert_eq!(choose(&device, std::iter::once(0..100)).unwrap(), []);
        assert_eq!(choose(&device, std::iter::once(0..99)).unwrap().len(), 1);
    }
}
