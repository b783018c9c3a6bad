//! Putting a snapshot together: origin, COW device, and the question whether they belong together.

use std::path::Path;
use std::sync::Arc;

use usnap_format::{ChunkSize, IdentityRecord, Label, OldChunk};

use super::status::AtomicCounters;
use super::{Durability, Snapshot};
use crate::device::{BlockDevice, LatchedDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::origin::{Origin, identity};
use crate::store::cow_file::{self, OpenCow};
use crate::store::persistent::create::write_identity;
use crate::store::persistent::walk::{HeaderSector, read_header};
use crate::store::persistent::{LoadNotes, PersistentStore};
use crate::store::transient::TransientStore;
use crate::table::{ExceptionTable, Slot};

/// How a snapshot is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotOptions {
    /// When writes become durable.
    pub durability: Durability,
    /// Serve although the origin is not the one the COW device was made for.
    pub force_origin: bool,
    /// Write this origin's identity into the COW device: into one that has none, or, together with
    /// `force_origin`, over another's.
    pub adopt: bool,
    /// Change nothing, not even what a writable open would tidy up.
    pub read_only: bool,
    /// The chunk size of the store that is made if the COW device is unused.
    pub chunk_size_if_unused: ChunkSize,
}

const NO_ORIGIN: &str = "the COW device does not say which origin it belongs to: a changed origin \
     would go unnoticed; --adopt ties it to this one";

/// How origin and COW device belong together.
enum Match {
    /// They do.
    Same,
    /// Nothing says so; the sentence for the user.
    Unknown(String),
    /// The record has no origin yet: an empty store is this origin's from now on.
    New,
    /// They don't; the sentence for the user.
    Different(String),
}

impl Snapshot {
    /// Opens the snapshot of `origin` kept in the COW device at `cow`. Also returns what a person
    /// should know, a sentence each.
    ///
    /// # Errors
    /// `OriginMismatch`, `InUse` (naming the holder), `Foreign`, `Corrupt`, `InvalidStore`,
    /// `NotFound`, `Io`. Nothing was changed then.
    pub fn open(
        origin: &Arc<Origin>,
        cow: &Path,
        options: &SnapshotOptions,
    ) -> Result<(Self, Vec<String>)> {
        refuse_same_file(origin, cow)?;
        let OpenCow {
            device,
            sector,
            initialised,
            warnings,
        } = cow_file::open(cow, options.read_only, options.chunk_size_if_unused)?;
        let mut notes = warnings;
        if initialised {
            notes.push(format!(
                "COW device {} was all zeros: made a new store",
                cow.display()
            ));
        }
        let record = sector.identity.unwrap_or_else(|e| {
            notes.push(format!(
                "the identity record of {} is ignored: {e}",
                cow.display()
            ));
            None
        });
        let mut matched = match_origin(origin, record.as_ref())?;
        if let Match::Different(why) = &matched {
            if !options.force_origin {
                let context = format!("{}: {why}", cannot_pair(origin, cow));
                return Err(Error::new(ErrorKind::OriginMismatch, context).with_hint(
                    "use the origin it was made for; or, if you are certain, --force-origin",
                ));
            }
            notes.push(format!("{why}; served all the same (--force-origin)"));
        }
        let mut snapshot = Self::load(origin.clone(), device.clone(), &sector, options, |found| {
            if found.beyond_origin > 0 && !options.force_origin {
                let context = format!(
                    "{}: {} of its chunks lie behind the origin's end of {} bytes",
                    cannot_pair(origin, cow),
                    found.beyond_origin,
                    origin.size_bytes()
                );
                return Err(Error::new(ErrorKind::OriginMismatch, context)
                    .with_hint("the origin is too short; use the one it was made for"));
            }
            if found.junk_found && !options.read_only {
                notes.push("cleared what an interrupted commit left behind the last entry".into());
            }
            if matches!(matched, Match::New) && found.committed > 0 {
                // Somebody wrote to it over an origin that nobody noted down.
                matched = Match::Unknown(NO_ORIGIN.to_owned());
            }
            Ok(())
        })?;
        let adopt = !options.read_only && (options.adopt || matches!(matched, Match::New));
        if let Match::Unknown(note) = matched
            && !adopt
        {
            notes.push(note);
        }
        let recorded = record.and_then(|record| record.origin);
        if let Some(recorded) = recorded {
            snapshot.follow_growth(recorded.size_bytes, adopt)?;
        }
        snapshot.label = record.map_or_else(Label::default, |record| record.label);
        snapshot.has_identity = recorded.is_some();
        snapshot.identity_damage = sector.identity.err();
        if adopt {
            let record = IdentityRecord {
                origin: Some(origin.identity()?),
                ..record.unwrap_or_default()
            };
            write_identity(&*device, &sector.raw, &record)?;
            snapshot.has_identity = true;
            snapshot.identity_damage = None;
            notes.push(format!(
                "COW device {} is tied to origin {} from now on",
                cow.display(),
                origin.name()
            ));
        }
        Ok((snapshot, notes))
    }

