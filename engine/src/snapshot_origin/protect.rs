//! Before the origin changes: every snapshot's old value is saved and durable, or the snapshot is
//! dropped, or the origin's write is refused.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::member::Member;
use super::{SnapshotOrigin, WhenFull};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SaveFailure;

/// A snapshot that waits for a commit, and the chunks it is for.
type Unsaved<'a> = (&'a Arc<Member>, Range<u64>);

impl SnapshotOrigin {
    /// Returns when this range may change. For a caller that holds the gate, of these members.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the origin must stay as it is.
    pub(super) fn protect(&self, members: &[Arc<Member>], offset: u64, len: u64) -> Result<()> {
        let mut unsaved = Vec::new();
        for member in members {
            let Some(chunks) = member.unsaved(offset, len) else {
                continue;
            };
            match member.save(chunks.clone()) {
                Ok(()) => unsaved.push((member, chunks)),
                Err(failure) => self.give_up(member, failure)?,
            }
        }
        let committed = self.commit(&unsaved);
        for ((member, chunks), result) in unsaved.into_iter().zip(committed) {
            match result {
                Ok(()) => member.saved(chunks),
                Err(error) => self.give_up(member, SaveFailure::Cow(error))?,
            }
        }
        // Pairs with the fence of a reader: who sees what is written next sees the exceptions too.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Commits all of them, at once where there are several: each waits for a disk.
    fn commit(&self, unsaved: &[Unsaved<'_>]) -> Vec<Result<()>> {
        if unsaved.len() < 2 || !self.commits_at_once {
            return unsaved.iter().map(|(member, _)| member.commit()).collect();
        }
        let Some(((first, _), others)) = unsaved.split_first() else {
            return Vec::new();
        };
        std::thread::scope(|scope| {
            let begun: Vec<_> = others
                .iter()
                .map(|(member, _)| {
                    let thread = std::thread::Builder::new().name("usnap-commit".to_owned());
                    (member, thread.spawn_scoped(scope, || member.commit()))
                })
                .collect();
            let mut results = vec![first.commit()];
            results.extend(begun.into_iter().map(|(member, thread)| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| {
                    let context = "cannot commit, a bug in usnap: the commit panicked";
                    Err(Error::new(ErrorKind::Io, context))
                }),
                // No thread is to be had: in turn, then.
                Err(_) => member.commit(),
            }));
            results
        })
    }

    /// A snapshot can't be kept: it goes, or the origin's write does.
    fn give_up(&self, member: &Member, failure: SaveFailure) -> Result<()> {
        let cannot = || {
            format!(
                "cannot write to origin {}: what is there can't be saved for snapshot {}",
                self.device.name(),
                member.name
            )
        };
        let error = match failure {
            SaveFailure::Origin(error) => return Err(error.context(cannot())),
            SaveFailure::Cow(error) => error,
        };
        match self.when_full {
            WhenFull::Drop => member.drop_out(&error).map_err(|e| e.context(cannot())),
            WhenFull::Refuse if error.kind() == ErrorKind::NoSpace => Err(error.context(cannot())),
            WhenFull::Refuse => Err(error.context(cannot()).with_kind(ErrorKind::Io)),
        }
    }
}
