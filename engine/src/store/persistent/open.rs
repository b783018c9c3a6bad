//! Loading a store: every entry is checked before it is believed, and nothing is written.
//!
//! Refused (SPEC.md, "What a reader refuses"): entries that point at metadata or outside the
//! device, that share a chunk, old or new, or that have the kernel's run-length bits set.

use usnap_format::{Exception, Layout, NewChunk};

use super::commit::CurrentArea;
use super::plan::Position;
use super::walk::{AreaWalk, HeaderSector};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::table::ExceptionTable;

/// A store's metadata, in memory.
pub(crate) struct Loaded {
    pub(crate) layout: Layout,
    /// How many entries there are.
    pub(crate) committed: u64,
    max_new_chunk: Option<NewChunk>,
    /// The area that has room.
    pub(super) area: CurrentArea,
    /// Where in it bytes behind the terminator begin that are not zero.
    pub(crate) junk_offset: Option<u64>,
    /// Entries for chunks that the origin does not have.
    pub(crate) beyond_origin: u64,
}

impl Loaded {
    /// The first number behind all that are named.
    pub(super) fn next_free(&self) -> NewChunk {
        self.layout
            .next_free_after_max(self.max_new_chunk)
            .unwrap_or(NewChunk(u64::MAX))
    }
}

/// Reads all metadata into `table`.
///
/// # Errors
/// `Corrupt`, naming area, index and chunk; `Io`.
pub(crate) fn load(
    device: &dyn BlockDevice,
    sector: &HeaderSector,
    table: &ExceptionTable,
) -> Result<Loaded> {
    let chunk_size = sector.header.chunk_size;
    let layout = Layout::new(chunk_size);
    let device_chunks = chunk_size.whole_chunks(device.size_bytes());
    let mut walk = AreaWalk::new(device, chunk_size);
    let mut order = NewChunkOrder::default();
    let mut committed = 0_u64;
    let mut beyond_origin = 0_u64;
    let mut last = None;
    while let Some(area) = walk.next_area()? {
        for (index, exception) in area.view.exceptions().enumerate() {
            let refuse = |why: &str| {
                let context = format!(
                    "cannot use COW device {}: area {}, entry {index} (old chunk {}, new chunk \
                     {}) {why}",
                    device.name(),
                    area.index,
                    exception.old_chunk,
                    exception.new_chunk
                );
                Err(Error::new(ErrorKind::Corrupt, context)
                    .with_hint("`usnap check` lists all damage"))
            };
            if let Some(why) = why_refused(layout, device_chunks, exception) {
                return refuse(why);
            }
            if exception.old_chunk.0 >= table.chunk_count() {
                beyond_origin += 1;
            } else if !table.load(exception) {
                return refuse("is the second for its old chunk");
            }
            order.push(exception.new_chunk);
            committed += 1;
        }
        if !area.view.is_full() {
            let position = Position {
                area: area.index,
                committed: area.view.committed(),
            };
            let area_bytes = area.bytes.to_vec();
            let current = CurrentArea {
                position,
                bytes: area_bytes,
            };
            last = Some((current, area.view.has_junk_behind_terminator()));
        }
    }
    let Some((area, junk_offset)) = last else {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "cannot find any metadata area",
        ));
    };
    let max_new_chunk = order.max();
    refuse_shared(device.name(), layout, order)?;
    Ok(Loaded {
        layout,
        committed,
        max_new_chunk,
        area,
        junk_offset,
        beyond_origin,
    })
}

fn refuse_shared(name: &str, layout: Layout, order: NewChunkOrder) -> Result<()> {
    let Some(Shared {
        chunk,
        first,
        second,
    }) = order.find_shared()
    else {
        return Ok(());
    };
    let (area, index) = layout.entry_position(second);
    let (other_area, other_index) = layout.entry_position(first);
    let context = format!(
        "cannot use COW device {name}: area {area}, entry {index} (new chunk {chunk}) has the same \
         new chunk as area {other_area}, entry {other_index}"
    );
    Err(Error::new(ErrorKind::Corrupt, context).with_hint("`usnap check` lists all damage"))
}

/// Why an entry can't be believed, from the entry and the device's size alone.
pub(crate) fn why_refused(
    layout: Layout,
    device_chunks: u64,
    exception: Exception,
) -> Option<&'static str> {
    if exception.high_bits_set() {
        Some("has bits set that the kernel uses as a run length")
    } else if layout.is_metadata(exception.new_chunk) {
        Some("points at a metadata chunk")
    } else if exception.new_chunk.0 >= device_chunks {
        Some("points beyond the end of the COW device")
    } else {
        None
    }
}

/// Finds a number that was seen twice. Stores are nearly always in ascending order, which proves
/// that there is none without sorting.
#[derive(Default)]
struct NewChunkOrder {
    /// In the order of the entries.
    seen: Vec<u64>,
    max: Option<NewChunk>,
    disordered: bool,
}

impl NewChunkOrder {
    fn push(&mut self, chunk: NewChunk) {
        self.disordered |= self.max.is_some_and(|max| chunk <= max);
        self.max = self.max.max(Some(chunk));
        self.seen.push(chunk.0);
    }

    fn max(&self) -> Option<NewChunk> {
        self.max
    }

    fn find_shared(self) -> Option<Shared> {
        if !self.disordered {
            return None;
        }
        let mut numbered: Vec<(u64, u64)> = self.seen.into_iter().zip(0..).collect();
        numbered.sort_unstable();
        numbered.windows(2).find_map(|pair| match pair {
            [(chunk, first), (same, second)] if chunk == same => Some(Shared {
                chunk: *chunk,
                first: *first,
                second: *second,
            }),
            _ => None,
        })
    }
}

/// A new chunk that two entries of the store name.
struct Shared {
    chunk: u64,
    first: u64,
    second: u64,
}
