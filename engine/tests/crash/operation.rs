//! What a client does.

use crate::case::{Case, Unused};
use crate::random::Random;

/// One call of a client. Offsets and lengths are bytes of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write {
        offset: usize,
        len: usize,
    },
    /// A write that is durable when it returns.
    WriteFua {
        offset: usize,
        len: usize,
    },
    Zero {
        offset: usize,
        len: usize,
        no_hole: bool,
    },
    Trim {
        offset: usize,
        len: usize,
    },
    Flush,
    /// The commit timer's call: exceptions become durable, nothing is promised.
    Timer,
}

/// The alphabet of short histories; what a letter does depends on its place in the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Letter {
    /// A new chunk, whole.
    One,
    /// Three new chunks at once.
    Three,
    /// The second half of what the letter before may have written, and a half behind it.
    Part,
    /// A chunk that was there before.
    Over,
    Zero,
    Trim,
    Fua,
    Flush,
    Timer,
}

/// All letters.
pub(crate) const ALPHABET: [Letter; 9] = [
    Letter::One,
    Letter::Three,
    Letter::Part,
    Letter::Over,
    Letter::Zero,
    Letter::Trim,
    Letter::Fua,
    Letter::Flush,
    Letter::Timer,
];

/// How many old chunks a word of so many letters writes to, at most.
pub(crate) fn chunks_of_word(letters: usize) -> usize {
    letters * 3 + 1
}

impl Letter {
    pub(crate) fn at(self, case: &Case, place: usize) -> Operation {
        let chunk_len = case.shape.chunk_len;
        let first = case.offset(case.shape.exceptions + place * 3);
        match self {
            Self::One => Operation::Write {
                offset: first,
                len: chunk_len,
            },
            Self::Three => Operation::Write {
                offset: first,
                len: 3 * chunk_len,
            },
            Self::Part => {
                // Of the first word's letter: a chunk that is mapped already.
                let before = if place == 0 {
                    first
                } else {
                    first - 2 * chunk_len
                };
                Operation::Write {
                    offset: before - chunk_len / 2,
                    len: chunk_len,
                }
            }
            Self::Over => Operation::Write {
                offset: case.offset(1),
                len: chunk_len,
            },
            Self::Zero => Operation::Zero {
                offset: first,
                len: chunk_len,
                no_hole: false,
            },
            Self::Trim => Operation::Trim {
                offset: case.offset(1),
                len: 2 * chunk_len,
            },
            Self::Fua => Operation::WriteFua {
                offset: first,
                len: chunk_len,
            },
            Self::Flush => Operation::Flush,
            Self::Timer => Operation::Timer,
        }
    }
}

/// Something that a client may do, in the old chunks before the kernel's.
pub(crate) fn any_operation(case: &Case, random: &mut Random) -> Operation {
    let chunk_len = case.shape.chunk_len;
    let mut below = |end: usize| usize::try_from(random.below(end as u64)).expect("small");
    let end = case.kernels;
    // Most go to what the history may map, some to what is mapped, few to the device's last bytes.
    let chunk = match below(10) {
        0..2 if case.shape.exceptions > 0 => below(case.shape.exceptions),
        _ => case.shape.exceptions + below(end - case.shape.exceptions),
    };
    let most = match below(12) {
        0 => 40,
        1..4 => 6,
        _ => 2,
    };
    let count = 1 + below((end - chunk).min(most));
    let (mut offset, mut len) = (case.offset(chunk), count * chunk_len);
    if below(24) == 0 {
        (offset, len) = (case.origin_bytes.len() - 512, 512);
    }
    let kind = below(24);
    // Half of the writes are of parts of chunks, half of those of parts of sectors.
    if below(2) == 0 {
        let unit = if below(2) == 0 { 512 } else { 1 };
        let from = below(len.min(chunk_len)) / unit * unit;
        let to = len - below(len.min(chunk_len)) / unit * unit;
        if from < to {
            offset += from;
            len = to - from;
        }
    }
    match kind {
        0..3 => Operation::Flush,
        3..5 => Operation::Timer,
        5..7 => Operation::WriteFua { offset, len },
        7..10 => Operation::Zero {
            offset,
            len,
            no_hole: below(2) == 0,
        },
        10..12 => Operation::Trim { offset, len },
        _ => Operation::Write { offset, len },
    }
}

/// A store of any kind, near the border of a sector or an area more often than not.
pub(crate) fn any_shape(chunk_len: usize, random: &mut Random) -> crate::case::Shape {
    let mut below = |end: usize| usize::try_from(random.below(end as u64)).expect("small");
    let entries = chunk_len / 16;
    let exceptions = match below(8) {
        0 => 0,
        1 => below(2 * entries),
        // Just before a sector of entries is full,
        2..4 => 32 * (1 + below(entries / 32)) - 1 - below(4),
        // or an area,
        4..7 => entries - 1 - below(6),
        // or the second one.
        _ => 2 * entries - 1 - below(4),
    };
    crate::case::Shape {
        chunk_len,
        exceptions,
        holes: below(4) == 0,
        junk: below(4) == 0,
        unused: if below(4) == 0 {
            Unused::Zeros
        } else {
            Unused::Stale
        },
        history_chunks: 48,
        room: (below(8) == 0).then(|| 1 + below(20)),
    }
}
