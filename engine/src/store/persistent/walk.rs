//! Reading a store's metadata: the header, then area after area up to the first that is not full.
//! Serving, checking, dumping and inspecting all see a store through this.

use usnap_format::{
    AreaIndex, AreaView, ChunkSize, DiskHeader, HEADER_LEN, Header, IDENTITY_OFFSET,
    IdentityRecord, Layout, NewChunk, SECTOR_SIZE,
};

use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::{SECTOR_LEN, to_usize};

/// The largest chunk size served, in bytes. The kernel's limit is 1 GiB; a crafted header of that
/// size must not make us allocate as much.
pub(crate) const MAX_CHUNK_BYTES: u64 = 16 << 20;

/// What the first bytes say while a store is restored over another one: neither we nor a kernel take
/// that for a store, and a kernel makes no new one there.
pub(crate) const RESTORING: [u8; HEADER_LEN] = *b"usnap restoring\n";

/// A store's header sector, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderSector {
    pub(crate) header: Header,
    /// The first 16 bytes as they were read.
    pub(crate) raw: [u8; HEADER_LEN],
    pub(crate) identity: std::result::Result<Option<IdentityRecord>, usnap_format::FormatError>,
}

/// Reads and validates the header. A device that begins with zeros is `Foreign` too.
///
/// # Errors
/// `Foreign`, `Corrupt` (a bad chunk size, or a device too small for it), `Io`.
pub(crate) fn read_header(device: &dyn BlockDevice) -> Result<HeaderSector> {
    let name = device.name();
    let size_bytes = device.size_bytes();
    let mut sector = [0; SECTOR_LEN];
    if size_bytes < SECTOR_SIZE {
        let what = if size_bytes == 0 {
            "is empty"
        } else {
            "holds less than one sector"
        };
        let context = format!("cannot use COW device {name}: it {what}");
        return Err(Error::new(ErrorKind::Foreign, context)
            .with_hint("`usnap create` makes a COW file, and `serve` where there is none yet"));
    }
    device.read_at(&mut sector, 0)?;
    let raw: [u8; HEADER_LEN] = sector.first_chunk().copied().unwrap_or_default();
    if raw == RESTORING {
        let context = format!("cannot use COW device {name}: restoring it was interrupted");
        return Err(Error::new(ErrorKind::Corrupt, context)
            .with_hint("restore it again, from the same dump: `usnap restore --over DUMP COW`"));
    }
    let header = DiskHeader::decode(&raw).validate().map_err(|e| {
        let error = Error::from(e);
        let kind = match e {
            usnap_format::FormatError::NewStore => ErrorKind::Foreign,
            _ => error.kind(),
        };
        let error = error
            .context(format!(
                "cannot use {name} as a COW device: its header is not a store's"
            ))
            .with_kind(kind);
        match kind {
            ErrorKind::Foreign => error.with_hint("is it the origin? The COW file is another"),
            _ => error,
        }
    })?;
    check_chunk_size(name, header.chunk_size, size_bytes)?;
    let record = sector.get(to_usize(IDENTITY_OFFSET)..).unwrap_or_default();
    let identity = IdentityRecord::decode(record, crc32fast::hash);
    Ok(HeaderSector {
        header,
        raw,
        identity,
    })
}

fn check_chunk_size(name: &str, chunk_size: ChunkSize, size_bytes: u64) -> Result<()> {
    let chunk_bytes = chunk_size.bytes();
    if chunk_bytes > MAX_CHUNK_BYTES {
        let context = format!(
            "cannot use COW device {name}: its chunk size of {chunk_bytes} bytes is larger than \
             {MAX_CHUNK_BYTES}, the largest that is served"
        );
        return Err(Error::new(ErrorKind::Corrupt, context));
    }
    if chunk_size.whole_chunks(size_bytes) < 2 {
        let context = format!(
            "cannot use COW device {name}: its {size_bytes} bytes do not hold two chunks of \
             {chunk_bytes} bytes, so the first metadata area is missing"
        );
        return Err(Error::new(ErrorKind::Corrupt, context)
            .with_hint("the file was cut off; restore its full size"));
    }
    Ok(())
}

/// What is said where an area can't be read.
pub(super) fn cannot_read_area(
    name: &str,
    index: AreaIndex,
    location: NewChunk,
    error: Error,
) -> Error {
    error.context(format!(
        "cannot read area {index} (chunk {location}) of COW device {name}"
    ))
}

/// Walks the metadata areas in order.
pub(crate) struct AreaWalk<'a> {
    device: &'a dyn BlockDevice,
    layout: Layout,
    device_chunks: u64,
    next: Option<AreaIndex>,
    bytes: Vec<u8>,
}

/// One area, as read.
pub(crate) struct Area<'a> {
    pub(crate) index: AreaIndex,
    pub(crate) location: NewChunk,
    pub(crate) bytes: &'a [u8],
    pub(crate) view: AreaView<'a>,
}

impl<'a> AreaWalk<'a> {
    /// A walk over the store on `device`, whose chunk size has been validated.
    pub(crate) fn new(device: &'a dyn BlockDevice, chunk_size: ChunkSize) -> Self {
        Self {
            device,
            layout: Layout::new(chunk_size),
            device_chunks: chunk_size.whole_chunks(device.size_bytes()),
            next: Some(AreaIndex(0)),
            bytes: vec![0; to_usize(chunk_size.bytes())],
        }
    }

    /// The area that would come next, and where, if that is not on the device.
    pub(crate) fn missing(&self) -> Option<(AreaIndex, NewChunk)> {
        let index = self.next?;
        let location = self.layout.area_location(index).unwrap_or_default();
        let is_inside = location != NewChunk::default() && location.0 < self.device_chunks;
        (!is_inside).then_some((index, location))
    }

    /// The next area, or `None` behind the last, which is the first that is not full.
    ///
    /// # Errors
    /// `Corrupt` where the area lies beyond the end of the device, `Io`.
    pub(crate) fn next_area(&mut self) -> Result<Option<Area<'_>>> {
        let Some(index) = self.next else {
            return Ok(None);
        };
        let name = self.device.name();
        let chunk_size = self.layout.chunk_size;
        let location = self.layout.area_location(index);
        let inside = location.filter(|location| location.0 < self.device_chunks);
        let (Some(location), Some(offset)) = (
            inside,
            inside.and_then(|location| chunk_size.new_to_offset(location)),
        ) else {
            let context = format!(
                "cannot read area {index} of COW device {name}: the areas before it are full, and \
                 it would lie at chunk {} of {}",
                location.unwrap_or_default(),
                self.device_chunks
            );
            return Err(Error::new(ErrorKind::Corrupt, context)
                .with_hint("the file was cut off, or filled by a kernel; extend it by a chunk"));
        };
        let read = self.device.read_at(&mut self.bytes, offset);
        read.map_err(|e| cannot_read_area(name, index, location, e))?;
        let view = AreaView::new(&self.bytes, chunk_size)?;
        self.next = view.is_full().then_some(AreaIndex(index.0 + 1));
        Ok(Some(Area {
            index,
            location,
            bytes: &self.bytes,
            view,
        }))
    }
}
