//! What may stand in an area, one entry after the other: the one statement of what is refused
//! (SPEC.md, "What a reader refuses") and of what is said then. Entries that point at metadata or
//! outside the device, that share a chunk, old or new, or that have the kernel's run-length bits
//! set.
//!
//! Loading in bulk (`bulk`) answers the same, faster; where it finds anything wrong it leaves it to
//! this walk to say what.

use usnap_format::{AreaIndex, ChunkSize, Exception, Layout, NewChunk};

use super::walk::AreaWalk;
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::table::ExceptionTable;

/// What a store's areas say, besides the index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// How many entries there are.
    pub(super) committed: u64,
    /// Those for chunks that the origin does not have.
    pub(super) beyond_origin: u64,
    pub(super) max_new_chunk: Option<NewChunk>,
    /// The area that has room.
    pub(super) last_area: AreaIndex,
    pub(super) last_bytes: Vec<u8>,
}

/// Reads all entries into `table`, which is empty, in the order of the store.
///
/// # Errors
/// `Corrupt`, naming area, index and chunk of the first entry that can't be; `Io`.
pub(super) fn load(
    device: &dyn BlockDevice,
    chunk_size: ChunkSize,
    table: &ExceptionTable,
) -> Result<Metadata> {
    let layout = Layout::new(chunk_size);
    let device_chunks = chunk_size.whole_chunks(device.size_bytes());
    let mut walk = AreaWalk::new(device, chunk_size);
    let mut order = NewChunkOrder::default();
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
        }
        if !area.view.is_full() {
            last = Some((area.index, area.bytes.to_vec()));
        }
    }
    let Some((last_area, last_bytes)) = last else {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "cannot find any metadata area",
        ));
    };
    let committed = order.seen.len() as u64;
    let max_new_chunk = order.max();
    refuse_shared(device.name(), layout, order)?;
    Ok(Metadata {
        committed,
        beyond_origin,
        max_new_chunk,
        last_area,
        last_bytes,
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
