//! A chain at rest: an origin, layers and a COW device, opened to be read by the tools. What it shows,
//! and where that differs from what is below.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::{ErrorKind, Result};
use crate::origin::{Origin, is_known};
use crate::snapshot::{Snapshot, SnapshotOptions};

/// What changes are relative to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relative {
    /// The origin: all layers and the COW device count.
    #[default]
    ToOrigin,
    /// What the COW device lies on: it alone counts.
    ToLayers,
}

/// A chain, opened to be read. All of its COW devices are locked as readers' are.
pub struct Chain {
    below: Arc<Origin>,
    snapshot: Snapshot,
    cow: PathBuf,
}

impl Chain {
    /// Opens a chain. Also returns what a person should know, a sentence each. What a journal that
    /// waits has is part of what is shown. `force_origin` takes what was not made for each other.
    ///
    /// # Errors
    /// As `Origin::open_with_layers` and `Snapshot::open`; so `InUse` while somebody writes to one of
    /// them, since chunks that are overwritten meanwhile would make it no moment's state.
    pub fn open(
        origin: &Path,
        layers: &[PathBuf],
        cow: &Path,
        force_origin: bool,
    ) -> Result<(Self, Vec<String>)> {
        let (below, mut notes) = Origin::open_with_layers(origin, layers, force_origin)?;
        let below = Arc::new(below);
        let options = SnapshotOptions {
            force_origin,
            read_only: true,
            ..SnapshotOptions::default()
        };
        let opened = Snapshot::open(&below, cow, &options);
        let (snapshot, said) = opened.map_err(|error| match error.kind() {
            ErrorKind::InUse => error.with_hint(
                "what is being served is copied from its server (nbdcopy URI OUT); or stop that first",
            ),
            ErrorKind::JournalInDoubt => error.with_hint(
                "nothing was changed; `usnap repair --journal replay` (or discard) settles it",
            ),
            _ => error,
        })?;
        notes.extend(said);
        let chain = Self {
            below,
            snapshot,
            cow: cow.to_owned(),
        };
        Ok((chain, notes))
    }

    /// What the chain shows.
    #[must_use]
    pub fn device(&self) -> &dyn BlockDevice {
        &self.snapshot
    }

    /// What changes are relative to.
    #[must_use]
    pub fn base(&self, relative: Relative) -> &Origin {
        match relative {
            Relative::ToOrigin => self.below.layers().1,
            Relative::ToLayers => &self.below,
        }
    }

    /// The ranges of bytes that lie in chunks that are written, whatever their content is: ascending,
    /// neighbours joined, clipped at the end of the device.
    #[must_use]
    pub fn changes(&self, relative: Relative) -> Changes<'_> {
        let layers = match relative {
            Relative::ToOrigin => self.below.layers().0,
            Relative::ToLayers => Vec::new(),
        };
        let snapshots = layers.into_iter().chain([&self.snapshot]);
        let mut cursors: Vec<Cursor<'_>> = snapshots
            .map(|snapshot| Cursor {
                snapshot,
                next: None,
            })
            .collect();
        cursors.iter_mut().for_each(|cursor| cursor.seek(0));
        Changes { cursors }
    }

    /// Whether `path` names one of the chain's files or block devices.
    #[must_use]
    pub fn is_part(&self, path: &Path) -> bool {
        let cow = std::fs::metadata(&self.cow);
        self.below.is_same_file(path) || cow.is_ok_and(|cow| is_known(&cow, path))
    }
}

/// The changed ranges of a chain. Made by [`Chain::changes`].
pub struct Changes<'a> {
    cursors: Vec<Cursor<'a>>,
}

/// Where one snapshot's changes are looked at.
struct Cursor<'a> {
    snapshot: &'a Snapshot,
    next: Option<Range<u64>>,
}

impl Cursor<'_> {
    fn seek(&mut self, offset: u64) {
        self.next = self.snapshot.changed_from(offset);
    }
}

impl Iterator for Changes<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let first = |cursor: &Cursor<'_>| cursor.next.as_ref().map(|range| range.start);
        let start = self.cursors.iter().filter_map(first).min()?;
        let mut end = start;
        loop {
            let before = end;
            for cursor in &mut self.cursors {
                while let Some(range) = cursor.next.clone().filter(|range| range.start <= end) {
                    end = end.max(range.end);
                    cursor.seek(range.end);
                }
            }
            if end == before {
                return Some(start..end);
            }
        }
    }
}
