//! Making a store's metadata from a dump, bit for bit. A dump has no data: into a new file the data
//! chunks are holes, over an existing store they stay what they are.
//!
//! The order over an existing store (DESIGN.md, "Restore"): sector 0 becomes what nobody takes for a
//! store, sync; area 0 as zeros, sync; all other areas and the rest of the header chunk, sync; area
//! 0, sync; sector 0, sync. A cut leaves the old store, no store, or the new one.

use std::path::Path;

use usnap_format::{
    AreaIndex, ChunkSize, EXCEPTION_LEN, Exception, HEADER_LEN, IDENTITY_LEN, IDENTITY_OFFSET,
    IdentityRecord, Layout, NewChunk, encode_exception,
};

use crate::check::find_header;
use crate::device::{BlockDevice, FileDevice, ZeroFlags, lock_cow};
use crate::dump::{StoreHeader, Visitor};
use crate::error::{Error, ErrorKind, Result};
use crate::num::{SECTOR_LEN, to_usize};
use crate::snapshot::{JournalMode, WaitingJournal, count, end_session, journal_waiting_on};
use crate::store::cow_file::{is_block, refuse_if_used};
use crate::store::new_file::NewFile;
use crate::store::persistent::open::why_refused;
use crate::store::persistent::walk::{RESTORING, read_header};

/// Shows a dump to a visitor, from its beginning each time.
pub type Source<'a> = dyn FnMut(&mut dyn Visitor) -> Result<()> + 'a;

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Exceptions.
    pub exceptions: u64,
    /// Areas, the one with the terminator included.
    pub areas: u64,
    /// Size of the COW device in bytes.
    pub size_bytes: u64,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

/// Makes a store of its own: a new sparse file, or on an unused block device. A file appears only
/// when it is complete.
///
/// # Errors
/// `Exists`, `NoSpace`, `Usage` (a block device that is too small), `Io`, and what the source says.
pub fn restore_new(path: &Path, source: &mut Source<'_>) -> Result<Restored> {
    if std::fs::metadata(path).is_ok_and(|metadata| is_block(&metadata)) {
        let device = FileDevice::open_read_write(path)?;
        lock_cow(device.file(), path, true)?;
        refuse_if_used(&device)?;
        let survey = Survey::of(source)?;
        survey.refuse_too_small(&device)?;
        return write_store(&device, None, source);
    }
    // Its size is known once the header was read.
    let file = NewFile::make(path, 0)?;
    let restored = write_store(file.device(), Some(&file), source)?;
    file.finish()?;
    Ok(restored)
}

/// Writes a dump's metadata over the store at `path`, whose data chunks stay. Nothing is changed
/// before the whole dump was read once.
///
/// # Errors
/// `InUse` naming the holder, `JournalInDoubt` where a journal waits and `discard_journal` is not
/// set, `Foreign` or `Corrupt` where there is no store, `Usage` where the dump is not this file's
/// (its chunk size, its size), `NoSpace`, `Io`, and what the source says.
pub fn restore_over(
    path: &Path,
    discard_journal: bool,
    source: &mut Source<'_>,
) -> Result<Restored> {
    let cannot = || format!("cannot restore {}", path.display());
    let device = FileDevice::open_read_write(path).map_err(|e| e.context(cannot()))?;
    lock_cow(device.file(), path, true)?;
    let was_interrupted = begins_with(&device, &RESTORING);
    let waiting = if was_interrupted {
        None
    } else {
        find_header(&device, None).map_err(|e| e.context(cannot()))?;
        waiting_journal(path, &device)?
    };
    let survey = Survey::of(source)?;
    survey.refuse_another(&device)?;
    if let Some(waiting) = &waiting {
        if !waiting.is_all_committed() && !discard_journal {
            let context = format!(
                "{}: a server was killed, and its journal has {} not committed",
                cannot(),
                count(waiting.pending())
            );
            return Err(Error::new(ErrorKind::JournalInDoubt, context).with_hint(
                "nothing was changed; --journal=discard restores without them; serving or \
                 `usnap repair` commits them",
            ));
        }
        end_session(path, &device, &read_header(&device)?, JournalMode::Discard)?;
    }
    if device.size_bytes() < survey.size_bytes && !device.is_block() {
        device.extend_to(survey.size_bytes)?;
    }
    restore_device(&device, source).map_err(|e| {
        device.drop_page_cache();
        e.context(cannot())
            .with_hint("restore it again: until that it counts as no store")
    })
}

