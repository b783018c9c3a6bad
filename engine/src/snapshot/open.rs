//! Putting a snapshot together from an origin and a COW device.
//!
//! Everything that may refuse comes first and changes nothing; then what a writable open changes
//! (DESIGN.md, "Opening").

use std::path::Path;
use std::sync::Arc;

use usnap_format::{ChunkSize, IdentityRecord};

use super::before::Before;
use super::belongs::{
    GrownTail, Match, cannot_pair, is_fresh, match_origin, match_shared_origin, no_origin,
    refuse_same_file,
};
use super::changes::{Begun, Changes};
use super::devices::Parts;
use super::shared_origin::SharedOrigin;
use super::waiting::JournalMode;
use super::{Discard, Durability, Snapshot};
use crate::device::{BlockDevice, FileDevice, LatchedDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journal;
use crate::origin::{Identify, Origin};
use crate::store::cow_file;
use crate::store::persistent::open::load;
use crate::store::persistent::walk::HeaderSector;
use crate::table::Loading;

/// How a snapshot is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotOptions {
    /// When writes become durable.
    pub durability: Durability,
    /// What a discard does.
    pub discard: Discard,
    /// Serve although the origin is not the one the COW device was made for.
    pub force_origin: bool,
    /// Write this origin's identity into the COW device: into one that has none, or, together with
    /// `force_origin`, over another's.
    pub adopt: bool,
    /// Change nothing, not even what a writable open would tidy up.
    pub read_only: bool,
    /// What becomes of a journal that a killed server left, and whether a new one is kept.
    pub journal: JournalMode,
    /// The chunk size of the store that is made if the COW device is unused.
    pub chunk_size_if_unused: ChunkSize,
    /// Make the COW file longer by itself when it is full, up to so many bytes. A block device
    /// can't be made longer.
    pub max_cow_bytes: Option<u64>,
}

impl Snapshot {
    /// Opens the snapshot of `origin` kept in the COW device at `cow`. Also returns what a person
    /// should know, a sentence each.
    ///
    /// # Errors
    /// `OriginMismatch`, `InUse` (naming the holder), `Foreign`, `Corrupt`, `InvalidStore`,
    /// `JournalInDoubt`, `NotFound`, `Io`. Nothing was changed then, but by an `Io` error of a write.
    pub fn open(
        origin: &Arc<Origin>,
        cow: &Path,
        options: &SnapshotOptions,
    ) -> Result<(Self, Vec<String>)> {
        let origin = Arc::clone(origin) as Arc<dyn Identify>;
        Self::open_on(&origin, cow, options, None)
    }

    /// As `open`, of an origin that is written to meanwhile, by a caller that saves what it replaces,
    /// and that says whether it wrote already. Until the snapshot is closed over it the record says
    /// that the origin changes.
    ///
    /// # Errors
    /// As `open`.
    pub(crate) fn open_on_shared_origin(
        origin: &Arc<dyn Identify>,
        cow: &Path,
        options: &SnapshotOptions,
        was_changed: bool,
    ) -> Result<(Self, Vec<String>)> {
        Self::open_on(origin, cow, options, Some(was_changed))
    }