    /// An origin that grew: if it ended inside a chunk that is mapped, the rest of that chunk is
    /// zeros on the COW device and has to become the origin's. That can be done once, together with
    /// noting the new size down, since from then on the rest may be written to.
    fn follow_growth(&self, recorded_size_bytes: u64, adopt: bool) -> Result<()> {
        let within = self.chunk_size.offset_in_chunk(recorded_size_bytes);
        let old_chunk = OldChunk(self.chunk_size.chunk_of(recorded_size_bytes));
        let Slot::Mapped(new_chunk) = self.table.lookup(old_chunk) else {
            return Ok(());
        };
        if within == 0 || recorded_size_bytes >= self.size_bytes {
            return Ok(());
        }
        if !adopt {
            let context = format!(
                "cannot serve {}: the origin grew from {recorded_size_bytes} bytes, and chunk \
                 {old_chunk}, in which it ended, was written",
                self.name
            );
            return Err(Error::new(ErrorKind::OriginMismatch, context)
                .with_hint("--force-origin together with --adopt completes that chunk"));
        }
        let end = self
            .size_bytes
            .min(recorded_size_bytes - within + self.chunk_size.bytes());
        let mut rest = vec![0; to_usize(end - recorded_size_bytes)];
        self.origin.read_at(&mut rest, recorded_size_bytes)?;
        let device = self.store.device();
        device.write_at(&rest, self.cow_offset(new_chunk) + within)?;
        device.flush()
    }

    /// Opens a snapshot over any two devices: no locks, no identity. For tests, and for stacking.
    ///
    /// # Errors
    /// `Foreign`, `Corrupt`, `InvalidStore`, `Io`.
    pub fn on_devices(
        origin: Arc<dyn BlockDevice>,
        cow: Arc<dyn BlockDevice>,
        options: &SnapshotOptions,
    ) -> Result<Self> {
        let sector = read_header(&*cow)?;
        if !sector.header.is_valid() {
            let context = format!("cannot use COW device {}: it was invalidated", cow.name());
            return Err(Error::new(ErrorKind::InvalidStore, context));
        }
        let device = Arc::new(LatchedDevice::new(cow));
        Self::load(origin, device, &sector, options, |_| Ok(()))
    }

    /// Opens a snapshot whose changes are kept in at most `limit_bytes` of memory.
    ///
    /// # Errors
    /// `Usage`, `Io`.
    pub fn transient(
        origin: Arc<dyn BlockDevice>,
        chunk_size: ChunkSize,
        limit_bytes: u64,
    ) -> Result<Self> {
        let store = TransientStore::new(chunk_size, limit_bytes)?;
        let size_bytes = origin.size_bytes();
        Ok(Self {
            name: format!("transient snapshot of {}", origin.name()),
            table: ExceptionTable::new(chunk_size.chunks_to_hold(size_bytes))?,
            origin,
            store: Box::new(store),
            chunk_size,
            size_bytes,
            durability: Durability::Flush,
            read_only: false,
            label: Label::default(),
            has_identity: false,
            identity_damage: None,
            is_persistent: false,
            counters: AtomicCounters::default(),
        })
    }

    fn load(
        origin: Arc<dyn BlockDevice>,
        device: Arc<LatchedDevice>,
        sector: &HeaderSector,
        options: &SnapshotOptions,
        judge: impl FnOnce(&LoadNotes) -> Result<()>,
    ) -> Result<Self> {
        let chunk_size = sector.header.chunk_size;
        let size_bytes = origin.size_bytes();
        let table = ExceptionTable::new(chunk_size.chunks_to_hold(size_bytes))?;
        let read_only = options.read_only || device.is_read_only();
        let name = format!("snapshot of {} on {}", origin.name(), device.name());
        let store = PersistentStore::open(device, sector, &table, read_only, judge)?;
        Ok(Self {
            name,
            origin,
            store: Box::new(store),
            table,
            chunk_size,
            size_bytes,
            durability: options.durability,
            read_only,
            label: Label::default(),
            has_identity: false,
            identity_damage: None,
            is_persistent: true,
            counters: AtomicCounters::default(),
        })
    }
}

fn cannot_pair(origin: &Origin, cow: &Path) -> String {
    format!(
        "cannot use COW device {} with origin {}",
        cow.display(),
        origin.name()
    )
}

/// A blank image named twice would become a store over itself.
fn refuse_same_file(origin: &Origin, cow: &Path) -> Result<()> {
    if !origin.is_same_file(cow) {
        return Ok(());
    }
    let context = format!(
        "cannot use {} as origin and as COW device at once",
        cow.display()
    );
    Err(Error::new(ErrorKind::Usage, context)
        .with_hint("name a COW file of its own; it is created if it does not exist"))
}

/// Compares an origin with the record of the one that the COW device was made for. The sample is
/// always read, a mebibyte: equal sizes and times are what copying tools and build systems make.
fn match_origin(origin: &Origin, record: Option<&IdentityRecord>) -> Result<Match> {
    let Some(record) = record else {
        return Ok(Match::Unknown(NO_ORIGIN.to_owned()));
    };
    let Some(wanted) = record.origin else {
        return Ok(Match::New);
    };
    let size_bytes = origin.size_bytes();
    if wanted.size_bytes != size_bytes {
        return Ok(Match::Different(format!(
            "it was made for an origin of {} bytes, and this one has {size_bytes}: another image, \
             or it changed",
            wanted.size_bytes
        )));
    }
    if wanted.sample_scheme != identity::SAMPLE_SCHEME {
        return Ok(Match::Unknown(
            "the COW device knows its origin by a sample that this version can't compare".into(),
        ));
    }
    let found = origin.identity()?;
    if found.sample_crc32 != wanted.sample_crc32 {
        return Ok(Match::Different(
            "the origin's content changed since the COW device was made for it, or it is another image"
                .to_owned(),
        ));
    }
    if (found.mtime_s, found.mtime_ns) == (wanted.mtime_s, wanted.mtime_ns) {
        return Ok(Match::Same);
    }
    Ok(Match::Unknown(format!(
        "the modification time of origin {} changed; its size and the sampled parts of its \
         content are the same (--adopt notes the new time down)",
        origin.name()
    )))
}