/// The journal that waits for a store whose header can be read.
fn waiting_journal(path: &Path, device: &FileDevice) -> Result<Option<WaitingJournal>> {
    match journal_waiting_on(path, device) {
        Ok(waiting) => Ok(waiting),
        // No header says which session it was: that is what is to be mended.
        Err(e) if matches!(e.kind(), ErrorKind::Foreign | ErrorKind::Corrupt) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a dump's metadata over whatever store is on `device`, in the order that is safe at any
/// cut. The caller knows that the dump is whole and fits.
///
/// # Errors
/// `NoSpace`, `Io`, and what the source says; then there is no store.
pub fn restore_device(device: &dyn BlockDevice, source: &mut Source<'_>) -> Result<Restored> {
    let survey = Survey::of(source)?;
    let mut sector = [0; SECTOR_LEN];
    if let Some((marker, rest)) = sector.split_first_chunk_mut() {
        *marker = RESTORING;
        if let Some((size, _rest)) = rest.split_first_chunk_mut() {
            *size = survey.chunk_size.sectors().to_le_bytes();
        }
    }
    device.write_at(&sector, 0)?;
    device.flush()?;
    let no_hole = ZeroFlags {
        no_hole: true,
        fast: false,
    };
    let chunk_bytes = survey.chunk_size.bytes();
    device.zero_at(chunk_bytes, chunk_bytes, no_hole)?;
    device.flush()?;
    let mut forget = |visitor: &mut dyn Visitor| {
        let mut forgetting = Forgetting { visitor };
        source(&mut forgetting)
    };
    let mut restored = write_store(device, None, &mut forget)?;
    if survey.has_open_session {
        restored.notes.push(
            "the dump is of a store in use: its session is forgotten, so that no old journal fits"
                .to_owned(),
        );
    }
    Ok(restored)
}

fn write_store(
    device: &dyn BlockDevice,
    file: Option<&NewFile>,
    source: &mut Source<'_>,
) -> Result<Restored> {
    let mut writer = Writer {
        device,
        file,
        layout: Layout::new(ChunkSize::default()),
        device_chunks: 0,
        header: Vec::new(),
        area: Vec::new(),
        area_0: Vec::new(),
        location: NewChunk(0),
        damage: None,
        damaged: 0,
        restored: Restored::default(),
    };
    source(&mut writer)?;
    writer.finish()
}

fn begins_with(device: &dyn BlockDevice, bytes: &[u8; HEADER_LEN]) -> bool {
    let mut found = [0; HEADER_LEN];
    device.read_at(&mut found, 0).is_ok() && found == *bytes
}

/// What a dump says in all, before anything is changed.
#[derive(Default)]
struct Survey {
    chunk_size: ChunkSize,
    size_bytes: u64,
    has_open_session: bool,
    last_area: NewChunk,
    /// The largest chunk with data that can be believed.
    max_new_chunk: NewChunk,
}

impl Survey {
    fn of(source: &mut Source<'_>) -> Result<Self> {
        let mut survey = Self::default();
        source(&mut survey)?;
        Ok(survey)
    }

    /// A block device has to have all that the dump names.
    fn refuse_too_small(&self, device: &FileDevice) -> Result<()> {
        if device.size_bytes() >= self.size_bytes {
            return Ok(());
        }
        let context = format!(
            "cannot restore {}: it has {} bytes, and the dump is of {}",
            device.name(),
            device.size_bytes(),
            self.size_bytes
        );
        Err(Error::new(ErrorKind::Usage, context))
    }

    /// A dump of another file would show its chunks as somebody else's.
    fn refuse_another(&self, device: &FileDevice) -> Result<()> {
        let refuse = |why: String, hint: &str| {
            let context = format!("cannot restore {}: {why}", device.name());
            Err(Error::new(ErrorKind::Usage, context).with_hint(hint))
        };
        let found = if begins_with(device, &RESTORING) {
            let mut sectors = [0; 4];
            device.read_at(&mut sectors, HEADER_LEN as u64)?;
            ChunkSize::from_sectors(u32::from_le_bytes(sectors))?
        } else {
            find_header(device, None)?.sector.header.chunk_size
        };
        let dumped = self.chunk_size;
        if found != dumped {
            let why = format!(
                "its chunks have {} bytes, and the dump's {}",
                found.bytes(),
                dumped.bytes()
            );
            return refuse(why, "the dump is of another file");
        }
        let device_chunks = dumped.whole_chunks(device.size_bytes());
        if self.max_new_chunk.0 >= device_chunks {
            let why = format!(
                "it has {device_chunks} chunks, and the dump names the data in chunk {}",
                self.max_new_chunk
            );
            let hint = "the file was cut off, or the dump is of another; `truncate` makes it longer, \
                        and what was cut off is zeros then";
            return refuse(why, hint);
        }
        if device.is_block() && self.last_area.0 >= device_chunks {
            let why = format!(
                "it has {device_chunks} chunks, and an area would lie at chunk {}",
                self.last_area
            );
            return refuse(why, "the dump is of a larger device");
        }
        Ok(())
    }
}

impl Visitor for Survey {
    fn header(&mut self, header: &StoreHeader) -> Result<()> {
        self.chunk_size = header.header.chunk_size;
        self.size_bytes = header.cow_size_bytes;
        self.has_open_session = header.identity.is_some_and(|record| is_open(&record));
        Ok(())
    }

    fn area(&mut self, _area: AreaIndex, location: NewChunk) -> Result<()> {
        self.last_area = location;
        Ok(())
    }

    fn exception(&mut self, _area: AreaIndex, _index: u64, exception: Exception) -> Result<()> {
        let device_chunks = self.chunk_size.whole_chunks(self.size_bytes);
        let layout = Layout::new(self.chunk_size);
        if why_refused(layout, device_chunks, exception).is_none() {
            self.max_new_chunk = self.max_new_chunk.max(exception.new_chunk);
        }
        Ok(())
    }

    fn missing_area(&mut self, _: AreaIndex, _: NewChunk, _: Error) -> Result<()> {
        Ok(())
    }
}

/// Whether a record names a session that was not ended.
fn is_open(record: &IdentityRecord) -> bool {
    record.session != [0; 16] && !record.clean
}

/// Shows a dump without a session that was not ended: a tool that writes to a store leaves none.
struct Forgetting<'v> {
    visitor: &'v mut dyn Visitor,
}

impl Visitor for Forgetting<'_> {
    fn header(&mut self, header: &StoreHeader) -> Result<()> {
        let identity = header.identity.map(|record| match is_open(&record) {
            true => IdentityRecord {
                session: [0; 16],
                boot_id: [0; 16],
                clean: true,
                has_journal: false,
                ..record
            },
            false => record,
        });
        self.visitor.header(&StoreHeader {
            identity,
            ..header.clone()
        })
    }

    fn area(&mut self, area: AreaIndex, location: NewChunk) -> Result<()> {
        self.visitor.area(area, location)
    }

    fn exception(&mut self, area: AreaIndex, index: u64, exception: Exception) -> Result<()> {
        self.visitor.exception(area, index, exception)
    }

    fn padding(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.visitor.padding(offset, bytes)
    }

    fn junk(&mut self, area: AreaIndex, offset: u64, bytes: &[u8]) -> Result<()> {
        self.visitor.junk(area, offset, bytes)
    }

    fn missing_area(&mut self, area: AreaIndex, location: NewChunk, error: Error) -> Result<()> {
        self.visitor.missing_area(area, location, error)
    }
}

