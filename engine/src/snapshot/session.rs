//! The session of a COW file that is served: its number on the device, and its journal.
//!
//! The order of a beginning: the new journal, which is empty and names the new session; the record
//! on the device, durable, stamped in both journals; then the old journal goes. A process that is
//! killed in between leaves one of the two believable, and neither of them misses anything.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use usnap_format::{HEADER_LEN, IdentityRecord, Layout, OriginIdentity};

use super::JournalMode;
use super::before::Before;
use crate::device::{FileDevice, StampedDevice};
use crate::error::Result;
use crate::journal::{Base, Found, Journal, SLOTS_MAX, Session, Stamp, Witness, place};
use crate::store::persistent::create::write_identity;

/// Fewer slots than this would save nothing.
const SLOTS_MIN: u64 = 1 << 10;

/// A session that has begun: the device names it and says that it is not over.
pub(super) struct OpenSession {
    file: Arc<FileDevice>,
    raw: [u8; HEADER_LEN],
    record: IdentityRecord,
    stamp: Option<Arc<Stamp>>,
    /// Where the journal lies.
    pub(super) path: Option<PathBuf>,
    /// What was made there: its filesystem and inode.
    made: Option<(u64, u64)>,
    is_lost: AtomicBool,
    is_ending: AtomicBool,
}

/// Filesystem and inode of what lies at `path`.
fn place_of(path: &Path) -> std::io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// What a session begins with.
pub(super) struct Beginning<'a> {
    pub(super) cow: &'a Path,
    pub(super) file: &'a Arc<FileDevice>,
    /// The first bytes of the header, as they were read.
    pub(super) raw: [u8; HEADER_LEN],
    pub(super) record: IdentityRecord,
    pub(super) layout: Layout,
    pub(super) mode: JournalMode,
    /// What is committed.
    pub(super) base: Base,
    pub(super) before: &'a Before,
    /// The journal of the session before, which counts until this one has begun.
    pub(super) old: Option<&'a Found>,
}

impl Beginning<'_> {
    /// Begins the session. Where it has no journal, the sentence says why.
    ///
    /// # Errors
    /// `Corrupt` where somebody else changed the header, `NoSpace`, `Io`. Then the session before is
    /// still the device's.
    pub(super) fn begin(self) -> Result<(OpenSession, std::result::Result<Journal, String>)> {
        let session = Session::random()?;
        let witness = Witness::of(self.file.file());
        let made = match &witness {
            Ok(witness) => self.make_journal(session, witness),
            Err(error) => Err(format!("{error:?}")),
        };
        let (journal, path) = match made {
            Ok((journal, path)) => (Ok(journal), Some(path)),
            Err(why) => (Err(why), None),
        };
        let record = IdentityRecord {
            session: session.0,
            boot_id: witness.as_ref().map_or([0; 16], |witness| witness.boot_id),
            clean: false,
            has_journal: journal.is_ok(),
            ..self.record
        };
        let stamp = journal.as_ref().ok().map(Journal::stamp);
        let stamps = self.old.map(Found::stamp).into_iter().chain(stamp.clone());
        let device = StampedDevice::new(&**self.file, stamps);
        if let Err(error) = write_identity(&device, &self.raw, &record) {
            path.iter().for_each(|path| place::remove(path));
            return Err(error);
        }
        self.before.remove();
        if let Ok(witness) = &witness {
            place::remove_left_over(self.cow, session, witness);
        }
        let session = OpenSession {
            file: Arc::clone(self.file),
            raw: self.raw,
            record,
            stamp,
            made: path.as_deref().and_then(|path| place_of(path).ok()),
            path,
            is_lost: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
        };
        Ok((session, journal))
    }

    fn make_journal(
        &self,
        session: Session,
        witness: &Witness,
    ) -> std::result::Result<(Journal, PathBuf), String> {
        if self.mode == JournalMode::Off {
            return Err("none was asked for".to_owned());
        }
        let device_chunks = self.layout.chunk_size.whole_chunks(witness.size_bytes);
        let slots = self
            .layout
            .capacity(device_chunks)
            .clamp(SLOTS_MIN, SLOTS_MAX);
        let (memory, path) = place::create(self.cow, witness.is_block, session, slots)
            .map_err(|reasons| reasons.join("; "))?;
        match Journal::begin(memory, session, witness, self.base) {
            Ok(journal) => Ok((journal, path)),
            Err(error) => {
                place::remove(&path);
                Err(format!("{error:?}"))
            }
        }
    }
}

impl OpenSession {
    /// Says on the device that the session ended in order, durably; then the journal goes. With it
    /// comes the origin's identity, where the session changed the origin.
    ///
    /// # Errors
    /// As `write_identity`; the journal stays.
    pub(super) fn end(&self, origin: Option<OriginIdentity>) -> Result<()> {
        self.is_ending.store(true, Ordering::SeqCst);
        let record = IdentityRecord {
            clean: true,
            has_journal: false,
            ..self.record
        };
        let record = match origin {
            // One that has none on record goes on without.
            Some(origin) if record.origin.is_some() => IdentityRecord {
                origin: Some(origin),
                origin_changing: false,
                ..record
            },
            _ => record,
        };
        let device = StampedDevice::new(&*self.file, self.stamp.clone());
        write_identity(&device, &self.raw, &record)?;
        self.remove_journal();
        Ok(())
    }

    /// Removes the journal, whose notes nobody needs any more.
    pub(super) fn remove_journal(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        if !self.is_lost.load(Ordering::SeqCst) {
            self.path.iter().for_each(|path| place::remove(path));
        }
    }

    /// Looks whether somebody removed the journal file, or put another in its place: what is noted
    /// from then on nobody finds. Said in the log once.
    pub(super) fn has_lost_journal(&self) -> bool {
        let (Some(path), Some(made)) = (&self.path, self.made) else {
            return false;
        };
        let is_gone = match place_of(path) {
            Ok(found) => found != made,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        // Looked at behind the file: an end in order removes it.
        if is_gone
            && !self.is_ending.load(Ordering::SeqCst)
            && !self.is_lost.swap(true, Ordering::SeqCst)
        {
            tracing::warn!(
                "the journal {} was removed, moved or replaced: what is not flushed does not \
                 survive a kill of the server any more; start it anew, in order, for another one",
                path.display()
            );
        }
        self.is_lost.load(Ordering::SeqCst)
    }
}
