//! Layers: COW devices between an origin and what is written to, read and never changed. The first
//! lies directly on the origin, each next one on the one before it.
//!
//! Each is locked as a reader's, so nobody writes to it meanwhile, and several servers may share it.
//! A journal that waits is shown through and not committed.

use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;
use usnap_format::OriginIdentity;

use super::identity::{self, LAYERED_SCHEME};
use super::{Content, Origin, is_known};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::snapshot::{Snapshot, SnapshotOptions};

/// How many places of what a layer changes are sampled, and how much at each.
const PLACES: u64 = 64;
const PLACE_BYTES: u64 = 4 << 10;

/// A layer, and all that is below it.
pub(super) struct Layer {
    below: Arc<Origin>,
    snapshot: Snapshot,
    /// Of the COW device, as it was opened.
    metadata: Option<Metadata>,
    name: String,
    /// What this layer and those below it change.
    fingerprint: u32,
}

impl Origin {
    /// Opens an origin with these COW devices over it, the lowest first. Also returns what a person
    /// should know, a sentence each. `force_origin` takes layers that were made for something else.
    ///
    /// # Errors
    /// As `open` and `Snapshot::open`; `Usage` where a file is named twice.
    pub fn open_with_layers(
        path: &Path,
        layers: &[PathBuf],
        force_origin: bool,
    ) -> Result<(Self, Vec<String>)> {
        let mut origin = Self::open(path)?;
        let mut notes = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let below = origin;
            if below.is_same_file(layer) {
                let context = format!(
                    "cannot use {} as a layer: it is the origin or a layer already",
                    layer.display()
                );
                return Err(Error::new(ErrorKind::Usage, context)
                    .with_hint("name each file once, from the origin upwards"));
            }
            let options = SnapshotOptions {
                force_origin,
                read_only: true,
                ..SnapshotOptions::default()
            };
            let below = Arc::new(below);
            let opened = Snapshot::open(&below, layer, &options);
            let (snapshot, said) = opened.map_err(|error| explain(error, layer))?;
            notes.extend(
                said.into_iter()
                    .map(|note| format!("layer {}: {note}", layer.display())),
            );
            let name = match index {
                0 => format!("{} with layer {}", path.display(), layer.display()),
                _ => format!("{} with {} layers", path.display(), index + 1),
            };
            let size_bytes = below.size_bytes();
            let layer = Layer::new(below, snapshot, layer, name)?;
            origin = Self::of(Content::Layer(Box::new(layer)), size_bytes);
        }
        Ok((origin, notes))
    }

    /// The snapshots that the layers are, the topmost first, and the origin below all of them.
    pub(crate) fn layers(&self) -> (Vec<&Snapshot>, &Self) {
        let mut snapshots = Vec::new();
        let mut origin = self;
        while let Content::Layer(layer) = &origin.content {
            snapshots.push(&layer.snapshot);
            origin = &layer.below;
        }
        (snapshots, origin)
    }
}

/// A layer can't be told what to do with its journal: that takes a command of its own.
fn explain(error: Error, layer: &Path) -> Error {
    let error = match error.kind() {
        ErrorKind::JournalInDoubt => error.with_hint(
            "nothing was changed; `usnap repair --journal replay` (or discard) settles it, then the \
             file can be a layer",
        ),
        _ => error,
    };
    error.context(format!("cannot use {} as a layer", layer.display()))
}

impl Layer {
    fn new(below: Arc<Origin>, snapshot: Snapshot, path: &Path, name: String) -> Result<Self> {
        let before = match &below.content {
            Content::File(_) => 0,
            Content::Layer(layer) => layer.fingerprint,
        };
        Ok(Self {
            fingerprint: fingerprint(before, &snapshot)?,
            below,
            snapshot,
            metadata: std::fs::metadata(path).ok(),
            name,
        })
    }

    pub(super) fn device(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_same_file(&self, path: &Path) -> bool {
        let is_own = self
            .metadata
            .as_ref()
            .is_some_and(|ours| is_known(ours, path));
        is_own || self.below.is_same_file(path)
    }

    /// Scheme 2. The time is that of the file of the chain that was changed last.
    pub(super) fn identity(&self, size_bytes: u64) -> Result<OriginIdentity> {
        let mut hasher = Hasher::new();
        hasher.update(&identity::sample(&self.snapshot, size_bytes)?.to_le_bytes());
        hasher.update(&self.fingerprint.to_le_bytes());
        let (mtime_s, mtime_ns) = self.mtime();
        Ok(OriginIdentity {
            size_bytes,
            sample_scheme: LAYERED_SCHEME,
            sample_crc32: hasher.finalize(),
            mtime_s,
            mtime_ns,
        })
    }

    fn mtime(&self) -> (i64, u32) {
        let below = match &self.below.content {
            Content::File(device) => identity::mtime(device),
            Content::Layer(layer) => layer.mtime(),
        };
        let own = self.metadata.as_ref().filter(|own| own.is_file());
        let own = own.map(|own| {
            let nanoseconds = u32::try_from(own.mtime_nsec()).unwrap_or(0);
            (own.mtime(), nanoseconds)
        });
        own.map_or(below, |own| own.max(below))
    }
}

/// A checksum over what lies below (`before`), which ranges a layer changes, and samples of them.
fn fingerprint(before: u32, snapshot: &Snapshot) -> Result<u32> {
    let mut hasher = Hasher::new();
    hasher.update(&before.to_le_bytes());
    let mut changed_bytes = 0;
    each_change(snapshot, |range| {
        hasher.update(&range.start.to_le_bytes());
        hasher.update(&(range.end - range.start).to_le_bytes());
        changed_bytes += range.end - range.start;
        Ok(())
    })?;
    let mut place = 0;
    let mut seen = 0;
    let mut buf = vec![0; to_usize(PLACE_BYTES)];
    each_change(snapshot, |range| {
        let len = range.end - range.start;
        while place < PLACES {
            let target = u128::from(changed_bytes) * u128::from(place) / u128::from(PLACES);
            let target = u64::try_from(target).unwrap_or(u64::MAX);
            if target >= seen + len {
                break;
            }
            let at = range.start + (target - seen);
            let piece = PLACE_BYTES.min(range.end - at);
            let Some(piece) = buf.get_mut(..to_usize(piece)) else {
                break;
            };
            snapshot.read_at(piece, at)?;
            hasher.update(piece);
            place += 1;
        }
        seen += len;
        Ok(())
    })?;
    Ok(hasher.finalize())
}

fn each_change(snapshot: &Snapshot, mut see: impl FnMut(Range<u64>) -> Result<()>) -> Result<()> {
    let mut offset = 0;
    while let Some(range) = snapshot.changed_from(offset) {
        offset = range.end;
        see(range)?;
    }
    Ok(())
}