/// Writes what it is shown. Area 0 and sector 0 come last.
struct Writer<'a> {
    device: &'a dyn BlockDevice,
    /// The new file that the device is, whose size follows from the dump.
    file: Option<&'a NewFile>,
    layout: Layout,
    device_chunks: u64,
    /// The header chunk.
    header: Vec<u8>,
    /// The area that was begun last, and where it goes.
    area: Vec<u8>,
    location: NewChunk,
    area_0: Vec<u8>,
    /// The first entry that can't be believed, as a sentence, and how many there are.
    damage: Option<String>,
    damaged: u64,
    restored: Restored,
}

impl Writer<'_> {
    /// Writes the area that was begun last, unless it is area 0.
    fn end_area(&mut self) -> Result<()> {
        let first = self.layout.area_location(AreaIndex(0)).unwrap_or_default();
        if self.restored.areas == 0 {
            return Ok(());
        }
        if self.location == first {
            self.area_0 = self.area.clone();
            return Ok(());
        }
        self.device.write_at(&self.area, self.offset(self.location))
    }

    fn offset(&self, chunk: NewChunk) -> u64 {
        let offset = self.layout.chunk_size.new_to_offset(chunk);
        // Such a chunk lies on no device, which a write says.
        offset.unwrap_or(u64::MAX)
    }

    fn finish(mut self) -> Result<Restored> {
        self.end_area()?;
        let (sector, rest) = self.header.split_at(SECTOR_LEN.min(self.header.len()));
        if self.file.is_none() || rest.iter().any(|&byte| byte != 0) {
            self.device.write_at(rest, SECTOR_LEN as u64)?;
        }
        self.device.flush()?;
        self.device
            .write_at(&self.area_0, self.layout.chunk_size.bytes())?;
        self.device.flush()?;
        self.device.write_at(sector, 0)?;
        self.device.flush()?;
        if let Some(first) = self.damage {
            let (is, more) = match self.damaged {
                1 => ("1 entry is".to_owned(), ""),
                n => (format!("{n} entries are"), "; the first"),
            };
            self.restored.notes.push(format!(
                "{is} restored that no reader believes{more}: {first}; `usnap check` lists all"
            ));
        }
        self.restored.size_bytes = self.device.size_bytes();
        Ok(self.restored)
    }
}

