//! Reading a dump, text or JSON, and showing what it says to a visitor, as the walk does that made
//! it. Whoever wrote it may have edited it, or mean harm: every number is checked, nothing is held
//! but a line or a word, and an error says where it is.

mod json;
mod sequence;
mod text;

use std::io::{self, BufRead};

use super::Visitor;
use crate::error::{Error, ErrorKind, Result};

use sequence::Sequence;

/// The longest line or word that is read, in bytes.
const LEN_MAX: usize = 4096;

/// How a dump is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Fill the areas anew, in the order of the exceptions, where lines were removed or added. What
    /// lay behind the terminator is left out.
    pub repack: bool,
}

/// Shows what the dump in `input` says.
///
/// # Errors
/// `Corrupt`, with line and column, where it is no dump, or not a whole one; `Io`; and what the
/// visitor says.
pub fn read(
    mut input: impl BufRead,
    options: ReadOptions,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let mut sequence = Sequence::new(visitor, options.repack);
    let first = first_byte(&mut input)?;
    if first == Some(b'{') {
        json::read(input, &mut sequence)
    } else {
        text::read(input, &mut sequence)
    }
}

/// The first byte, which is not taken: a dump never begins with anything before it.
fn first_byte(input: &mut impl BufRead) -> Result<Option<u8>> {
    loop {
        match input.fill_buf() {
            Ok(bytes) => return Ok(bytes.first().copied()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("cannot read the dump", error)
}

/// Why a dump is not read on.
enum Fault {
    /// What is wrong with it; the place is known to whoever reads.
    Said(String),
    /// Something else failed.
    Failed(Error),
}

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        Self::Said(what.into())
    }

    /// The error, of what was read at this place. Both count from 1.
    fn at(self, line: u64, column: u64) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Said(what) => {
                let context = format!("cannot read the dump: line {line}, column {column}: {what}");
                Error::new(ErrorKind::Corrupt, context)
            }
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Read<T> = std::result::Result<T, Fault>;

/// A number as it is written: decimal, or hexadecimal behind `0x`.
fn number<T: TryFrom<u64>>(word: &str) -> Read<T> {
    let parsed = match word.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16),
        _ if word.starts_with('+') => "+".parse(),
        _ => word.parse(),
    };
    match parsed.map(T::try_from) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(Fault::new(format!("{word} is out of range"))),
        Err(error) if *error.kind() == std::num::IntErrorKind::PosOverflow => {
            Err(Fault::new(format!("{word} is out of range")))
        }
        Err(_) => Err(Fault::new(format!("a number was expected, not {word:?}"))),
    }
}

/// A signed number, decimal.
fn signed(word: &str) -> Read<i64> {
    word.parse()
        .map_err(|_| Fault::new(format!("a signed number was expected, not {word:?}")))
}

/// Bytes as hexadecimal digits, at least one byte.
fn bytes(word: &str) -> Read<Vec<u8>> {
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let (pairs, rest) = word.as_bytes().as_chunks::<2>();
    let decoded: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect();
    match decoded {
        Some(bytes) if rest.is_empty() && !bytes.is_empty() => Ok(bytes),
        _ => Err(Fault::new("pairs of hexadecimal digits were expected")),
    }
}

/// A number of 16 bytes.
fn id(word: &str) -> Read<[u8; 16]> {
    bytes(word)?
        .try_into()
        .map_err(|_| Fault::new("32 hexadecimal digits were expected"))
}
