//! Which entries go, and in which order of writes.
//!
//! Nothing depends on the order of entries, so a removed one's place is taken by one of the last:
//! 1. the last believable entries are written over the removed ones, in place; sync. A cut leaves
//!    some of them twice, which means the same to every reader, and a repair removes one unasked;
//! 2. the end is cleared, sectors descending, a sync after each. A cut leaves more of it.
//!
//! So no believable entry is ever missing, and no entry ever lies behind the terminator.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use usnap_format::{
    AreaIndex, DiskException, EXCEPTION_LEN, EXCEPTIONS_PER_SECTOR, Exception, SECTOR_SIZE,
};

use super::execute::Op;
use crate::check::{FindingKind, Scan, kind_of};
use crate::num::SECTOR_LEN;

/// An entry that can't be believed.
pub(super) struct Dropped {
    /// Its number in the store.
    pub(super) n: u64,
    pub(super) exception: Exception,
    pub(super) kind: FindingKind,
    pub(super) why: String,
    /// An earlier entry says the same.
    pub(super) is_repeat: bool,
    /// Another entry for its old chunk stays.
    pub(super) has_other: bool,
}

/// All entries that can't be believed, in order. Of several that contradict each other the first is
/// believed.
pub(super) fn unbelievable(scan: &Scan) -> Vec<Dropped> {
    let has_repeated = !scan.repeated(|entry| entry.old_chunk.0).is_empty()
        || !scan.repeated(|entry| entry.new_chunk.0).is_empty();
    let (mut old_chunks, mut new_chunks) = (HashMap::new(), HashMap::new());
    let mut dropped = Vec::new();
    for (n, exception) in scan.entries() {
        let mut drop = |kind, why: String, is_repeat| {
            dropped.push(Dropped {
                n,
                exception,
                kind,
                why,
                is_repeat,
                has_other: false,
            });
        };
        if let Some(why) = scan.why_refused(exception) {
            drop(kind_of(scan.layout, exception), why.to_owned(), false);
            continue;
        }
        if !has_repeated {
            // Nobody else is for the old chunk of one that goes.
            continue;
        }
        let place = |first: u64| {
            let (area, index) = scan.layout.entry_position(first);
            format!("area {area}, entry {index}")
        };
        if let Some(first) = old_chunks.get(&exception.old_chunk) {
            let is_repeat = scan.entry(*first) == Some(exception);
            let verb = if is_repeat { "repeats" } else { "contradicts" };
            let why = format!("{verb} {}", place(*first));
            drop(FindingKind::OldChunkTwice, why, is_repeat);
        } else if let Some(first) = new_chunks.get(&exception.new_chunk) {
            let why = format!("has the same new chunk as {}", place(*first));
            drop(FindingKind::NewChunkTwice, why, false);
        } else {
            old_chunks.insert(exception.old_chunk, n);
            new_chunks.insert(exception.new_chunk, n);
        }
    }
    for dropped in &mut dropped {
        dropped.has_other = old_chunks.contains_key(&dropped.exception.old_chunk);
    }
    dropped
}

/// Whether all of it is what a torn write of the last sector can be: nothing believable behind or
/// between, one sector only, and no chunk that a longer file would have.
pub(super) fn is_torn_tail(scan: &Scan, dropped: &[Dropped]) -> bool {
    let Some(first) = dropped.iter().find(|dropped| !dropped.is_repeat) else {
        return true;
    };
    let last = scan.entry_count().saturating_sub(1);
    let behind = dropped.iter().filter(|dropped| dropped.n >= first.n);
    let is_whole_tail = behind.count() as u64 == scan.entry_count() - first.n;
    let is_one_sector = first.n / EXCEPTIONS_PER_SECTOR == last / EXCEPTIONS_PER_SECTOR;
    let may_be_cut_off = |dropped: &Dropped| dropped.kind == FindingKind::EntryOutOfRange;
    is_whole_tail && is_one_sector && !dropped.iter().any(may_be_cut_off)
}

/// The store without the dropped entries.
pub(super) struct Compacted<'a> {
    scan: &'a Scan,
    /// How many entries remain.
    pub(super) remaining: u64,
    /// Which entry takes which place.
    pub(super) moves: BTreeMap<u64, (u64, Exception)>,
}

impl<'a> Compacted<'a> {
    pub(super) fn new(scan: &'a Scan, dropped: &[Dropped]) -> Self {
        let places: BTreeSet<u64> = dropped.iter().map(|dropped| dropped.n).collect();
        let count = scan.entry_count();
        let remaining = count - places.len() as u64;
        let holes = places.iter().copied().filter(|n| *n < remaining);
        let donors = (remaining..count).filter(|n| !places.contains(n));
        let moves = holes
            .zip(donors)
            .filter_map(|(hole, donor)| Some((hole, (donor, scan.entry(donor)?))))
            .collect();
        Self {
            scan,
            remaining,
            moves,
        }
    }

    /// What is done, in order.
    pub(super) fn ops(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        let count = self.scan.entry_count();
        let filled: BTreeSet<u64> = self
            .moves
            .keys()
            .map(|n| n / EXCEPTIONS_PER_SECTOR)
            .collect();
        for sector in &filled {
            ops.extend(self.write(*sector, count));
        }
        if !filled.is_empty() {
            ops.push(Op::Sync);
        }
        if self.remaining < count {
            let first = self.remaining / EXCEPTIONS_PER_SECTOR;
            let last = (count - 1) / EXCEPTIONS_PER_SECTOR;
            for sector in (first..=last).rev() {
                ops.extend(self.write(sector, self.remaining));
                ops.push(Op::Sync);
            }
        }
        ops
    }

    /// The write of one sector of entries, counted over the whole store, up to entry `end`.
    fn write(&self, sector: u64, end: u64) -> Option<Op> {
        let first = sector * EXCEPTIONS_PER_SECTOR;
        let mut bytes = Vec::with_capacity(SECTOR_LEN);
        for n in first..first + EXCEPTIONS_PER_SECTOR {
            let moved = self.moves.get(&n).map(|(_, exception)| *exception);
            let entry = moved.or_else(|| self.scan.entry(n)).filter(|_| n < end);
            let entry = entry.map_or_else(DiskException::default, DiskException::from);
            bytes.extend_from_slice(&entry.encode());
        }
        let (area, index): (AreaIndex, u64) = self.scan.layout.entry_position(first);
        let within = index * EXCEPTION_LEN as u64;
        debug_assert_eq!(within % SECTOR_SIZE, 0);
        let offset = self.scan.area_offset(area)? + within;
        Some(Op::Write { offset, bytes })
    }
}