impl Visitor for Writer<'_> {
    fn header(&mut self, header: &StoreHeader) -> Result<()> {
        let chunk_size = header.header.chunk_size;
        if let Some(file) = self.file {
            file.set_size(header.cow_size_bytes)?;
        }
        let size_bytes = self.device.size_bytes();
        if size_bytes > header.cow_size_bytes {
            self.restored.notes.push(format!(
                "the dump is of {} bytes, and it keeps its {size_bytes}",
                header.cow_size_bytes
            ));
        }
        self.layout = Layout::new(chunk_size);
        self.device_chunks = chunk_size.whole_chunks(size_bytes);
        self.area = vec![0; to_usize(chunk_size.bytes())];
        self.header = vec![0; to_usize(chunk_size.bytes())];
        if let Some(bytes) = self.header.first_chunk_mut::<HEADER_LEN>() {
            *bytes = header.header.encode();
        }
        let place = self.header.get_mut(to_usize(IDENTITY_OFFSET)..);
        if let (Some(record), Some(place)) = (
            header.identity,
            place.and_then(|rest| rest.first_chunk_mut::<IDENTITY_LEN>()),
        ) {
            *place = record.encode(crc32fast::hash);
            if is_open(&record) && self.file.is_some() {
                self.restored.notes.push(
                    "the dump is of a store in use, or of one whose server was killed: a writable \
                     open will ask for that server's journal"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    fn area(&mut self, _area: AreaIndex, location: NewChunk) -> Result<()> {
        self.end_area()?;
        self.area.fill(0);
        self.location = location;
        self.restored.areas += 1;
        Ok(())
    }

    fn exception(&mut self, area: AreaIndex, index: u64, exception: Exception) -> Result<()> {
        self.restored.exceptions += 1;
        let device_chunks = self
            .layout
            .chunk_size
            .whole_chunks(self.device.size_bytes());
        if let Some(why) = why_refused(self.layout, device_chunks, exception) {
            self.damaged += 1;
            self.damage.get_or_insert_with(|| {
                format!(
                    "area {area}, entry {index} (old chunk {}, new chunk {}) {why}",
                    exception.old_chunk, exception.new_chunk
                )
            });
            return put_raw(&mut self.area, index, exception);
        }
        Ok(encode_exception(&mut self.area, index, exception)?)
    }

    fn padding(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        put(&mut self.header, offset, bytes)
    }

    fn junk(&mut self, _area: AreaIndex, offset: u64, bytes: &[u8]) -> Result<()> {
        put(&mut self.area, offset, bytes)
    }

    fn missing_area(&mut self, area: AreaIndex, location: NewChunk, _error: Error) -> Result<()> {
        self.restored.notes.push(format!(
            "area {area} (chunk {location}) lies behind the end, as when it was dumped; `usnap \
             check` says what that means"
        ));
        Ok(())
    }
}

/// An entry as it is, whatever it says.
fn put_raw(area: &mut [u8], index: u64, exception: Exception) -> Result<()> {
    let entry = usnap_format::DiskException::from(exception).encode();
    put(area, index.saturating_mul(EXCEPTION_LEN as u64), &entry)
}

fn put(chunk: &mut [u8], offset: u64, bytes: &[u8]) -> Result<()> {
    let place = chunk.get_mut(to_usize(offset)..);
    let place = place.and_then(|place| place.get_mut(..bytes.len()));
    let Some(place) = place else {
        let context = format!("cannot place {} bytes at {offset} of a chunk", bytes.len());
        return Err(Error::new(ErrorKind::OutOfRange, context));
    };
    place.copy_from_slice(bytes);
    Ok(())
}
