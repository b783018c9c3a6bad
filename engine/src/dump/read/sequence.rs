//! What must hold in any dump, whatever its form: the header first, areas in order and full up to
//! the last, entries that end no area, and an end that counts them.

use usnap_format::{
    AreaIndex, ChunkSize, DiskException, EXCEPTION_LEN, Exception, Header, IDENTITY_OFFSET,
    IdentityRecord, Label, Layout, NewChunk, OldChunk, OriginIdentity,
};

use super::{Fault, Read};
use crate::dump::{RECORD_END, StoreHeader, VERSION, Visitor};
use crate::error::{Error, ErrorKind};
use crate::store::persistent::walk::MAX_CHUNK_BYTES;

/// What a dump says before the first area.
#[derive(Default)]
pub(super) struct Head {
    pub(super) valid: u32,
    pub(super) chunk_size_sectors: u32,
    pub(super) cow_size_bytes: u64,
    pub(super) origin: Option<OriginIdentity>,
    pub(super) label: Option<Label>,
    pub(super) record: Option<IdentityRecord>,
}

impl Head {
    /// The chunk size, and how many of them there are, if a store can be like that.
    pub(super) fn check(&self) -> Read<(ChunkSize, u64)> {
        let chunk_size = ChunkSize::from_sectors(self.chunk_size_sectors)
            .map_err(|error| Fault::new(error.to_string()))?;
        if chunk_size.bytes() > MAX_CHUNK_BYTES {
            return Err(Fault::new(format!(
                "a chunk size of {} bytes is larger than {MAX_CHUNK_BYTES}",
                chunk_size.bytes()
            )));
        }
        let device_chunks = chunk_size.whole_chunks(self.cow_size_bytes);
        if device_chunks < 2 {
            return Err(Fault::new(format!(
                "cow_size_bytes {} do not hold two chunks of {} bytes",
                self.cow_size_bytes,
                chunk_size.bytes()
            )));
        }
        Ok((chunk_size, device_chunks))
    }

    /// The record that all of it makes, if there is any. Version 1 shows none by itself.
    fn record(&self) -> Option<IdentityRecord> {
        let is_there = self.record.is_some() || self.origin.is_some() || self.label.is_some();
        is_there.then(|| IdentityRecord {
            origin: self.origin,
            label: self.label.unwrap_or_default(),
            ..self.record.unwrap_or_default()
        })
    }
}

/// Whether a version of dumps is read.
pub(super) fn check_version(version: u64) -> Read<()> {
    if (1..=VERSION).contains(&version) {
        return Ok(());
    }
    Err(Fault::new(format!(
        "version {version} of dumps is not known, only those up to {VERSION}"
    )))
}

/// A label, of its text.
pub(super) fn label(text: &str) -> Read<Label> {
    Label::new(text).map_err(|error| Fault::new(error.to_string()))
}

/// The store that was begun.
struct Store {
    layout: Layout,
    device_chunks: u64,
    /// Bytes below this offset of the header chunk were shown.
    padding_from: u64,
}

/// Shows a dump's parts to a visitor, each checked.
pub(super) struct Sequence<'v> {
    visitor: &'v mut dyn Visitor,
    repack: bool,
    store: Option<Store>,
    /// The area that was begun last.
    area: Option<AreaIndex>,
    /// The exceptions in it.
    in_area: u64,
    /// Bytes below this offset of it were shown as junk; 0 where none were.
    junk_from: u64,
    exceptions: u64,
    has_missing: bool,
}

impl<'v> Sequence<'v> {
    pub(super) fn new(visitor: &'v mut dyn Visitor, repack: bool) -> Self {
        Self {
            visitor,
            repack,
            store: None,
            area: None,
            in_area: 0,
            junk_from: 0,
            exceptions: 0,
            has_missing: false,
        }
    }

