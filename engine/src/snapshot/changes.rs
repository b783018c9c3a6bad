//! What a writable open changes, once nothing is refused any more.
//!
//! A sync that fails in here is told once: the next one says that all is well, and the page cache
//! shows what is not on the disk. So whatever fails, the cache is dropped, and the next open reads
//! the disk. What is replayed was proved before, so it may be replayed again.

use std::path::Path;
use std::sync::Arc;

use usnap_format::{Exception, IdentityRecord};

use super::JournalMode;
use super::before::Before;
use super::belongs::GrownTail;
use super::session::{Beginning, OpenSession};
use super::waiting::prove;
use crate::device::{BlockDevice, FileDevice, StampedDevice};
use crate::error::Result;
use crate::journal::{Found, Journal};
use crate::store::persistent::open::Loaded;
use crate::store::persistent::walk::HeaderSector;

/// What is done to a COW device before it is served.
pub(super) struct Changes<'a> {
    pub(super) cow: &'a Path,
    pub(super) file: &'a Arc<FileDevice>,
    pub(super) sector: &'a HeaderSector,
    pub(super) before: &'a Before,
    pub(super) origin: &'a dyn BlockDevice,
    /// What is noted in the waiting journal and not on the device.
    pub(super) missing: &'a [Exception],
    /// What an origin that grew adds to a written chunk.
    pub(super) grown: Option<GrownTail>,
    /// The record that names the new session; without one there is none.
    pub(super) record: Option<IdentityRecord>,
    pub(super) mode: JournalMode,
}

/// The session that has begun, where there is one; and its journal, or why it has none.
pub(super) struct Begun {
    pub(super) session: Option<OpenSession>,
    pub(super) journal: std::result::Result<Journal, String>,
}

impl Changes<'_> {
    /// # Errors
    /// `Corrupt`, `NoSpace`, `Io`.
    pub(super) fn carry_out(self, loaded: &mut Loaded) -> Result<Begun> {
        let old = match self.before.open(self.cow, self.mode) {
            // Nothing depends on it.
            Err(_) if self.missing.is_empty() => None,
            opened => opened?,
        };
        let file = self.file;
        self.carry_out_with(loaded, old.as_ref())
            .inspect_err(|_| file.drop_page_cache())
    }

    fn carry_out_with(self, loaded: &mut Loaded, old: Option<&Found>) -> Result<Begun> {
        let file = self.file;
        if !self.missing.is_empty() {
            prove(&**file, old)?;
        }
        let device = StampedDevice::new(&**file, old.map(Found::stamp));
        loaded.settle(&device)?;
        if let Some(grown) = self.grown {
            grown.complete(self.origin, &device, loaded.layout.chunk_size)?;
        }
        loaded.replay(&device, self.missing)?;
        let Some(record) = self.record else {
            return Ok(Begun {
                session: None,
                journal: Err("the COW device has no identity record to name it".to_owned()),
            });
        };
        let beginning = Beginning {
            cow: self.cow,
            file,
            raw: self.sector.raw,
            record,
            layout: loaded.layout,
            mode: self.mode,
            base: loaded.base(),
            before: self.before,
            old,
        };
        let (session, journal) = beginning.begin()?;
        Ok(Begun {
            session: Some(session),
            journal,
        })
    }
}
