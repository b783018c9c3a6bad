//! Making a store, and writing its identity record.
//!
//! The order of a new store (DESIGN.md, "Opening"): area 0 as zeros, sync, then the header with the
//! identity record, sync. Until the header is there the device is no store, so no cut can bring
//! old bytes in area 0 alive.

use usnap_format::{
    AreaIndex, ChunkSize, HEADER_LEN, Header, IDENTITY_LEN, IDENTITY_OFFSET, IdentityRecord, Layout,
};

use super::commit::area_offset;
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::{SECTOR_LEN, to_usize};

/// So much of a block device must be zeros for it to count as unused: filesystems that leave their
/// beginning alone have their superblock within it.
const UNUSED_BYTES: u64 = 1 << 20;

/// Whether nothing is on the device: a block device is zeros where a store or a filesystem would
/// begin, of anything else every byte is zero. Holes are not read.
///
/// # Errors
/// `Io`.
pub(crate) fn is_unused(device: &dyn BlockDevice, is_block: bool) -> Result<bool> {
    let size_bytes = device.size_bytes();
    let end = if is_block {
        size_bytes.min(UNUSED_BYTES)
    } else {
        size_bytes
    };
    let mut buf = vec![0; to_usize(UNUSED_BYTES)];
    let mut offset = 0;
    while offset < end {
        // A hole is passed at once, however large it is.
        let extent = device.extent_at(offset, end - offset)?;
        let mut len = extent.len;
        if !extent.zero {
            len = len.min(UNUSED_BYTES);
            let Some(piece) = buf.get_mut(..to_usize(len)) else {
                return Ok(false);
            };
            device.read_at(piece, offset)?;
            if piece.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
        offset += len;
    }
    Ok(true)
}

/// Writes an empty store to an unused device.
///
/// # Errors
/// `Usage` where the device does not hold two chunks, `NoSpace`, `Io`.
pub fn initialise(
    device: &dyn BlockDevice,
    chunk_size: ChunkSize,
    identity: Option<&IdentityRecord>,
) -> Result<()> {
    let name = device.name();
    if chunk_size.whole_chunks(device.size_bytes()) < 2 {
        let context = format!(
            "cannot make a store on {name}: its {} bytes do not hold two chunks of {} bytes",
            device.size_bytes(),
            chunk_size.bytes()
        );
        return Err(Error::new(ErrorKind::Usage, context)
            .with_hint("make the COW file larger or the chunk size smaller"));
    }
    let chunk_bytes = to_usize(chunk_size.bytes());
    let mut chunk = vec![0; chunk_bytes];
    let make = |chunk: &mut [u8]| {
        device.write_at(chunk, area_offset(Layout::new(chunk_size), AreaIndex(0))?)?;
        device.flush()?;
        if let Some(header) = chunk.first_chunk_mut::<HEADER_LEN>() {
            *header = Header::new(chunk_size).encode();
        }
        if let (Some(record), Some(identity)) = (record_in(chunk), identity) {
            *record = identity.encode(crc32fast::hash);
        }
        device.write_at(chunk, 0)?;
        device.flush()
    };
    make(&mut chunk).map_err(|e| e.context(format!("cannot make a store on {name}")))
}

fn record_in(chunk: &mut [u8]) -> Option<&mut [u8; IDENTITY_LEN]> {
    chunk
        .get_mut(to_usize(IDENTITY_OFFSET)..)?
        .first_chunk_mut()
}

/// Writes the identity record behind an existing header, touching no other byte: the kernel owns
/// the first 16, and may have set `valid` to 0 meanwhile (DESIGN.md, invariant 9).
///
/// # Errors
/// `Corrupt` where the header is not the one that was loaded, `NoSpace`, `Io`.
pub(crate) fn write_identity(
    device: &dyn BlockDevice,
    loaded_header: &[u8; HEADER_LEN],
    identity: &IdentityRecord,
) -> Result<()> {
    let write = || {
        let mut sector = [0; SECTOR_LEN];
        device.read_at(&mut sector, 0)?;
        if sector.first_chunk::<HEADER_LEN>() != Some(loaded_header) {
            let context = "the header changed since the store was opened";
            return Err(Error::new(ErrorKind::Corrupt, context)
                .with_hint("something else writes to this COW device; find it and stop it"));
        }
        device.write_at(&identity.encode(crc32fast::hash), IDENTITY_OFFSET)?;
        device.flush()
    };
    write().map_err(|e| {
        e.context(format!(
            "cannot write the identity record of COW device {}",
            device.name()
        ))
    })
}
