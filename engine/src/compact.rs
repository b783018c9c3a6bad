//! A new store of the same snapshot, as small as it can be: sorted by old chunk, without holes, and
//! without chunks that hold what the origin holds. The old store is only read.

use std::path::Path;
use std::sync::Arc;

use usnap_format::{
    AreaIndex, ChunkSize, Exception, HEADER_LEN, Header, IDENTITY_LEN, IDENTITY_OFFSET,
    IdentityRecord, Layout, OldChunk, encode_exception,
};

use crate::device::{BlockDevice, FileDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::num::{SECTOR_LEN, to_usize};
use crate::origin::Origin;
use crate::snapshot::{JournalMode, Snapshot, SnapshotOptions};
use crate::store::cow_file::created;
use crate::store::new_file::NewFile;
use crate::store::persistent::walk::{MAX_CHUNK_BYTES, read_header};

/// So much is read at once, in bytes, or a chunk where that is more.
const STEP_BYTES: u64 = 1 << 20;

/// How a store is made smaller.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompactOptions {
    /// The new store's chunk size; the same where it is not said.
    pub chunk_size: Option<ChunkSize>,
    /// The new store's size in bytes; the least that it can have where it is not said.
    pub size_bytes: Option<u64>,
    /// Keep chunks that hold what the origin holds.
    pub keep_equal: bool,
    /// Go on although the origin is not the one on record.
    pub force_origin: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Exceptions in the new store.
    pub exceptions: u64,
    /// Chunks left out since the origin holds the same, in the new chunk size.
    pub equal: u64,
    /// Size of the new store in bytes.
    pub size_bytes: u64,
    /// The new store's chunk size.
    pub chunk_size: ChunkSize,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

/// Watches the work: is told how many chunks are done, of how many, and says whether to go on.
pub type Watch<'a> = dyn FnMut(u64, u64) -> bool + 'a;

/// Makes the store at `out`, a new file, of the one at `cow` over `origin`. It appears only when it
/// is complete.
///
/// # Errors
/// `Exists`, `OriginMismatch`, `InUse` naming the holder, `InvalidStore`, `JournalInDoubt`,
/// `Foreign`, `Corrupt`, `Usage` (the chunk size; a size that is too small), `NoSpace`, `Io`, also
/// where the watcher stopped it. Then nothing is left behind.
pub fn compact(
    origin: &Path,
    cow: &Path,
    out: &Path,
    options: &CompactOptions,
    watch: &mut Watch<'_>,
) -> Result<Compacted> {
    let origin = Arc::new(Origin::open(origin)?);
    let opening = SnapshotOptions {
        read_only: true,
        force_origin: options.force_origin,
        journal: JournalMode::Auto,
        ..SnapshotOptions::default()
    };
    let (snapshot, mut notes) = Snapshot::open(&origin, cow, &opening)?;
    let record = read_header(&FileDevice::open_read_only(cow)?)?.identity;
    let old = record.ok().flatten();
    let mut keep_equal = options.keep_equal;
    if old.is_some_and(|record| record.origin_changing) && !keep_equal {
        keep_equal = true;
        notes.push(
            "chunks that hold what the origin holds were kept: what was last written to the origin \
             may not be on its disk yet"
                .to_owned(),
        );
    }
    let chunk_size = options.chunk_size.unwrap_or(snapshot.chunk_size());
    if chunk_size.bytes() > MAX_CHUNK_BYTES {
        let context = format!(
            "cannot create {}: a chunk size of {} bytes is larger than {MAX_CHUNK_BYTES}",
            out.display(),
            chunk_size.bytes()
        );
        return Err(Error::new(ErrorKind::Usage, context));
    }
    let reader = Reader {
        snapshot: &snapshot,
        origin: &origin,
        chunk_size,
        keep_equal,
    };
    let total = reader.candidates();
    let layout = Layout::new(chunk_size);
    let file = NewFile::make(out, size_for(layout, total)?)?;
    let mut writer = Writer {
        device: file.device(),
        layout,
        area: vec![0; to_usize(chunk_size.bytes())],
        exceptions: 0,
    };
    let equal = reader.copy(&mut writer, total, watch)?;
    let least_bytes = size_for(layout, writer.exceptions)?;
    let size_bytes = options.size_bytes.unwrap_or(least_bytes);
    if size_bytes < least_bytes {
        let context = format!(
            "cannot create {} of {size_bytes} bytes: it needs {least_bytes}",
            out.display()
        );
        return Err(Error::new(ErrorKind::Usage, context));
    }
    // What is left out is in the origin that was named, be it the one on record or not.
    let origin = match old.and_then(|record| record.origin) {
        Some(_) if options.force_origin => Some(origin.identity()?),
        recorded => recorded,
    };
    let record = old.map(|record| IdentityRecord {
        origin,
        origin_changing: record.origin_changing,
        label: record.label,
        ..IdentityRecord::default()
    });
    file.set_size(size_bytes)?;
    let exceptions = writer.finish(record.as_ref())?;
    file.finish()?;
    notes.extend(created(chunk_size, size_bytes).warnings);
    Ok(Compacted {
        exceptions,
        equal,
        size_bytes,
        chunk_size,
        notes,
    })
}

/// The least size, in bytes, of a store with so many exceptions.
fn size_for(layout: Layout, exceptions: u64) -> Result<u64> {
    let chunks = layout.chunks_for(exceptions);
    let bytes = chunks.and_then(|chunks| chunks.checked_mul(layout.chunk_size.bytes()));
    bytes.ok_or_else(|| {
        let context = format!("cannot make a store of {exceptions} exceptions: it is too large");
        Error::new(ErrorKind::NoSpace, context)
    })
}

/// What the new store is to hold.
struct Reader<'a> {
    snapshot: &'a Snapshot,
    origin: &'a Origin,
    /// The new store's.
    chunk_size: ChunkSize,
    keep_equal: bool,
}

