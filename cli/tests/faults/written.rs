//! What a device must hold: every change that was answered, and those that may or may not be there.
//!
//! Two changes that touch the same sector are never under way at once, so the changes to a sector
//! have an order, and what may be found in it is its known content with any of the doubtful changes
//! laid over it in that order.

use std::collections::HashSet;
use std::ops::Range;

/// What the checker looks at in one piece: a sector is written whole or not at all.
pub(crate) const SECTOR: usize = 512;
/// More values than this for one sector would be no check any more.
const MOST_VALUES: usize = 4096;

/// What a change makes of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Zeros.
    Zeros,
    /// Zeros or what was there: a trim promises nothing.
    Perhaps,
}

/// One write, zeroing or trim.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    at: usize,
    len: usize,
    content: Content,
}

/// The device's known content and the changes that are in doubt.
pub(crate) struct Written {
    known: Vec<u8>,
    under_way: Vec<(u64, Change)>,
    doubtful: Vec<Change>,
    next: u64,
}

/// A sector that holds what it can't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Which sector.
    pub(crate) sector: usize,
    /// What is in it, in short.
    pub(crate) holds: String,
}

impl Change {
    pub(crate) fn new(at: usize, len: usize, content: Content) -> Self {
        Self { at, len, content }
    }

    fn range(&self) -> Range<usize> {
        self.at..self.at + self.len
    }

    fn sectors(&self) -> Range<usize> {
        self.at / SECTOR..(self.at + self.len).div_ceil(SECTOR)
    }

    /// Lays this change over `bytes`, which are those from `start` on.
    fn lay_over(&self, bytes: &mut [u8], start: usize) {
        let range = self.range();
        let (from, to) = (
            range.start.max(start),
            range.end.min(start + bytes.len()).max(start),
        );
        if from >= to {
            return;
        }
        let target = &mut bytes[from - start..to - start];
        match &self.content {
            Content::Bytes(data) => target.copy_from_slice(&data[from - self.at..to - self.at]),
            Content::Zeros | Content::Perhaps => target.fill(0),
        }
    }

    /// What of this change lies outside `range`.
    fn without(&self, range: &Range<usize>) -> Vec<Self> {
        let own = self.range();
        let pieces = [
            own.start..own.end.min(range.start),
            own.start.max(range.end)..own.end,
        ];
        pieces
            .into_iter()
            .filter(|piece| piece.start < piece.end)
            .map(|piece| {
                let content = match &self.content {
                    Content::Bytes(data) => {
                        Content::Bytes(data[piece.start - self.at..piece.end - self.at].to_vec())
                    }
                    other => other.clone(),
                };
                Self::new(piece.start, piece.len(), content)
            })
            .collect()
    }
}

impl Written {
    /// A device that holds `known`.
    pub(crate) fn new(known: Vec<u8>) -> Self {
        Self {
            known,
            under_way: Vec::new(),
            doubtful: Vec::new(),
            next: 1,
        }
    }

