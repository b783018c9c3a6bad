//! One walk over a store's metadata for everything that shows it: text, JSON, a status at rest. And
//! the way back: what a dump says, shown to the same visitor.

mod read;
mod status;
mod write;

use std::path::Path;

use usnap_format::{
    AreaIndex, EXCEPTION_LEN, Exception, FormatError, Header, IDENTITY_LEN, IDENTITY_OFFSET,
    IdentityRecord, NewChunk,
};

use crate::device::{BlockDevice, FileDevice};
use crate::error::{Error, Result};
use crate::num::to_usize;
use crate::store::persistent::walk::{AreaWalk, HeaderSector, read_header};

pub use read::{ReadOptions, read};
pub(crate) use status::Summary;
pub use status::status;
pub use write::{DumpForm, DumpWriter};

/// The version of the dumps that are written; earlier ones are read, too.
const VERSION: u64 = 2;

/// Bytes that mean nothing are shown in pieces of so many.
const PIECE_LEN: usize = 32;

/// As an identity record's end, where there is one: so many bytes of the header mean something.
const RECORD_END: u64 = IDENTITY_OFFSET + IDENTITY_LEN as u64;

/// What a walk shows first.
#[derive(Clone, Debug)]
pub struct StoreHeader {
    /// The header.
    pub header: Header,
    /// The identity record, if there is one that can be read.
    pub identity: Option<IdentityRecord>,
    /// What is wrong with the identity record, if it is damaged.
    pub identity_damage: Option<FormatError>,
    /// Size of the COW device in bytes.
    pub cow_size_bytes: u64,
}

/// Sees a store's metadata in order: the header, then each area with its exceptions.
pub trait Visitor {
    /// The header; always first.
    ///
    /// # Errors
    /// Any error ends the walk and is handed on.
    fn header(&mut self, header: &StoreHeader) -> Result<()>;

    /// An area begins, at this chunk of the COW device.
    ///
    /// # Errors
    /// As `header`.
    fn area(&mut self, area: AreaIndex, location: NewChunk) -> Result<()>;

    /// An exception, in the order of the store.
    ///
    /// # Errors
    /// As `header`.
    fn exception(&mut self, area: AreaIndex, index: u64, exception: Exception) -> Result<()>;

    /// Bytes of the header chunk, from this offset in it on, that are neither the header, nor a
    /// record that can be read, nor zeros; ascending, in pieces, before the first area.
    ///
    /// # Errors
    /// As `header`.
    fn padding(&mut self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Bytes behind the last exception of an area, from this offset in it on, that are not zeros;
    /// ascending, in pieces.
    ///
    /// # Errors
    /// As `header`.
    fn junk(&mut self, _area: AreaIndex, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    /// The area before is full, and this one does not lie on the device. The error says so; who
    /// does not care swallows it.
    ///
    /// # Errors
    /// As `header`.
    fn missing_area(&mut self, _area: AreaIndex, _location: NewChunk, error: Error) -> Result<()> {
        Err(error)
    }
}

/// Walks over the store at `cow`. Nothing is locked or changed; entries are shown as they are,
/// believable or not, also those of a store that was invalidated.
///
/// # Errors
/// `Foreign`, `Corrupt` (the header, or an area that is not there), `NotFound`, `Io`, and what the
/// visitor says.
pub fn walk(cow: &Path, visitor: &mut dyn Visitor) -> Result<()> {
    let device = FileDevice::open_read_only(cow)
        .map_err(|e| e.context(format!("cannot read {}", cow.display())))?;
    walk_device(&device, visitor)
}

/// As `walk`, of any device.
///
/// # Errors
/// As `walk`.
pub fn walk_device(device: &dyn BlockDevice, visitor: &mut dyn Visitor) -> Result<()> {
    let sector = read_header(device)?;
    visitor.header(&StoreHeader {
        header: sector.header,
        identity: sector.identity.ok().flatten(),
        identity_damage: sector.identity.err(),
        cow_size_bytes: device.size_bytes(),
    })?;
    show_padding(device, &sector, visitor)?;
    let mut areas = AreaWalk::new(device, sector.header.chunk_size);
    loop {
        let missing = areas.missing();
        let area = match (areas.next_area(), missing) {
            (Ok(None), _) => return Ok(()),
            (Ok(Some(area)), _) => area,
            (Err(error), Some((area, location))) => {
                return visitor.missing_area(area, location, error);
            }
            (Err(error), None) => return Err(error),
        };
        visitor.area(area.index, area.location)?;
        let mut behind = 0;
        for (index, exception) in (0..).zip(area.view.exceptions()) {
            visitor.exception(area.index, index, exception)?;
            behind += EXCEPTION_LEN;
        }
        let junk = area.bytes.get(behind..).unwrap_or_default();
        for (offset, piece) in pieces(junk, behind as u64) {
            visitor.junk(area.index, offset, piece)?;
        }
    }
}

/// Shows what lies behind the header and its record.
fn show_padding(
    device: &dyn BlockDevice,
    sector: &HeaderSector,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    const STEP: u64 = 1 << 16;
    let mut offset = match sector.identity {
        Ok(Some(_)) => RECORD_END,
        _ => IDENTITY_OFFSET,
    };
    let end = sector.header.chunk_size.bytes();
    let mut buf = vec![0; to_usize(STEP.min(end))];
    while offset < end {
        let len = (end - offset).min(STEP);
        let Some(bytes) = buf.get_mut(..to_usize(len)) else {
            break;
        };
        device.read_at(bytes, offset)?;
        for (at, piece) in pieces(bytes, offset) {
            visitor.padding(at, piece)?;
        }
        offset += len;
    }
    Ok(())
}

/// The pieces of `bytes` that are not zeros, with their offsets where the first byte's is `first`.
fn pieces(bytes: &[u8], first: u64) -> impl Iterator<Item = (u64, &[u8])> {
    (first..)
        .step_by(PIECE_LEN)
        .zip(bytes.chunks(PIECE_LEN))
        .filter(|(_, piece)| piece.iter().any(|&byte| byte != 0))
}