impl Reader<'_> {
    /// The next chunks from this one on, in the new size, that hold something of the old store:
    /// the first of them, and behind the last.
    fn next_changed(&self, from: u64) -> Option<(u64, u64)> {
        let size_bytes = self.snapshot.size_bytes();
        let mut offset = self.chunk_size.old_to_offset(OldChunk(from))?;
        while offset < size_bytes {
            let (is_changed, len) = self.snapshot.changed_run(offset, size_bytes - offset);
            if is_changed {
                let first = self.chunk_size.chunk_of(offset);
                return Some((first, self.chunk_size.chunks_to_hold(offset + len)));
            }
            offset += len;
        }
        None
    }

    fn candidates(&self) -> u64 {
        let (mut from, mut count) = (0, 0);
        while let Some((first, end)) = self.next_changed(from) {
            count += end - first;
            from = end;
        }
        count
    }

    /// Copies what is to be kept; returns how many chunks were left out.
    fn copy(&self, writer: &mut Writer<'_>, total: u64, watch: &mut Watch<'_>) -> Result<u64> {
        let step = (STEP_BYTES >> self.chunk_size.shift()).max(1);
        let chunk_len = to_usize(self.chunk_size.bytes());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut from, mut done, mut equal) = (0, 0, 0);
        while let Some((first, end)) = self.next_changed(from) {
            // Not all at once; the rest is found again.
            let end = end.min(first + step);
            self.read(self.snapshot, first, end, &mut ours)?;
            if !self.keep_equal {
                self.read(self.origin, first, end, &mut theirs)?;
            }
            let mut origins = theirs.chunks(chunk_len);
            for (chunk, data) in (first..end).zip(ours.chunks(chunk_len)) {
                if origins.next() == Some(data) {
                    equal += 1;
                } else {
                    writer.add(OldChunk(chunk), data)?;
                }
            }
            done += end - first;
            from = end;
            if !watch(done, total) {
                let context = "cannot go on: it was interrupted, and nothing is left behind";
                return Err(Error::new(ErrorKind::Io, context));
            }
        }
        Ok(equal)
    }

    /// Reads whole chunks; what lies behind the device's end is zeros.
    fn read(
        &self,
        device: &dyn BlockDevice,
        first: u64,
        end: u64,
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        let shift = self.chunk_size.shift();
        buf.clear();
        buf.resize(to_usize((end - first) << shift), 0);
        let offset = first << shift;
        let len = to_usize(device.size_bytes().saturating_sub(offset)).min(buf.len());
        device.read_at(buf.get_mut(..len).unwrap_or_default(), offset)
    }
}

/// The new store, which nobody sees before it is complete.
struct Writer<'a> {
    device: &'a FileDevice,
    layout: Layout,
    /// The area that takes the next entry.
    area: Vec<u8>,
    exceptions: u64,
}

impl Writer<'_> {
    fn add(&mut self, old_chunk: OldChunk, data: &[u8]) -> Result<()> {
        let n = self.exceptions;
        let new_chunk = self.layout.nth_data_chunk(n).unwrap_or_default();
        let exception = Exception {
            old_chunk,
            new_chunk,
        };
        // A hole reads as zeros.
        if data.iter().any(|&byte| byte != 0) {
            let offset = new_chunk.0 << self.layout.chunk_size.shift();
            self.device.write_at(data, offset)?;
        }
        let (area, index) = self.layout.entry_position(n);
        encode_exception(&mut self.area, index, exception)?;
        self.exceptions += 1;
        if self.layout.entry_position(self.exceptions).0 != area {
            self.write_area(area)?;
            self.area.fill(0);
        }
        Ok(())
    }

    fn write_area(&self, area: AreaIndex) -> Result<()> {
        let location = self.layout.area_location(area).unwrap_or_default();
        let offset = location.0 << self.layout.chunk_size.shift();
        self.device.write_at(&self.area, offset)
    }

    /// Writes the last area, then the header. Returns how many exceptions there are.
    fn finish(self, record: Option<&IdentityRecord>) -> Result<u64> {
        self.write_area(self.layout.entry_position(self.exceptions).0)?;
        self.device.flush()?;
        let mut sector = [0; SECTOR_LEN];
        if let Some(header) = sector.first_chunk_mut::<HEADER_LEN>() {
            *header = Header::new(self.layout.chunk_size).encode();
        }
        let place = sector.get_mut(to_usize(IDENTITY_OFFSET)..);
        let place = place.and_then(|rest| rest.first_chunk_mut::<IDENTITY_LEN>());
        if let (Some(place), Some(record)) = (place, record) {
            *place = record.encode(crc32fast::hash);
        }
        self.device.write_at(&sector, 0)?;
        self.device.flush()?;
        Ok(self.exceptions)
    }
}
