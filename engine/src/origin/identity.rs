//! What an origin is recognised by: its size, its modification time, and a checksum over a sample
//! of its content. A sample proves difference, never sameness: a byte changed between the sampled
//! places, with the modification time put back, goes unseen.

use std::os::unix::fs::MetadataExt;

use crc32fast::Hasher;
use usnap_format::OriginIdentity;

use crate::device::{BlockDevice, FileDevice};
use crate::error::Result;
use crate::num::to_usize;

/// Scheme 1: the first and the last 64 KiB, where partition tables and superblocks lie, and 4 KiB
/// at each of 255 places between, evenly spaced.
pub(crate) const SAMPLE_SCHEME: u32 = 1;
/// Scheme 2, of an origin with layers: scheme 1 over what they show, and what each of them changes
/// (`layers.rs`).
pub(crate) const LAYERED_SCHEME: u32 = 2;
const END_BYTES: u64 = 64 << 10;
const PLACES: u64 = 256;
const PLACE_BYTES: u64 = 4 << 10;

/// The identity of an origin.
///
/// # Errors
/// `Io`.
pub(crate) fn of(device: &FileDevice, size_bytes: u64) -> Result<OriginIdentity> {
    let (mtime_s, mtime_ns) = mtime(device);
    Ok(OriginIdentity {
        size_bytes,
        sample_scheme: SAMPLE_SCHEME,
        sample_crc32: sample(device, size_bytes)?,
        mtime_s,
        mtime_ns,
    })
}

/// The modification time of a file; none of a block device.
pub(crate) fn mtime(device: &FileDevice) -> (i64, u32) {
    match device.file().metadata() {
        Ok(metadata) if !device.is_block() => (
            metadata.mtime(),
            u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        ),
        _ => (0, 0),
    }
}

/// The checksum of scheme 1 over a device of `size_bytes`.
///
/// # Errors
/// `Io`.
pub(crate) fn sample(device: &dyn BlockDevice, size_bytes: u64) -> Result<u32> {
    let mut hasher = Hasher::new();
    hasher.update(&size_bytes.to_le_bytes());
    let mut buf = vec![0; to_usize(END_BYTES)];
    let mut add = |offset: u64, len: u64| -> Result<()> {
        let len = len.min(size_bytes - offset);
        let Some(piece) = buf.get_mut(..to_usize(len)) else {
            return Ok(());
        };
        device.read_at(piece, offset)?;
        hasher.update(piece);
        Ok(())
    };
    add(0, END_BYTES)?;
    for place in 1..PLACES {
        // In 128 bits: the product of a size and a count may not fit in 64.
        let offset = u128::from(size_bytes) * u128::from(place) / u128::from(PLACES);
        let offset = u64::try_from(offset).unwrap_or(0) / PLACE_BYTES * PLACE_BYTES;
        add(offset, PLACE_BYTES)?;
    }
    add(size_bytes.saturating_sub(END_BYTES), END_BYTES)?;
    Ok(hasher.finalize())
}
