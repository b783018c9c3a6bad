//! Loading a store: every entry is checked before it is believed (`rules`), and nothing is written.

use std::collections::HashSet;

use usnap_format::{AreaView, ChunkSize, Exception, Layout, NewChunk};

use super::behind::Behind;
use super::commit::CurrentArea;
use super::leftover::Leftover;
use super::plan::Position;
use super::walk::{AreaWalk, HeaderSector};
use super::{bulk, rules};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::journal::{Base, Contradiction, Found, Notes, StoreView};
use crate::table::{ExceptionTable, Loading, Slot};

pub(crate) use super::rules::why_refused;

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
    /// What `journal` has that the store has not. The load was told of its notes.
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

/// Reads all metadata into the table that `loading` begins. Where a journal waits, `notes` are what
/// it has.
///
/// # Errors
/// `Corrupt`, naming area, index and chunk; `Io`.
pub(crate) fn load(
    device: &dyn BlockDevice,
    sector: &HeaderSector,
    loading: Loading,
    notes: Option<Notes<'_>>,
) -> Result<(Loaded, ExceptionTable)> {
    let chunk_size = sector.header.chunk_size;
    let layout = Layout::new(chunk_size);
    let device_chunks = chunk_size.whole_chunks(device.size_bytes());
    let chunk_count = loading.chunk_count();
    let (metadata, table) = match bulk::load(device, chunk_size, loading)? {
        Some(loaded) => loaded,
        None => {
            let table = ExceptionTable::new(chunk_count)?;
            (rules::load(device, chunk_size, &table)?, table)
        }
    };
    let view = AreaView::new(&metadata.last_bytes, chunk_size)?;
    let position = Position {
        area: metadata.last_area,
        committed: view.committed(),
    };
    let junk_offset = view.has_junk_behind_terminator();
    let leftover = match junk_offset {
        Some(_) => {
            let candidates = Leftover::candidates(&metadata.last_bytes, position.committed);
            let is_mapped = |old_chunk| table.lookup(old_chunk) != Slot::Unmapped;
            Leftover::find(
                layout,
                device_chunks,
                &metadata.last_bytes,
                position.committed,
                is_mapped,
                named_among(device, chunk_size, &candidates)?.into_iter(),
            )
        }
        None => Leftover::default(),
    };
    let behind = notes
        .map(|notes| Behind::read(device, chunk_size, notes))
        .transpose()?;
    let loaded = Loaded {
        layout,
        committed: metadata.committed,
        max_new_chunk: metadata.max_new_chunk,
        area: CurrentArea::new(position, metadata.last_bytes),
        junk_offset,
        leftover,
        beyond_origin: metadata.beyond_origin,
        device_chunks,
        uncommitted: 0,
        behind,
    };
    Ok((loaded, table))
}

/// Those of `candidates` that entries name.
fn named_among(
    device: &dyn BlockDevice,
    chunk_size: ChunkSize,
    candidates: &HashSet<NewChunk>,
) -> Result<Vec<NewChunk>> {
    let mut named = Vec::new();
    let (Some(least), Some(most)) = (candidates.iter().min(), candidates.iter().max()) else {
        return Ok(named);
    };
    let mut walk = AreaWalk::new(device, chunk_size);
    while let Some(area) = walk.next_area()? {
        let new_chunks = area.view.exceptions().map(|exception| exception.new_chunk);
        // Mostly they lie behind all that are named.
        let near = new_chunks.filter(|new_chunk| (least..=most).contains(&new_chunk));
        named.extend(near.filter(|new_chunk| candidates.contains(new_chunk)));
    }
    Ok(named)
}
