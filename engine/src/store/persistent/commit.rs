//! Carrying out a commit's plan on the COW device. One thread at a time, the leader, holds the
//! current area; see `mod.rs` for who leads.

use std::ops::Range;

use crc32fast::Hasher;
use usnap_format::{AreaIndex, EXCEPTION_LEN, Exception, Layout, SECTOR_SIZE, encode_exception};

use super::plan::{Plan, Position, Step};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Base;
use crate::num::{SECTOR_LEN, to_usize};

/// The area that has room, as it is on the device, or will be when a failed commit is repeated.
pub(super) struct CurrentArea {
    pub(super) position: Position,
    pub(super) bytes: Vec<u8>,
    /// What commits wrote to the device so far, in bytes.
    pub(super) written_bytes: u64,
    /// Over the bytes of the committed entries.
    hasher: Hasher,
}

impl CurrentArea {
    /// The area at `position`, whose content is `bytes`.
    pub(super) fn new(position: Position, bytes: Vec<u8>) -> Self {
        let mut area = Self {
            position,
            bytes,
            written_bytes: 0,
            hasher: Hasher::new(),
        };
        area.hash(0..position.committed);
        area
    }

    fn hash(&mut self, entries: Range<u64>) {
        let at = |entry: u64| to_usize(entry).saturating_mul(EXCEPTION_LEN);
        let bytes = self.bytes.get(at(entries.start)..at(entries.end));
        self.hasher.update(bytes.unwrap_or_default());
    }

    /// What is committed, as a journal notes it.
    pub(super) fn base(&self, layout: Layout) -> Base {
        let before = self.position.area.0 * layout.chunk_size.exceptions_per_area();
        Base {
            committed: before + self.position.committed,
            area_crc32: self.hasher.clone().finalize(),
        }
    }

    /// Commits `batch`, in its order. On an error the position stays; a repetition must begin with
    /// the same exceptions in the same order, since some of their sectors may be on the device.
    ///
    /// # Errors
    /// `NoSpace` where a write (not a sync) found none: to be repeated. All others are final.
    pub(super) fn commit(
        &mut self,
        device: &dyn BlockDevice,
        layout: Layout,
        batch: &[Exception],
    ) -> Result<()> {
        let plan = Plan::new(layout, self.position, batch.len() as u64);
        self.refuse_if_cut_off(device, layout, &plan, batch)?;
        let (in_current, _) = split(batch, plan.in_current);
        for (index, exception) in (self.position.committed..).zip(in_current) {
            encode_exception(&mut self.bytes, index, *exception)?;
        }
        let mut other_area = Vec::new();
        for step in &plan.steps {
            match step {
                Step::WriteArea { area, exceptions } => {
                    encode_area(layout, &mut other_area, batch, exceptions)?;
                    write_area(device, layout, *area, &other_area)?;
                    self.written_bytes += layout.chunk_size.bytes();
                }
                Step::Sync => device.flush().map_err(final_failure)?,
                Step::WriteSector { sector } => {
                    self.write_sector(device, layout, *sector)?;
                    self.written_bytes += SECTOR_SIZE;
                }
            }
        }
        let mut from = self.position.committed;
        if plan.after.area != self.position.area {
            self.bytes = other_area;
            self.hasher = Hasher::new();
            from = 0;
        }
        self.position = plan.after;
        self.hash(from..plan.after.committed);
        Ok(())
    }

    fn write_sector(&self, device: &dyn BlockDevice, layout: Layout, sector: u64) -> Result<()> {
        let at = sector * SECTOR_SIZE;
        let offset = area_offset(layout, self.position.area)? + at;
        let start = to_usize(at);
        match self.bytes.get(start..start.saturating_add(SECTOR_LEN)) {
            Some(bytes) => device.write_at(bytes, offset),
            None => Err(Error::new(
                ErrorKind::Corrupt,
                format!("cannot commit, a bug in usnap: sector {sector} is outside its area"),
            )),
        }
    }

    /// Writing behind the end of a file that somebody cut off would extend it, over zeros; and an
    /// entry for a chunk that is gone would make the whole store unbelievable.
    fn refuse_if_cut_off(
        &self,
        device: &dyn BlockDevice,
        layout: Layout,
        plan: &Plan,
        batch: &[Exception],
    ) -> Result<()> {
        let area_end = area_offset(layout, plan.after.area)? + layout.chunk_size.bytes();
        let last_chunk = batch.iter().map(|exception| exception.new_chunk).max();
        let data_end = last_chunk
            .and_then(|chunk| layout.chunk_size.new_to_offset(chunk))
            .map_or(0, |offset| offset + layout.chunk_size.bytes());
        let end = area_end.max(data_end);
        let size_bytes = device.size_bytes();
        if end <= size_bytes {
            return Ok(());
        }
        let context = format!(
            "cannot commit to COW device {}: it was cut off to {size_bytes} bytes, and what was \
             written reaches to {end}",
            device.name(),
        );
        Err(Error::new(ErrorKind::Io, context))
    }
}

fn split(batch: &[Exception], at: u64) -> (&[Exception], &[Exception]) {
    batch.split_at_checked(to_usize(at)).unwrap_or((batch, &[]))
}

/// Fills `bytes` with one area: these exceptions of the batch, then zeros.
pub(crate) fn encode_area(
    layout: Layout,
    bytes: &mut Vec<u8>,
    batch: &[Exception],
    exceptions: &Range<u64>,
) -> Result<()> {
    bytes.clear();
    bytes.resize(to_usize(layout.chunk_size.bytes()), 0);
    let (_, from_start) = split(batch, exceptions.start);
    let (these, _) = split(from_start, exceptions.end - exceptions.start);
    for (index, exception) in (0..).zip(these) {
        encode_exception(bytes, index, *exception)?;
    }
    Ok(())
}

fn write_area(
    device: &dyn BlockDevice,
    layout: Layout,
    area: AreaIndex,
    bytes: &[u8],
) -> Result<()> {
    device.write_at(bytes, area_offset(layout, area)?)
}

/// Where an area begins on the COW device, in bytes.
pub(crate) fn area_offset(layout: Layout, area: AreaIndex) -> Result<u64> {
    layout
        .area_location(area)
        .and_then(|location| layout.chunk_size.new_to_offset(location))
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("cannot locate area {area}")))
}

/// A sync that failed can't be repeated, whatever its reason: the kernel forgets which pages it
/// could not write (DESIGN.md, "When a flush fails").
fn final_failure(error: Error) -> Error {
    if error.kind() == ErrorKind::NoSpace {
        error.with_kind(ErrorKind::Io)
    } else {
        error
    }
}