    /// All that comes before padding and areas.
    pub(super) fn head(&mut self, head: &Head) -> Read<()> {
        let (chunk_size, device_chunks) = head.check()?;
        let identity = head.record();
        self.store = Some(Store {
            layout: Layout::new(chunk_size),
            device_chunks,
            padding_from: identity.map_or(IDENTITY_OFFSET, |_| RECORD_END),
        });
        let header = Header {
            valid: head.valid,
            chunk_size,
        };
        Ok(self.visitor.header(&StoreHeader {
            header,
            identity,
            identity_damage: None,
            cow_size_bytes: head.cow_size_bytes,
        })?)
    }

    fn store(&mut self) -> Read<&mut Store> {
        self.store
            .as_mut()
            .ok_or_else(|| Fault::new("the header has to come before this"))
    }

    /// Bytes of the header chunk.
    pub(super) fn padding(&mut self, offset: u64, bytes: &[u8]) -> Read<()> {
        if self.area.is_some() {
            return Err(Fault::new("padding has to come before the first area"));
        }
        let store = self.store()?;
        let end = range_end(
            offset,
            bytes,
            store.padding_from,
            store.layout.chunk_size.bytes(),
        )?;
        store.padding_from = end;
        Ok(self.visitor.padding(offset, bytes)?)
    }

    /// An area begins.
    pub(super) fn area(&mut self, area: u64, chunk: u64) -> Read<()> {
        self.store()?;
        if self.repack {
            return Ok(());
        }
        self.begin_area(AreaIndex(area), NewChunk(chunk))
    }

    /// Whether the area begun last has all the exceptions that it can.
    fn is_full(&mut self) -> Read<bool> {
        let per_area = self.store()?.layout.chunk_size.exceptions_per_area();
        Ok(self.in_area == per_area)
    }

    fn check_next(&mut self, area: AreaIndex, chunk: NewChunk) -> Read<()> {
        let expected = AreaIndex(self.area.map_or(0, |area| area.0 + 1));
        if area != expected || self.has_missing {
            return Err(Fault::new(format!(
                "area {area} does not come here, area {expected} does"
            )));
        }
        if self.area.is_some() && !self.is_full()? {
            let in_area = self.in_area;
            return Err(Fault::new(format!(
                "the area before has only {in_area} exceptions, which ends the store there (were \
                 lines removed? --repack fills the areas anew)"
            )));
        }
        let location = self.store()?.layout.area_location(area);
        if location != Some(chunk) {
            let location = location.unwrap_or_default();
            return Err(Fault::new(format!(
                "area {area} lies at chunk {location}, not {chunk}"
            )));
        }
        Ok(())
    }

    fn begin_area(&mut self, area: AreaIndex, chunk: NewChunk) -> Read<()> {
        self.check_next(area, chunk)?;
        let device_chunks = self.store()?.device_chunks;
        if chunk.0 >= device_chunks {
            return Err(Fault::new(format!(
                "area {area} would lie at chunk {chunk} of {device_chunks}"
            )));
        }
        (self.area, self.in_area, self.junk_from) = (Some(area), 0, 0);
        Ok(self.visitor.area(area, chunk)?)
    }

    /// An exception of the area that was begun last.
    pub(super) fn exception(&mut self, old_chunk: u64, new_chunk: u64) -> Read<()> {
        if new_chunk == 0 {
            return Err(Fault::new(
                "new chunk 0 is no exception, it ends the areas there",
            ));
        }
        if self.repack && (self.area.is_none() || self.is_full()?) {
            let area = AreaIndex(self.area.map_or(0, |area| area.0 + 1));
            let location = self.store()?.layout.area_location(area).unwrap_or_default();
            self.begin_area(area, location)?;
        }
        let Some(area) = self.area else {
            return Err(Fault::new("an area has to come before an exception"));
        };
        if self.is_full()? {
            let in_area = self.in_area;
            return Err(Fault::new(format!(
                "area {area} has {in_area} exceptions, and no room for another (--repack fills the \
                 areas anew)"
            )));
        }
        if self.junk_from > 0 || self.has_missing {
            return Err(Fault::new("an exception comes before this, not behind it"));
        }
        let exception = Exception {
            old_chunk: OldChunk(old_chunk),
            new_chunk: NewChunk(new_chunk),
        };
        let index = self.in_area;
        self.in_area += 1;
        self.exceptions += 1;
        Ok(self.visitor.exception(area, index, exception)?)
    }