    fn open_on(
        origin: &Arc<dyn Identify>,
        cow: &Path,
        options: &SnapshotOptions,
        shared: Option<bool>,
    ) -> Result<(Self, Vec<String>)> {
        let is_shared = shared.is_some();
        refuse_same_file(&**origin, cow)?;
        let opened = cow_file::open(cow, options.read_only, options.chunk_size_if_unused)?;
        let chunk_size = opened.chunk_size;
        let loading = Loading::new(chunk_size.chunks_to_hold(origin.size_bytes()))?;
        let mut notes = opened.warnings.clone();
        let (record, damage) = match &opened.sector {
            Some(HeaderSector { identity, .. }) => (identity.ok().flatten(), identity.err()),
            None => (Some(IdentityRecord::default()), None),
        };
        if let Some(damage) = damage {
            let name = cow.display();
            notes.push(format!(
                "the identity record of {name} is ignored: {damage}"
            ));
        }
        let mut matched = match shared {
            Some(was_changed) => match_shared_origin(&**origin, record.as_ref(), was_changed)?,
            None => match_origin(&**origin, record.as_ref())?,
        };
        // One that is to begin now, if nothing is kept in it.
        let is_fresh = is_shared && is_fresh(record.as_ref(), origin.size_bytes());
        if let Match::Different(why) = &matched {
            if options.force_origin {
                notes.push(format!("{why}; served all the same (--force-origin)"));
            } else if !is_fresh {
                return Err(different(why, &**origin, cow));
            }
        }
        // An origin that is written to has to be the one on record, in the end at the latest.
        let adopts = options.adopt || is_shared && matches!(matched, Match::Different(_));
        let before = Before::look(cow, &opened.device, record.as_ref());
        refuse_hopeless(&before, cow, &opened.device, options.journal)?;
        // Read before anything is written, since it may fail.
        let may_adopt = !options.read_only && (adopts || matches!(matched, Match::New));
        let identity = may_adopt.then(|| origin.identify()).transpose()?;
        let sector = match opened.sector {
            Some(sector) => sector,
            None => {
                let name = cow.display();
                notes.push(format!("COW device {name} was all zeros: made a new store"));
                opened
                    .initialise()
                    .inspect_err(|_| opened.device.drop_page_cache())?
            }
        };
        let (mut loaded, table) = load(&*opened.device, &sector, loading, before.journal_notes())?;
        if !options.force_origin {
            refuse_beyond_origin(loaded.beyond_origin, &**origin, cow)?;
        }
        let missing = match &before.waiting {
            Some(waiting) => {
                waiting.judge(&cow.display().to_string(), &loaded, &table, options.journal)?
            }
            None => Vec::new(),
        };
        loaded.add(&missing, &table);
        if let Match::Different(why) = &matched
            && !options.force_origin
        {
            if loaded.committed + loaded.uncommitted > 0 {
                return Err(different(why, &**origin, cow));
            }
            notes.push(format!(
                "{why}; nothing is kept in it yet, so its moment is now"
            ));
        }
        if matches!(matched, Match::New) && loaded.committed + loaded.uncommitted > 0 {
            // Somebody wrote to it over an origin that nobody noted down.
            matched = no_origin();
        }
        let adopt = may_adopt && (adopts || matches!(matched, Match::New));
        if let Match::Unknown { why, way_out } = matched
            && !adopt
        {
            notes.push(format!("{why}{way_out}"));
        }
        let recorded = record.and_then(|record| record.origin);
        let grown = recorded.and_then(|recorded| {
            GrownTail::find(&table, chunk_size, recorded.size_bytes, origin.size_bytes())
        });
        if let Some(grown) = &grown
            && !adopt
        {
            return Err(grown.refusal(&**origin, cow));
        }
        notes.extend(before.notes(cow, options, missing.len() as u64));

        // Nothing was changed so far, and nothing is refused from here on.
        let mut begun = Begun {
            session: None,
            journal: Err("it is only read".to_owned()),
        };
        if !options.read_only {
            if loaded.junk_offset.is_some() {
                notes.push(format!(
                    "cleared what an interrupted commit left behind the last entry{}",
                    loaded.leftover.describe()
                ));
            }
            let record = match identity.filter(|_| adopt) {
                Some(identity) => Some(IdentityRecord {
                    origin: Some(identity),
                    // It is known again as it is now.
                    origin_changing: false,
                    ..record.unwrap_or_default()
                }),
                None => record,
            };
            let record = record.map(|record| IdentityRecord {
                origin_changing: record.origin_changing || is_shared && record.origin.is_some(),
                ..record
            });
            let changes = Changes {
                cow,
                file: &opened.device,
                sector: &sector,
                before: &before,
                origin: &**origin,
                missing: &missing,
                grown,
                record,
                mode: options.journal,
            };
            begun = changes.carry_out(&mut loaded)?;
        }
        let Begun { session, journal } = begun;
        if adopt {
            notes.push(format!(
                "COW device {} is tied to origin {} from now on",
                cow.display(),
                origin.name()
            ));
        }
        if let Err(why) = &journal
            && !options.read_only
            && options.journal != JournalMode::Off
        {
            notes.push(format!(
                "no journal is kept, so what is not flushed does not survive a kill of the server: \
                 {why}"
            ));
        }
        let report = before.report(options.read_only, missing.len() as u64, &journal, &session);
        let stamp = journal.as_ref().ok().map(Journal::stamp);
        let shared_origin = is_shared.then(|| {
            let cow = Arc::clone(&opened.device) as Arc<dyn BlockDevice>;
            Box::new(SharedOrigin::new(cow))
        });
        let parts = Parts {
            origin: Arc::clone(origin) as Arc<dyn BlockDevice>,
            device: Arc::new(LatchedDevice::with_stamp(opened.device, stamp)),
            table,
            loaded,
            journal: journal.ok(),
        };
        let snapshot = Self {
            label: record.unwrap_or_default().label,
            has_identity: recorded.is_some() || adopt,
            origin_changing: record.is_some_and(|record| record.origin_changing) && !adopt,
            identity_damage: damage.filter(|_| !adopt),
            session,
            journal: report,
            shared_origin,
            ..parts.assemble(options)
        };
        Ok((snapshot, notes))
    }
}

#[cold]
fn different(why: &str, origin: &dyn Identify, cow: &Path) -> Error {
    let context = format!("{}: {why}", cannot_pair(origin, cow));
    Error::new(ErrorKind::OriginMismatch, context)
        .with_hint("use the origin it was made for; or, if you are certain, --force-origin")
}

/// Refuses a journal that no store can make believable. Where nobody can say that no flush failed
/// in the session before, what the page cache shows may not be on the disk: it is read anew.
fn refuse_hopeless(
    before: &Before,
    cow: &Path,
    device: &FileDevice,
    mode: JournalMode,
) -> Result<()> {
    if let Some(waiting) = &before.waiting {
        waiting.refuse_hopeless(&cow.display().to_string(), mode)?;
    }
    if before.may_have_latched() {
        device.drop_page_cache();
    }
    Ok(())
}

pub(crate) fn refuse_beyond_origin(
    beyond_origin: u64,
    origin: &dyn Identify,
    cow: &Path,
) -> Result<()> {
    if beyond_origin == 0 {
        return Ok(());
    }
    let context = format!(
        "{}: {} of its chunks lie behind the origin's end of {} bytes",
        cannot_pair(origin, cow),
        beyond_origin,
        origin.size_bytes()
    );
    Err(Error::new(ErrorKind::OriginMismatch, context)
        .with_hint("the origin is too short; use the one it was made for"))
}