    /// What is certain, and where there is doubt, what was there before.
    pub(crate) fn known(&self) -> &[u8] {
        &self.known
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Notes a change that is about to be sent; `None` where another one to the same sectors is
    /// under way.
    pub(crate) fn begin(&mut self, change: &Change) -> Option<u64> {
        let sectors = change.sectors();
        let busy = self.under_way.iter().any(|(_, other)| {
            let other = other.sectors();
            other.start < sectors.end && sectors.start < other.end
        });
        if busy {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.under_way.push((id, change.clone()));
        Some(id)
    }

    /// The change was answered as done.
    pub(crate) fn done(&mut self, id: u64) {
        let Some(change) = self.take(id) else { return };
        if change.content == Content::Perhaps {
            self.doubtful.push(change);
        } else {
            self.settle(&change);
        }
    }

    /// The change was refused: any part of it may be there.
    pub(crate) fn refused(&mut self, id: u64) {
        let change = self.take(id);
        self.doubtful.extend(change);
    }

    /// No more answers will come.
    pub(crate) fn cut_off(&mut self) {
        let lost = self.under_way.drain(..).map(|(_, change)| change);
        self.doubtful.extend(lost);
    }

    /// Forgets what was in doubt: this is what the device holds.
    pub(crate) fn adopt(&mut self, found: Vec<u8>) {
        self.known = found;
        self.doubtful.clear();
    }

    /// The sectors of `found` that hold what they can't.
    pub(crate) fn judge(&self, found: &[u8]) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if found.len() != self.known.len() {
            let holds = format!("{} bytes, not {}", found.len(), self.known.len());
            return vec![Wrong { sector: 0, holds }];
        }
        for (index, (found, known)) in found
            .chunks(SECTOR)
            .zip(self.known.chunks(SECTOR))
            .enumerate()
        {
            if found != known && !self.possible(index, known).contains(found) {
                let zeros = found.iter().all(|byte| *byte == 0);
                let holds = if zeros { "zeros" } else { "something else" };
                wrong.push(Wrong {
                    sector: index,
                    holds: holds.to_owned(),
                });
            }
        }
        wrong
    }

    /// All that may be found in the sector `index`, of which `known` is certain.
    fn possible(&self, index: usize, known: &[u8]) -> HashSet<Vec<u8>> {
        let mut values = HashSet::from([known.to_vec()]);
        let touching = self
            .doubtful
            .iter()
            .filter(|change| change.sectors().contains(&index));
        for change in touching {
            let with: Vec<_> = values
                .iter()
                .map(|value| {
                    let mut value = value.clone();
                    change.lay_over(&mut value, index * SECTOR);
                    value
                })
                .collect();
            values.extend(with);
            assert!(
                values.len() <= MOST_VALUES,
                "sector {index} may be anything"
            );
        }
        values
    }

    fn take(&mut self, id: u64) -> Option<Change> {
        let place = self.under_way.iter().position(|(other, _)| *other == id)?;
        Some(self.under_way.swap_remove(place).1)
    }

    /// The change is certain now, so what was in doubt below it is not any more.
    fn settle(&mut self, change: &Change) {
        change.lay_over(&mut self.known, 0);
        let range = change.range();
        let apart = |other: &Change| other.at >= range.end || other.range().end <= range.start;
        if self.doubtful.iter().all(apart) {
            return;
        }
        for other in std::mem::take(&mut self.doubtful) {
            if apart(&other) {
                self.doubtful.push(other);
            } else {
                self.doubtful.extend(other.without(&range));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(at: usize, len: usize, value: u8) -> Change {
        Change::new(at, len, Content::Bytes(vec![value; len]))
    }

    fn device() -> Written {
        Written::new(vec![0xee; 8 * SECTOR])
    }

    fn do_it(written: &mut Written, change: &Change) {
        let id = written.begin(change).unwrap();
        written.done(id);
    }

    #[test]
    fn a_lost_write_is_seen_and_so_is_a_lost_half() {
        let mut written = device();
        let before = written.known.clone();
        do_it(&mut written, &bytes(SECTOR, 2 * SECTOR, 1));
        assert!(written.judge(&written.known).is_empty());
        assert_eq!(written.judge(&before).len(), 2);
        let mut half = written.known.clone();
        half[2 * SECTOR..3 * SECTOR].fill(0xee);
        assert_eq!(written.judge(&half)[0].sector, 2);
    }

    #[test]
    fn a_change_that_was_not_answered_may_be_there_sector_by_sector() {
        let mut written = device();
        let change = bytes(100, 2 * SECTOR, 2);
        assert!(written.begin(&change).is_some());
        assert!(written.begin(&bytes(0, 50, 3)).is_none(), "the same sector");
        written.cut_off();
        let mut found = written.known.clone();
        found[SECTOR..2 * SECTOR].fill(2);
        assert!(written.judge(&found).is_empty());
        // Half of a sector is no value that it ever had.
        found[2 * SECTOR..2 * SECTOR + 50].fill(2);
        assert_eq!(written.judge(&found)[0].sector, 2);
    }

    #[test]
    fn a_write_settles_what_a_trim_left_open() {
        let mut written = device();
        do_it(&mut written, &Change::new(0, 4 * SECTOR, Content::Perhaps));
        let mut found = written.known.clone();
        found[..SECTOR].fill(0);
        assert!(written.judge(&found).is_empty());
        do_it(&mut written, &bytes(0, SECTOR, 5));
        assert_eq!(written.judge(&found)[0].sector, 0);
        found[..SECTOR].fill(5);
        found[3 * SECTOR..4 * SECTOR].fill(0);
        assert!(written.judge(&found).is_empty());
        found[4 * SECTOR..].fill(0);
        assert_eq!(written.judge(&found).len(), 4);
    }

    #[test]
    fn doubtful_changes_keep_their_order() {
        let mut written = device();
        for value in [1, 2] {
            let id = written.begin(&bytes(0, SECTOR, value)).unwrap();
            written.refused(id);
        }
        let mut found = written.known.clone();
        for value in [1, 2, 0xee] {
            found[..SECTOR].fill(value);
            assert!(written.judge(&found).is_empty());
        }
        do_it(&mut written, &bytes(0, 100, 3));
        assert_eq!(written.judge(&found).len(), 1);
        found[..100].fill(3);
        assert!(written.judge(&found).is_empty());
    }
}
