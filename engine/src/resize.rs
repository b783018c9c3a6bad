//! Making a COW file longer or shorter, while nobody uses it. What it holds stays where it is, so
//! it gets no shorter than up to its last chunk in use.

use std::path::Path;

use usnap_format::{ChunkSize, Layout, NewChunk};

use crate::device::{BlockDevice, FileDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{JournalMode, end_session, journal_waiting_on};
use crate::store::cow_file::{self, created, is_block};
use crate::store::persistent::free_behind;
use crate::store::persistent::open::why_refused;
use crate::store::persistent::walk::{AreaWalk, HeaderSector, read_header};

/// How long it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSize {
    /// So many bytes.
    Bytes(u64),
    /// As short as it can be.
    Least,
}

/// What became of a COW file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Its size in bytes before.
    pub old_bytes: u64,
    /// Its size in bytes.
    pub new_bytes: u64,
    /// The least that it could have, in bytes.
    pub least_bytes: u64,
    /// The chunk size.
    pub chunk_size: ChunkSize,
    /// Exceptions in it.
    pub exceptions: u64,
    /// How many more fit.
    pub free: u64,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

/// What a store needs.
struct Need {
    chunks: u64,
    next_free: NewChunk,
    exceptions: u64,
}

/// Makes the COW file at `cow` so long. A journal that waits, and that nothing speaks against, is
/// committed first.
///
/// # Errors
/// `Usage` where it needs more, `NotSupported` (a block device), `InUse` naming the holder,
/// `JournalInDoubt`, `InvalidStore`, `Foreign`, `Corrupt` where it has damage, `NoSpace`, `Io`.
pub fn resize(cow: &Path, size: NewSize) -> Result<Resized> {
    let cannot = || format!("cannot resize {}", cow.display());
    if std::fs::metadata(cow).is_ok_and(|metadata| is_block(&metadata)) {
        let context = format!("{}: it is a block device", cannot());
        return Err(Error::new(ErrorKind::NotSupported, context).with_hint(
            "its size is its own: make the device itself larger (lvextend), and all of it is used",
        ));
    }
    let opened = cow_file::open(cow, false, ChunkSize::default()).map_err(|error| {
        let in_use = error.kind() == ErrorKind::InUse;
        let error = error.context(cannot());
        match in_use {
            true => error.with_hint(
                "while it is served it can be made longer, never shorter: `truncate -s SIZE` on it; \
                 `usnap serve --max-cow` does so by itself",
            ),
            false => error,
        }
    })?;
    let Some(mut sector) = opened.sector else {
        let context = format!("{}: there is no store in it", cannot());
        return Err(Error::new(ErrorKind::Foreign, context)
            .with_hint("`usnap create` makes one; `truncate -s SIZE` changes any file"));
    };
    let mut notes = Vec::new();
    if journal_waiting_on(cow, &opened.device)?.is_some() {
        let ended = end_session(cow, &opened.device, &sector, JournalMode::Auto);
        let replayed = ended.map_err(|e| {
            e.context(cannot())
                .with_hint("`usnap repair` settles what becomes of the journal")
        })?;
        notes.push(format!(
            "a server was killed: committed {replayed} exceptions of its journal"
        ));
        sector = read_header(&*opened.device)?;
    }
    let layout = Layout::new(opened.chunk_size);
    let need = need_of(&opened.device, &sector, layout).map_err(|e| e.context(cannot()))?;
    let least_chunks = need.chunks + u64::from(layout.kernel_poisoned(need.chunks));
    let least_bytes = least_chunks << opened.chunk_size.shift();
    let new_bytes = match size {
        NewSize::Least => least_bytes,
        NewSize::Bytes(bytes) => bytes,
    };
    if opened.chunk_size.whole_chunks(new_bytes) < need.chunks {
        let context = format!(
            "{} to {new_bytes} bytes: it needs {least_bytes} for what is in it",
            cannot()
        );
        return Err(Error::new(ErrorKind::Usage, context).with_hint(
            "nothing was changed; --shrink makes it that short; `usnap compact` makes a shorter copy",
        ));
    }
    let old_bytes = opened.device.size_bytes();
    set_size(&opened.device, new_bytes).map_err(|e| e.context(cannot()))?;
    notes.extend(created(opened.chunk_size, new_bytes).warnings);
    let device_chunks = opened.chunk_size.whole_chunks(new_bytes);
    Ok(Resized {
        old_bytes,
        new_bytes,
        least_bytes,
        chunk_size: opened.chunk_size,
        exceptions: need.exceptions,
        free: free_behind(layout, need.next_free, need.exceptions, device_chunks),
        notes,
    })
}

/// Behind its end there is nothing in use, so the order does not matter.
fn set_size(device: &FileDevice, new_bytes: u64) -> Result<()> {
    if new_bytes >= device.size_bytes() {
        device.extend_to(new_bytes)?;
        return device.flush();
    }
    let set = device.file().set_len(new_bytes);
    let set = set.and_then(|()| device.file().sync_all());
    set.map_err(|e| Error::io(format!("cannot cut off {}", device.name()), e))
}

fn need_of(device: &FileDevice, sector: &HeaderSector, layout: Layout) -> Result<Need> {
    let device_chunks = layout.chunk_size.whole_chunks(device.size_bytes());
    let mut areas = AreaWalk::new(device, sector.header.chunk_size);
    let (mut last, mut max_new_chunk, mut exceptions) = (NewChunk(0), None, 0);
    while let Some(area) = areas.next_area()? {
        for (index, exception) in area.view.exceptions().enumerate() {
            if let Some(why) = why_refused(layout, device_chunks, exception) {
                let context = format!(
                    "its area {}, entry {index} (old chunk {}, new chunk {}) {why}",
                    area.index, exception.old_chunk, exception.new_chunk
                );
                return Err(Error::new(ErrorKind::Corrupt, context)
                    .with_hint("`usnap check` lists all damage, `usnap repair` mends it"));
            }
            max_new_chunk = max_new_chunk.max(Some(exception.new_chunk));
            exceptions += 1;
        }
        last = area.location;
    }
    let last_used = max_new_chunk.unwrap_or_default().max(last);
    let next_free = layout.next_free_after_max(max_new_chunk);
    Ok(Need {
        chunks: last_used.0 + 1,
        next_free: next_free.unwrap_or(NewChunk(u64::MAX)),
        exceptions,
    })
}