    /// Bytes behind the last exception of the area that was begun last.
    pub(super) fn junk(&mut self, offset: u64, bytes: &[u8]) -> Read<()> {
        if self.repack {
            return Ok(());
        }
        let Some(area) = self.area else {
            return Err(Fault::new("an area has to come before junk"));
        };
        let end = self.store()?.layout.chunk_size.bytes();
        let terminator = self.in_area * EXCEPTION_LEN as u64;
        self.junk_from = range_end(offset, bytes, self.junk_from.max(terminator), end)?;
        let mut entry = [0; EXCEPTION_LEN];
        for (at, byte) in (offset..).zip(bytes) {
            let place = at.checked_sub(terminator).map(usize::try_from);
            if let Some(Ok(place)) = place
                && let Some(place) = entry.get_mut(place)
            {
                *place = *byte;
            }
        }
        if !DiskException::decode(&entry).is_terminator() {
            return Err(Fault::new(
                "it begins with an exception: the area would not end here",
            ));
        }
        Ok(self.visitor.junk(area, offset, bytes)?)
    }

    /// The next area does not lie on the device.
    pub(super) fn missing_area(&mut self, area: u64, chunk: u64) -> Read<()> {
        self.store()?;
        if self.repack {
            return Ok(());
        }
        let (area, chunk) = (AreaIndex(area), NewChunk(chunk));
        if self.area.is_none() {
            return Err(Fault::new("area 0 is never missing"));
        }
        self.check_next(area, chunk)?;
        let device_chunks = self.store()?.device_chunks;
        if chunk.0 < device_chunks {
            return Err(Fault::new(format!(
                "area {area} is not missing: the device has {device_chunks} chunks"
            )));
        }
        self.show_missing(area, chunk)
    }

    fn show_missing(&mut self, area: AreaIndex, chunk: NewChunk) -> Read<()> {
        self.has_missing = true;
        let error = Error::new(ErrorKind::Corrupt, format!("cannot read area {area}"));
        Ok(self.visitor.missing_area(area, chunk, error)?)
    }

    /// The end, with the number of exceptions that it tells.
    pub(super) fn end(&mut self, exceptions: u64) -> Read<()> {
        self.store()?;
        if self.repack {
            return self.end_repacked();
        }
        if exceptions != self.exceptions {
            let found = self.exceptions;
            return Err(Fault::new(format!(
                "there are {found} exceptions, and the end says {exceptions} (were lines removed or \
                 added? --repack takes them as they are)"
            )));
        }
        if self.area.is_none() {
            return Err(Fault::new("there is no area"));
        }
        if self.is_full()? && !self.has_missing {
            return Err(Fault::new(
                "the last area is full, and the one behind it is not here",
            ));
        }
        Ok(())
    }

    /// The area with the terminator, where the exceptions end with a full one.
    fn end_repacked(&mut self) -> Read<()> {
        if self.area.is_some() && !self.is_full()? {
            return Ok(());
        }
        let area = AreaIndex(self.area.map_or(0, |area| area.0 + 1));
        let store = self.store()?;
        let location = store.layout.area_location(area).unwrap_or_default();
        if location.0 < store.device_chunks {
            return self.begin_area(area, location);
        }
        self.show_missing(area, location)
    }
}

/// The end of a range, which must lie in these limits.
fn range_end(offset: u64, bytes: &[u8], from: u64, to: u64) -> Read<u64> {
    let end = offset.checked_add(bytes.len() as u64);
    match end.filter(|end| offset >= from && *end <= to) {
        Some(end) => Ok(end),
        None => Err(Fault::new(format!(
            "{} bytes at {offset} do not lie between {from} and {to}",
            bytes.len()
        ))),
    }
}
