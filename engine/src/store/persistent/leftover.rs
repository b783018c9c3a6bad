//! What lies behind the terminator means nothing, and may look like entries all the same.
//!
//! A kernel writes an area whole, so a power cut in its commit may leave any of the sectors that
//! the commit changed, in any combination; nothing of that commit was answered. We leave nothing
//! there (DESIGN.md, "Commit"). But a sector of entries that became zeros on the disk looks alike:
//! what follows it was durable then. The store alone can't tell the two apart.

use std::collections::HashSet;

use usnap_format::{
    DiskException, EXCEPTION_LEN, EXCEPTIONS_PER_SECTOR, Exception, Layout, NewChunk, OldChunk,
};

use super::rules::why_refused;
use crate::num::{SECTOR_LEN, to_usize};

/// What looks like entries behind a terminator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// How many could be entries: none of their chunks is named by another one.
    pub(crate) entries: u64,
    /// The terminator begins a sector of nothing but zeros, and behind it lie whole sectors of them.
    pub(crate) is_behind_zeros: bool,
}

impl Leftover {
    /// The new chunks that are named behind the first `committed` entries of an area.
    pub(crate) fn candidates(area: &[u8], committed: u64) -> HashSet<NewChunk> {
        let (all, _none_left) = area.as_chunks::<EXCEPTION_LEN>();
        let behind = all.iter().skip(to_usize(committed));
        behind.filter_map(decode).map(|e| e.new_chunk).collect()
    }

    /// Looks behind the first `committed` entries of an area. `is_mapped` says whether an entry
    /// before them is for this old chunk, and `new_chunks` are all that those name, or
    /// the candidates among them.
    pub(crate) fn find(
        layout: Layout,
        device_chunks: u64,
        area: &[u8],
        committed: u64,
        is_mapped: impl Fn(OldChunk) -> bool,
        new_chunks: impl Iterator<Item = NewChunk>,
    ) -> Self {
        // A store may name very many chunks, an area does not.
        let candidates = Self::candidates(area, committed);
        let mut taken: HashSet<NewChunk> = new_chunks.filter(|n| candidates.contains(n)).collect();
        let mut old_chunks = HashSet::new();
        let mut could_be = |exception: Exception| {
            why_refused(layout, device_chunks, exception).is_none()
                && !is_mapped(exception.old_chunk)
                && old_chunks.insert(exception.old_chunk)
                && taken.insert(exception.new_chunk)
        };
        let mut found = Self::default();
        let mut begins_with_zeros = false;
        let first = to_usize(committed / EXCEPTIONS_PER_SECTOR);
        let mut committed_here = to_usize(committed % EXCEPTIONS_PER_SECTOR);
        for (sector, bytes) in area.chunks(SECTOR_LEN).enumerate().skip(first) {
            if sector == first {
                begins_with_zeros = committed_here == 0 && bytes.iter().all(|&byte| byte == 0);
            }
            let (entries, _none_left) = bytes.as_chunks::<EXCEPTION_LEN>();
            let behind = entries.iter().skip(committed_here).filter_map(decode);
            let count = behind.filter(|entry| could_be(*entry)).count() as u64;
            found.entries += count;
            found.is_behind_zeros |= begins_with_zeros && count == EXCEPTIONS_PER_SECTOR;
            committed_here = 0;
        }
        found
    }

    /// As the end of a sentence; empty where there is nothing that could be an entry.
    pub(crate) fn describe(self) -> String {
        let entries = match self.entries {
            0 => return String::new(),
            1 => "1 of them could be an entry".to_owned(),
            n => format!("{n} entries among them could be ones"),
        };
        let zeros = if self.is_behind_zeros {
            ", whole sectors of them behind one of zeros: a kernel was interrupted in a commit, or a \
             sector of entries was lost"
        } else {
            ""
        };
        format!("; {entries}{zeros}")
    }
}

fn decode(entry: &[u8; EXCEPTION_LEN]) -> Option<Exception> {
    DiskException::decode(entry).to_exception()
}
