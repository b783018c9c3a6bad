//! Loading a store: every entry is checked before it is believed, and nothing is written.
//!
//! Refused (SPEC.md, "What a reader refuses"): entries that point at metadata or outside the
//! device, that share a chunk, old or new, or that have the kernel's run-length bits set.

use usnap_format::{Exception, Layout, NewChunk};

use super::behind::Behind;
use super::commit::CurrentArea;
use super::leftover::Leftover;
use super::plan::Position;
use super::walk::{AreaWalk, HeaderSector};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Base, Contradiction, Found, StoreView};
use crate::table::{ExceptionTable, Slot};

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
    /// What among those could be entries.
    pub(crate) leftover: Leftover,
    /// Entries for chunks that the origin does not have.
    pub(crate) beyond_origin: u64,
    device_chunks: u64,
    /// Exceptions of a journal, which are shown but not on the device.
    pub(crate) uncommitted: u64,
    behind: Option<Behind>,
}

impl Loaded {
    /// What `journal` has that the store has not. The load was told of its base.
    ///
    /// # Errors
    /// Where journal and store can't both be right.
    pub(crate) fn missing(
        &self,
        journal: &Found,
        table: &ExceptionTable,
    ) -> std::result::Result<Vec<Exception>, Contradiction> {
        let Some(behind) = &self.behind else {
            return Ok(Vec::new());
        };
        journal.missing(&StoreView {
            layout: self.layout,
            device_chunks: self.device_chunks,
            old_chunks: table.chunk_count(),
            committed: self.committed,
            base_area_crc32: behind.area_crc32,
            entries_behind_base: &behind.entries,
            lookup: &|old_chunk| match table.lookup(old_chunk) {
                Slot::Mapped(new_chunk) => Some(new_chunk),
                Slot::Unmapped => None,
            },
            is_new_chunk_taken: &|new_chunk| behind.is_taken(new_chunk),
        })
    }

    /// Enters what a journal has into `table`. It is not on the device yet.
    pub(crate) fn add(&mut self, missing: &[Exception], table: &ExceptionTable) {
        for exception in missing {
            table.load(*exception);
        }
        let max_new_chunk = missing.iter().map(|exception| exception.new_chunk).max();
        self.max_new_chunk = self.max_new_chunk.max(max_new_chunk);
        self.uncommitted = missing.len() as u64;
        self.behind = None;
    }

    /// What is committed, as a journal notes it.
    pub(crate) fn base(&self) -> Base {
        self.area.base(self.layout)
    }

    /// The first number behind all that are named.
    pub(super) fn next_free(&self) -> NewChunk {
        self.layout
            .next_free_after_max(self.max_new_chunk)
            .unwrap_or(NewChunk(u64::MAX))
    }
}

/// Reads all metadata into `table`. Where a journal waits, `journal_base` is how many entries were
/// committed when its notes began.
///
/// # Errors
/// `Corrupt`, naming area, index and chunk; `Io`.
pub(crate) fn load(
    device: &dyn BlockDevice,
    sector: &HeaderSector,
    table: &ExceptionTable,
    journal_base: Option<u64>,
) -> Result<Loaded> {
    let chunk_size = sector.header.chunk_size;
    let layout = Layout::new(chunk_size);
    let device_chunks = chunk_size.whole_chunks(device.size_bytes());
    let mut walk = AreaWalk::new(device, chunk_size);
    let mut order = NewChunkOrder::default();
    let mut committed = 0_u64;
    let mut beyond_origin = 0_u64;
    let mut last = None;
    let mut behind = journal_base.map(|base| Behind::new(layout, base));
    while let Some(area) = walk.next_area()? {
        if let Some(behind) = &mut behind {
            behind.add(&area);
        }
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
                    .with_hint("`usnap check` lists all damage, `usnap repair` mends it"))
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
            let current = CurrentArea::new(position, area.bytes.to_vec());
            let junk_offset = area.view.has_junk_behind_terminator();
            let leftover = match junk_offset {
                Some(_) => {
                    let committed = area.view.committed();
                    let is_mapped = |old_chunk| table.lookup(old_chunk) != Slot::Unmapped;
                    let seen = order.seen.iter().copied().map(NewChunk);
                    Leftover::find(
                        layout,
                        device_chunks,
                        area.bytes,
                        committed,
                        is_mapped,
                        seen,
                    )
                }
                None => Leftover::default(),
            };
            last = Some((current, junk_offset, leftover));
        }
    }
    let Some((area, junk_offset, leftover)) = last else {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "cannot find any metadata area",
        ));
    };
    let max_new_chunk = order.max();
    refuse_shared(device.name(), layout, order)?;
    behind.iter_mut().for_each(Behind::finish);
    Ok(Loaded {
        layout,
        committed,
        max_new_chunk,
        area,
        junk_offset,
        leftover,
        beyond_origin,
        device_chunks,
        uncommitted: 0,
        behind,
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
    Err(Error::new(ErrorKind::Corrupt, context)
        .with_hint("`usnap check` lists all damage, `usnap repair` mends it"))
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
