//! A store's status at rest, from a walk over its metadata.

use std::path::Path;

use usnap_format::{AreaIndex, Exception, Layout, NewChunk, Status, Usage};

use super::{StoreHeader, Visitor, walk};
use crate::device::{BlockDevice, FileDevice};
use crate::error::{Error, Result};
use crate::snapshot::{Counters, JournalReport, StatusReport, report_at_rest};
use crate::space::{Space, SpaceLimit};
use crate::store::ExceptionCounts;
use crate::store::persistent::free_behind;

/// Reports a store at rest, or what a store in use has committed so far.
///
/// # Errors
/// As `walk`.
pub fn status(cow: &Path) -> Result<StatusReport> {
    let mut summary = Summary::default();
    match walk(cow, &mut summary) {
        Ok(()) => {}
        // The kernel reads no exceptions of an invalid store either.
        Err(_)
            if summary
                .header
                .as_ref()
                .is_some_and(|h| !h.header.is_valid()) => {}
        Err(error) => return Err(error),
    }
    let report = summary.report(cow)?;
    Ok(StatusReport {
        journal: report_at_rest(cow)?,
        ..report
    })
}

/// What a status says, gathered in a walk.
#[derive(Default)]
pub(crate) struct Summary {
    pub(crate) header: Option<StoreHeader>,
    pub(crate) exceptions: u64,
    pub(crate) max_new_chunk: Option<NewChunk>,
}

impl Visitor for Summary {
    fn header(&mut self, header: &StoreHeader) -> Result<()> {
        self.header = Some(header.clone());
        Ok(())
    }

    fn area(&mut self, _area: AreaIndex, _location: NewChunk) -> Result<()> {
        Ok(())
    }

    fn exception(&mut self, _area: AreaIndex, _index: u64, exception: Exception) -> Result<()> {
        self.exceptions += 1;
        self.max_new_chunk = self.max_new_chunk.max(Some(exception.new_chunk));
        Ok(())
    }
}

impl Summary {
    /// The status of the store at `cow`, which was walked over.
    ///
    /// # Errors
    /// `Corrupt` where there was no header.
    pub(crate) fn report(self, cow: &Path) -> Result<StatusReport> {
        let Some(StoreHeader {
            header,
            identity,
            identity_damage,
            cow_size_bytes,
        }) = self.header
        else {
            let context = format!("cannot read the header of {}", cow.display());
            return Err(Error::new(crate::ErrorKind::Corrupt, context));
        };
        let layout = Layout::new(header.chunk_size);
        let next_free = layout
            .next_free_after_max(self.max_new_chunk)
            .unwrap_or(NewChunk(u64::MAX));
        let (current_area, _) = layout.entry_position(self.exceptions);
        let device_chunks = header.chunk_size.whole_chunks(cow_size_bytes);
        let free = free_behind(layout, next_free, self.exceptions, device_chunks);
        let origin = identity.and_then(|record| record.origin);
        // A file that can be read once can be gone now; then its filesystem says nothing.
        let room = FileDevice::open_read_only(cow).ok();
        let room = room.and_then(|device| device.room_below());
        let chunk_bytes = header.chunk_size.bytes();
        let space = Space::of_chunks(chunk_bytes, self.exceptions, free, SpaceLimit::Cow).within(
            room,
            layout,
            next_free.0.min(device_chunks),
        );
        let is_all_mapped = origin.is_some_and(|origin| {
            self.exceptions >= header.chunk_size.chunks_to_hold(origin.size_bytes)
        });
        Ok(StatusReport {
            status: if header.is_valid() {
                Status::Active(Usage::persistent(
                    layout,
                    next_free,
                    current_area,
                    cow_size_bytes,
                ))
            } else {
                Status::Invalid
            },
            chunk_size: header.chunk_size,
            exceptions: ExceptionCounts {
                committed: self.exceptions,
                uncommitted: 0,
                free,
            },
            cow_size_bytes,
            snapshot_size_bytes: origin.map(|origin| origin.size_bytes),
            is_full: free == 0 && !is_all_mapped,
            space,
            latched: None,
            label: identity
                .map(|r| r.label.as_str().to_owned())
                .unwrap_or_default(),
            has_identity: origin.is_some(),
            origin_changing: identity.is_some_and(|record| record.origin_changing),
            identity_damage: identity_damage.map(|damage| damage.to_string()),
            is_persistent: true,
            journal: JournalReport::default(),
            counters: Counters::default(),
        })
    }
}
