//! What a writable open does to a store before it is served, once nothing speaks against it.

use usnap_format::{AreaIndex, Exception};

use super::commit::area_offset;
use super::open::Loaded;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::num::to_usize;

impl Loaded {
    /// Makes the store fit to be written to: bytes behind the terminator are zeroed and synced, so
    /// that they never come alive, and the current area has its space (DESIGN.md, "Opening").
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(crate) fn settle(&mut self, device: &dyn BlockDevice) -> Result<()> {
        let area = self.area.position.area;
        self.clear_junk(device, area)?;
        // The area may be a hole, in a copy made sparse.
        let offset = area_offset(self.layout, area)?;
        device.reserve_at(offset, self.layout.chunk_size.bytes())?;
        // Asked now, while nobody else can be using what lies behind the file's end.
        device.can_zero_fast();
        Ok(())
    }

    /// Commits what a journal has and the store has not, sorted by new chunk and added before. A
    /// process that is killed in here leaves a journal that is believed as before.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(crate) fn replay(&mut self, device: &dyn BlockDevice, missing: &[Exception]) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let (last_area, _) = self
            .layout
            .entry_position(self.committed + missing.len() as u64);
        for area in self.area.position.area.0 + 1..=last_area.0 {
            let offset = area_offset(self.layout, AreaIndex(area))?;
            device.reserve_at(offset, self.layout.chunk_size.bytes())?;
        }
        self.area
            .commit(device, self.layout, missing)
            .map_err(|e| {
                e.context(format!(
                    "cannot replay the journal of COW device {}",
                    device.name()
                ))
            })?;
        self.committed += missing.len() as u64;
        self.uncommitted = 0;
        Ok(())
    }

    fn clear_junk(&mut self, device: &dyn BlockDevice, area: AreaIndex) -> Result<()> {
        let Some(junk_offset) = self.junk_offset else {
            return Ok(());
        };
        let Some(junk) = self.area.bytes.get_mut(to_usize(junk_offset)..) else {
            return Ok(());
        };
        junk.fill(0);
        let offset = area_offset(self.layout, area)? + junk_offset;
        device
            .write_at(junk, offset)
            .and_then(|()| device.flush())
            .map_err(|e| {
                e.context(format!(
                    "cannot clear what lies behind the last exception in area {area} of COW device \
                     {}",
                    device.name()
                ))
            })
    }
}
