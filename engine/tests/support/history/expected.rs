//! What must be: the snapshot as plain vectors, and the store's numbering as the format's facts
//! give it for a store without holes. Says of each operation how it must end and what it leaves.

use usnap_engine::Discard;

use super::Shape;

/// How an operation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    NoSpace,
    NotSupported,
}

/// The snapshot and its store, as they must be.
pub(crate) struct Expected {
    pub(crate) chunk_bytes: u64,
    pub(crate) origin: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) cow_bytes: u64,
    /// The old chunks that have exceptions, in the order in which they got them.
    pub(crate) order: Vec<u64>,
    /// So many of them, the first, are durable.
    pub(crate) committed: usize,
    /// Writes that found no room since the store was opened.
    pub(crate) refused: u64,
    mapped: Vec<bool>,
    /// Of each sector of the origin: whether the origin says that it is zeros.
    origin_is_zero: Vec<bool>,
    every_write: bool,
    discard: Discard,
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("devices of the test fit in memory")
}

impl Expected {
    pub(crate) fn new(shape: &Shape, origin: Vec<u8>, origin_is_zero: Vec<bool>) -> Self {
        let chunks = shape.origin_bytes().div_ceil(shape.chunk_bytes());
        Self {
            chunk_bytes: shape.chunk_bytes(),
            content: origin.clone(),
            origin,
            cow_bytes: shape.cow_bytes(),
            order: Vec::new(),
            committed: 0,
            refused: 0,
            mapped: vec![false; index(chunks)],
            origin_is_zero,
            every_write: shape.every_write,
            discard: shape.discard,
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.content.len() as u64
    }

    /// The largest n with 2 + n + n / E chunks on the device, found by trying.
    pub(crate) fn capacity(&self) -> usize {
        let device_chunks = self.cow_bytes / self.chunk_bytes;
        let fits = |n: &u64| 2 + n + n / self.entries() <= device_chunks;
        (1..).take_while(fits).count()
    }

    fn entries(&self) -> u64 {
        self.chunk_bytes / 16
    }

    /// The chunk that the n-th exception of a store without holes lies at.
    pub(crate) fn nth_new_chunk(&self, n: u64) -> u64 {
        2 + n + n / self.entries()
    }

    /// What the COW device has behind the snapshot's end, if its last chunk is mapped.
    pub(crate) fn behind_the_end<'a>(&self, cow: &'a [u8]) -> &'a [u8] {
        let last = (self.size_bytes() - 1) / self.chunk_bytes;
        let Some(n) = self.order.iter().position(|&chunk| chunk == last) else {
            return &[];
        };
        let start = self.nth_new_chunk(n as u64) * self.chunk_bytes;
        let used = self.size_bytes() - last * self.chunk_bytes;
        &cow[index(start + used)..index(start + self.chunk_bytes)]
    }

    /// What `dmsetup status` prints.
    pub(crate) fn status(&self) -> String {
        let sectors = self.chunk_bytes / 512;
        let allocated = self.nth_new_chunk(self.order.len() as u64) * sectors;
        let metadata = (self.committed as u64 / self.entries() + 2) * sectors;
        format!("{allocated}/{} {metadata}", self.cow_bytes / 512)
    }

    pub(crate) fn is_mapped(&self, offset: u64) -> bool {
        self.mapped[index(offset / self.chunk_bytes)]
    }

    /// The range cut at the chunks' borders: offset and length of each piece.
    fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (chunk_bytes, end) = (self.chunk_bytes, offset + len);
        let mut at = offset;
        std::iter::from_fn(move || {
            let piece = (at, (chunk_bytes - at % chunk_bytes).min(end - at));
            at += piece.1;
            (piece.1 > 0).then_some(piece)
        })
    }

    fn map(&mut self, offset: u64) -> bool {
        let chunk = offset / self.chunk_bytes;
        if self.is_mapped(offset) {
            return true;
        }
        if self.order.len() >= self.capacity() {
            self.refused += 1;
            return false;
        }
        self.mapped[index(chunk)] = true;
        self.order.push(chunk);
        true
    }

    fn done(&mut self) -> Outcome {
        if self.every_write {
            self.flush();
        }
        Outcome::Done
    }

    /// What was done before room ran out stays, and is as durable as a write that found room.
    fn refused(&mut self) -> Outcome {
        self.done();
        Outcome::NoSpace
    }

    /// A prefix of the chunks is new, up to the first that needs room where none is left.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Outcome {
        for (at, len) in self.pieces(offset, data.len() as u64) {
            if !self.map(at) {
                return self.refused();
            }
            let from = index(at - offset);
            self.content[index(at)..index(at + len)].copy_from_slice(&data[from..][..index(len)]);
        }
        self.done()
    }

    /// Whole mapped chunks read as zeros; the snapshot's end counts as a chunk's end.
    pub(crate) fn discard(&mut self, offset: u64, len: u64) -> Outcome {
        if self.discard == Discard::Ignore {
            return self.done();
        }
        for (at, len) in self.pieces(offset, len) {
            let whole = len == self.chunk_bytes || at + len == self.size_bytes();
            if whole && at.is_multiple_of(self.chunk_bytes) && self.is_mapped(at) {
                self.content[index(at)..index(at + len)].fill(0);
            }
        }
        self.done()
    }

    /// Whether a discard may not leave what was there.
    pub(crate) fn discard_is_exact(&self) -> bool {
        self.discard != Discard::Punch
    }

    pub(crate) fn zero(&mut self, offset: u64, len: u64, no_hole: bool, fast: bool) -> Outcome {
        if fast && (no_hole || self.has_cut_unmapped_end(offset, len)) {
            return Outcome::NotSupported;
        }
        for (at, len) in self.pieces(offset, len) {
            let sectors = at / 512..(at + len).div_ceil(512);
            let reads_zero = sectors.into_iter().all(|s| self.origin_is_zero[index(s)]);
            let needs_nothing = !self.is_mapped(at) && reads_zero && !no_hole;
            if !needs_nothing && !self.map(at) {
                return self.refused();
            }
            self.content[index(at)..index(at + len)].fill(0);
        }
        self.done()
    }

    /// A chunk would have to be copied: that is not fast.
    fn has_cut_unmapped_end(&self, offset: u64, len: u64) -> bool {
        let end = offset + len;
        let cut = |at: u64| !at.is_multiple_of(self.chunk_bytes);
        len > 0 && (cut(offset) && !self.is_mapped(offset) || cut(end) && !self.is_mapped(end - 1))
    }

    pub(crate) fn flush(&mut self) {
        self.committed = self.order.len();
    }

    /// The process ends without a commit: exceptions that were not committed are gone, and what was
    /// written to the others stays.
    pub(crate) fn abandon(&mut self) {
        for chunk in self.order.split_off(self.committed) {
            self.mapped[index(chunk)] = false;
            let start = index(chunk * self.chunk_bytes);
            let end = self.content.len().min(start + index(self.chunk_bytes));
            self.content[start..end].copy_from_slice(&self.origin[start..end]);
        }
        self.refused = 0;
    }
}
