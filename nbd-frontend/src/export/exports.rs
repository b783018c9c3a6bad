//! The exports of a server, which come and go while it serves.
//!
//! The list is behind a lock that a handshake holds for as long as it takes to look up a name; a
//! connection in transmission has its device and the sign of its export's end, and never looks
//! here. What is shown is what there is at that moment: an export is listed from `add` on until
//! `remove`.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Export, Removed};
use crate::proto::consts::MAX_STRING_BYTES;
use crate::proto::{Catalog, ExportInfo};
use crate::server::closing::Closing;

/// The exports of a server. The first it began with is the default one, which clients may ask for
/// without a name; once that one is removed there is none.
#[derive(Debug, Default)]
pub struct Exports {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    offered: Vec<Offered>,
    /// The first of them is the default one.
    has_default: bool,
}

/// An export, and what ends its connections.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) export: Export,
    pub(crate) closing: Arc<Closing>,
}

/// Why an export can't be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddError {
    /// There is one of that name.
    NameTaken,
    /// The name is longer than 4096 bytes or has a NUL character: no client could ask for it.
    NameUnusable,
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NameTaken => "there is an export of that name",
            Self::NameUnusable => {
                "the name is longer than 4096 bytes or has a NUL character: no client could ask \
                 for it"
            }
        })
    }
}

impl std::error::Error for AddError {}

impl Exports {
    /// Collects exports; of two with the same name the first is found.
    #[must_use]
    pub fn new(exports: Vec<Export>) -> Self {
        let offered: Vec<_> = exports.into_iter().map(Offered::new).collect();
        let has_default = !offered.is_empty();
        Self {
            state: RwLock::new(State {
                offered,
                has_default,
            }),
        }
    }

    /// Offers one more export from now on.
    ///
    /// # Errors
    /// Where clients could not ask for it by its name, or another one has that name.
    pub fn add(&self, export: Export) -> Result<(), AddError> {
        let name = export.name();
        if name.len() > MAX_STRING_BYTES || name.contains('\0') {
            return Err(AddError::NameUnusable);
        }
        let mut state = self.write();
        if state.offered.iter().any(|o| o.export.name() == name) {
            return Err(AddError::NameTaken);
        }
        state.offered.push(Offered::new(export));
        Ok(())
    }

    /// Takes the export of that name away, if there is one: no client gets it any more, and those
    /// that have it are asked to end as they are at the end of a server: what was received is
    /// finished and answered, what comes later is refused with `NBD_ESHUTDOWN`, and a connection
    /// on which nothing is under way is closed at once. Does not wait for that: see
    /// [`Removed::wait`].
    #[must_use = "its connections may go on for a while"]
    pub fn remove(&self, name: &str) -> Option<Removed> {
        let mut state = self.write();
        let index = state.offered.iter().position(|o| o.export.name() == name)?;
        let offered = state.offered.remove(index);
        state.has_default &= index != 0;
        drop(state);
        offered.closing.begin();
        Some(Removed::new(offered))
    }

    /// The export with that name, or the default one if it is empty.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Export> {
        self.read().find(name).map(|offered| offered.export.clone())
    }

    /// All of them, the default one first and the others in the order in which they came.
    #[must_use]
    pub fn list(&self) -> Vec<Export> {
        self.read()
            .offered
            .iter()
            .map(|offered| offered.export.clone())
            .collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // Nothing is done under the lock that could leave the list half changed.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, name: &str) -> Option<&Offered> {
        let named = self.offered.iter().find(|o| o.export.name() == name);
        let default = || self.offered.first().filter(|_| self.has_default);
        named.or_else(|| default().filter(|_| name.is_empty()))
    }
}

impl Offered {
    fn new(export: Export) -> Self {
        Self {
            export,
            closing: Arc::default(),
        }
    }
}

/// The exports as one handshake sees them. It remembers which one it was told of last: that is the
/// one transmission is for, even if another has its name by then.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    exports: &'a Exports,
    last: RefCell<Option<Offered>>,
}

impl<'a> Chosen<'a> {
    pub(crate) fn new(exports: &'a Exports) -> Self {
        Self {
            exports,
            last: RefCell::default(),
        }
    }

    /// The export that was asked for last, if that was there.
    pub(crate) fn into_last(self) -> Option<Offered> {
        self.last.into_inner()
    }
}

impl Catalog for Chosen<'_> {
    fn export(&self, name: &str) -> Option<ExportInfo> {
        let offered = self.exports.read().find(name).cloned();
        let info = offered.as_ref().map(|offered| offered.export.info());
        self.last.replace(offered);
        info
    }

    fn list(&self) -> Vec<(String, Option<String>)> {
        let state = self.exports.read();
        let exports = state.offered.iter().map(|offered| &offered.export);
        exports
            .map(|e| (e.name.clone(), e.description.clone()))
            .collect()
    }
}
