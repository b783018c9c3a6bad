//! Short histories: words of an alphabet.

use crate::case::Case;
use crate::operation::Operation;

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
