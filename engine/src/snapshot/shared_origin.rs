//! A snapshot of an origin that is written to, through `snapshot_origin`: what was read from the
//! origin is believed if its chunks have no exception afterwards either (DESIGN.md, "The origin,
//! served writable", invariant 2). And its end, where it can't be kept: `valid` becomes 0.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock};

use usnap_format::{DiskHeader, HEADER_LEN, IDENTITY_LEN, IDENTITY_OFFSET, IdentityRecord};

use super::Snapshot;
use super::map::Place;
use super::session::OpenSession;
use crate::device::{Attempt, BlockDevice, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::num::{SECTOR_LEN, to_usize};

/// What such a snapshot has more than others.
pub(super) struct SharedOrigin {
    /// The COW device below its latch, for the one write that comes after the end.
    cow: Arc<dyn BlockDevice>,
    ended: OnceLock<String>,
}

impl SharedOrigin {
    pub(super) fn new(cow: Arc<dyn BlockDevice>) -> Self {
        Self {
            cow,
            ended: OnceLock::new(),
        }
    }
}

impl Snapshot {
    /// Why nothing is answered any more, if so.
    pub(crate) fn why_ended(&self) -> Option<&str> {
        let shared = self.shared_origin.as_ref()?;
        shared.ended.get().map(String::as_str)
    }

    /// Answers nothing from here on, for this reason; the first one stays. Requests that are under
    /// way look when they are done.
    pub(crate) fn end(&self, why: &str) {
        if let Some(shared) = &self.shared_origin {
            let _first_stays = shared.ended.set(why.to_owned());
        }
    }

    /// Writes nothing more to the COW device, whatever is not committed.
    pub(crate) fn shut(&self) {
        let why = self.why_ended().unwrap_or("it is not used any more");
        self.store.shut(&Error::new(
            ErrorKind::Io,
            format!("the snapshot ended: {why}"),
        ));
    }

    #[inline]
    pub(super) fn refuse_if_ended(&self) -> Result<()> {
        match self.why_ended() {
            None => Ok(()),
            Some(why) => Err(ended(&self.name, why)),
        }
    }

    pub(super) fn read_shared(
        &self,
        shared: &SharedOrigin,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<()> {
        self.read_again(shared, buf, offset, |device, piece, at| {
            device.read_at(piece, at).map(|()| Attempt::Done)
        })
        .map(|_| ())
    }

    /// As `read_shared`, giving up at the first run that would have to wait for a disk.
    pub(super) fn try_read_shared(
        &self,
        shared: &SharedOrigin,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Attempt> {
        self.read_again(shared, buf, offset, |device, piece, at| {
            device.try_read_at(piece, at)
        })
    }

    fn read_again(
        &self,
        shared: &SharedOrigin,
        buf: &mut [u8],
        offset: u64,
        read: impl Fn(&dyn BlockDevice, &mut [u8], u64) -> Result<Attempt>,
    ) -> Result<Attempt> {
        let mut from = 0;
        while let Some(rest) = buf.get_mut(from..).filter(|rest| !rest.is_empty()) {
            let at = offset + from as u64;
            let piece = self.map(at, rest.len() as u64);
            let len = to_usize(piece.len).min(rest.len());
            let (now, _) = rest.split_at_mut(len);
            let (attempt, done) = match piece.place {
                Place::Origin => {
                    let attempt = read(&*self.origin, now, at)?;
                    (attempt, self.still_unmapped(at, piece.len))
                }
                Place::Cow { offset: cow_offset } => {
                    self.refuse_if_lost(at, piece.len)?;
                    self.refuse_if_gone(cow_offset, piece.len)?;
                    (read(self.store.device(), now, cow_offset)?, piece.len)
                }
            };
            if attempt == Attempt::WouldBlock {
                return Ok(attempt);
            }
            from += to_usize(done);
        }
        // Only now: whoever ends a snapshot says so before it lets the origin change.
        if let Some(why) = shared.ended.get() {
            return Err(ended(&self.name, why));
        }
        Ok(Attempt::Done)
    }

    pub(super) fn extent_shared(
        &self,
        shared: &SharedOrigin,
        offset: u64,
        len: u64,
    ) -> Result<Extent> {
        loop {
            let (mut extent, is_origins) = self.placed_extent(offset, len)?;
            if is_origins {
                extent.len = self.still_unmapped(offset, extent.len);
            }
            if let Some(why) = shared.ended.get() {
                return Err(ended(&self.name, why));
            }
            // Else the first chunk is mapped by now, and stays so.
            if extent.len > 0 {
                return Ok(extent);
            }
        }
    }

    /// Between a look at the origin and the look at the exceptions that tells what it was worth.
    pub(super) fn before_second_look(&self) {
        if self.shared_origin.is_some() {
            // Pairs with the fence between a save and the write to the origin: who saw what was
            // written sees the exception, too.
            fence(Ordering::SeqCst);
        }
    }

    /// How many bytes from `offset` on, of these `len`, have no exception: what was read of them
    /// from the origin before is from before any change.
    fn still_unmapped(&self, offset: u64, len: u64) -> u64 {
        self.before_second_look();
        let mut unmapped = 0;
        while unmapped < len {
            let piece = self.map(offset + unmapped, len - unmapped);
            if matches!(piece.place, Place::Cow { .. }) {
                break;
            }
            unmapped += piece.len;
        }
        unmapped
    }

    /// Says on the COW device, durably, that this is no snapshot any more: `valid` is 0, and the
    /// record says that the origin goes on. For one that has ended and is shut.
    ///
    /// # Errors
    /// `Io`, `NoSpace`, `Corrupt` where there is another header by now.
    pub(crate) fn invalidate(&self) -> Result<()> {
        let Some(shared) = &self.shared_origin else {
            return Ok(());
        };
        let write = || {
            let mut sector = [0; SECTOR_LEN];
            shared.cow.read_at(&mut sector, 0)?;
            invalidate_sector(&mut sector)?;
            shared.cow.write_at(&sector, 0)?;
            shared.cow.flush()
        };
        write().map_err(|e| {
            let name = shared.cow.name();
            e.context(format!("cannot invalidate COW device {name}"))
        })?;
        self.session.iter().for_each(OpenSession::remove_journal);
        Ok(())
    }
}

/// Both lie in one sector, so a power cut leaves both or neither.
fn invalidate_sector(sector: &mut [u8; SECTOR_LEN]) -> Result<()> {
    if let Some(header) = sector.first_chunk_mut::<HEADER_LEN>() {
        let mut found = DiskHeader::decode(header);
        found.validate()?;
        found.valid = 0;
        *header = found.encode();
    }
    let record = sector
        .get_mut(to_usize(IDENTITY_OFFSET)..)
        .and_then(<[u8]>::first_chunk_mut::<IDENTITY_LEN>);
    if let Some(record) = record
        && let Ok(Some(found)) = IdentityRecord::decode(record, crc32fast::hash)
    {
        let ended = IdentityRecord {
            origin_changing: found.origin.is_some(),
            session: [0; 16],
            boot_id: [0; 16],
            clean: true,
            has_journal: false,
            ..found
        };
        *record = ended.encode(crc32fast::hash);
    }
    Ok(())
}

#[cold]
fn ended(name: &str, why: &str) -> Error {
    Error::new(ErrorKind::Io, format!("cannot use {name}: {why}"))
}
