//! Chunks written to before their numbers are handed out, where commits are small.
//!
//! A write that gives a file a block, or turns a reserved one into a written one, makes the next
//! sync commit the filesystem's journal as well: more flushes of the disk, and more of its sectors
//! than a few chunks have. Zeros, written for many chunks at once, pay that once for all of them
//! (DESIGN.md, "Chunks written ahead").

use std::sync::{Mutex, PoisonError};

use usnap_format::{AreaIndex, NewChunk};

use super::{PersistentStore, State};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::num::to_usize;

/// Commits of more data than this pay the filesystem's journal themselves: for them writing twice
/// costs more.
const BATCH_BYTES_MAX: u64 = 32 << 10;
/// So many zeros are written at once.
const STEP_BYTES: u64 = 256 << 10;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Held while zeros are written, so that nobody's chunk is among them.
#[derive(Default)]
pub(super) struct Ahead(Mutex<()>);

impl PersistentStore {
    /// A commit of so many exceptions is sealed: whether those to come are written ahead.
    pub(super) fn choose_write_ahead(&self, state: &mut State, batch_len: u64) {
        let batch_bytes = batch_len.saturating_mul(self.layout.chunk_size.bytes());
        if batch_len == 0 || batch_bytes > BATCH_BYTES_MAX || !self.device.prefers_rewrites() {
            return;
        }
        state.allocator.write_ahead();
    }

    /// Writes zeros to chunks behind `first`, which whoever takes it writes whole. Where that is of
    /// no use any more, or fails, numbers are handed out as they come: nothing depends on it.
    pub(super) fn write_ahead(&self, first: NewChunk) {
        let writing = self.room.ahead.0.lock();
        let _writing = writing.unwrap_or_else(PoisonError::into_inner);
        let chunk_bytes = self.layout.chunk_size.bytes();
        let end = {
            let mut state = self.state();
            if !state.allocator.needs_zeros(first) {
                return;
            }
            let waiting = state.written.len() as u64;
            if waiting.saturating_mul(chunk_bytes) > BATCH_BYTES_MAX {
                state.allocator.end_write_ahead();
                return;
            }
            let end = first.0.saturating_add(STEP_BYTES / chunk_bytes);
            // Behind a number that was never taken no area is written but by commits: those are
            // left alone.
            let area = first.0.saturating_sub(1) / self.layout.chunk_size.stride() + 1;
            let next_area = self.layout.area_location(AreaIndex(area));
            end.min(next_area.map_or(end, |location| location.0))
                .min(state.allocator.device_chunks())
                .min(state.allocator.reserved_data().0)
        };
        // Until they are said to be written none of these numbers is taken.
        let written = self.fill_holes((first.0 + 1) * chunk_bytes, end.saturating_mul(chunk_bytes));
        let mut state = self.state();
        match written {
            Ok(()) => state
                .allocator
                .written_up_to(NewChunk(end.max(first.0 + 1))),
            Err(_) => state.allocator.end_write_ahead(),
        }
    }

    /// Writes zeros where the device has holes between these bytes.
    fn fill_holes(&self, mut offset: u64, end: u64) -> Result<()> {
        while offset < end {
            let extent = self.device.extent_at(offset, end - offset)?;
            let extent_end = offset.saturating_add(extent.len).min(end);
            while extent.hole && offset < extent_end {
                let len = (extent_end - offset).min(ZEROS.len() as u64);
                let zeros = ZEROS.get(..to_usize(len)).unwrap_or(&ZEROS);
                self.device.write_at(zeros, offset)?;
                offset += len;
            }
            offset = extent_end;
        }
        Ok(())
    }
}
