//! A dump as lines. Empty ones and those that begin with `#` are left out.

use std::io::{self, BufRead, Read as _};

use usnap_format::{IdentityRecord, OriginIdentity};

use super::sequence::{Head, Sequence, check_version, label};
use super::{Fault, LEN_MAX, Read, bytes, failed, id, number, signed};
use crate::error::Result;

/// Reads it to its end.
pub(super) fn read(mut input: impl BufRead, sequence: &mut Sequence<'_>) -> Result<()> {
    let mut reader = Reader::default();
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let limit = LEN_MAX as u64 + 1;
        let read = io::Read::by_ref(&mut input)
            .take(limit)
            .read_until(b'\n', &mut line);
        if read.map_err(failed)? == 0 {
            break;
        }
        if line.len() > LEN_MAX {
            let what = format!("the line is longer than {LEN_MAX} bytes");
            return Err(Fault::new(what).at(number, 1));
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            return Err(Fault::new("the line is not UTF-8: this is no dump").at(number, 1));
        };
        let mut words = Words::new(text);
        reader
            .line(&mut words, sequence)
            .map_err(|fault| fault.at(number, words.column()))?;
    }
    if reader.part == Part::Ended {
        return Ok(());
    }
    let what = "it ends before its end (`end`): it was cut off";
    Err(Fault::new(what).at(number, 1))
}

/// The words of a line.
struct Words<'a> {
    line: &'a str,
    /// Where the last word began, and where the rest does.
    at: usize,
    rest: usize,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let line = line.trim_end();
        Self {
            line,
            at: 0,
            rest: 0,
        }
    }

    /// The column of the last word, from 1.
    fn column(&self) -> u64 {
        let before = self.line.get(..self.at).unwrap_or(self.line);
        before.chars().count() as u64 + 1
    }

    /// All that is left.
    fn rest(&mut self) -> &'a str {
        let rest = self.line.get(self.rest..).unwrap_or_default();
        let trimmed = rest.trim_start();
        self.at = self.line.len() - trimmed.len();
        self.rest = self.line.len();
        trimmed
    }

    /// The next word; empty at the end.
    fn next(&mut self) -> &'a str {
        let rest = self.rest();
        let word = rest.split_whitespace().next().unwrap_or_default();
        self.rest = self.at + word.len();
        word
    }

    fn keyword(&mut self, wanted: &str) -> Read<()> {
        match self.next() {
            word if word == wanted => Ok(()),
            word => Err(Fault::new(format!("{wanted:?} was expected, not {word:?}"))),
        }
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Read<T> {
        number(self.next())
    }

    fn named<T: TryFrom<u64>>(&mut self, name: &str) -> Read<T> {
        self.keyword(name)?;
        self.number()
    }

    fn flag(&mut self, name: &str) -> Read<bool> {
        match self.named::<u64>(name)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::new("0 or 1 was expected")),
        }
    }

    fn end(&mut self) -> Read<()> {
        match self.next() {
            "" => Ok(()),
            word => Err(Fault::new(format!("the line goes on with {word:?}"))),
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Version,
    Header,
    Head,
    Areas,
    Ended,
}

#[derive(Default)]
struct Reader {
    part: Part,
    head: Head,
}

impl Reader {
    fn line(&mut self, words: &mut Words<'_>, sequence: &mut Sequence<'_>) -> Read<()> {
        let word = words.next();
        if word.is_empty() || word.starts_with('#') {
            return Ok(());
        }
        match self.part {
            Part::Version if word == "usnap-dump" => {
                check_version(words.number()?)?;
                self.part = Part::Header;
            }
            Part::Version => {
                return Err(Fault::new("this is no dump, which begins with usnap-dump"));
            }
            Part::Header if word == "header" => {
                self.head.valid = words.named("valid")?;
                self.head.chunk_size_sectors = words.named("chunk_size_sectors")?;
                self.head.cow_size_bytes = words.named("cow_size_bytes")?;
                self.head.check()?;
                self.part = Part::Head;
            }
            Part::Header => return Err(Fault::new("the header has to come first")),
            Part::Head => {
                if !self.head_line(word, words)? {
                    sequence.head(&self.head)?;
                    self.part = Part::Areas;
                    self.body_line(word, words, sequence)?;
                }
            }
            Part::Areas => self.body_line(word, words, sequence)?,
            Part::Ended => return Err(Fault::new("there is more behind its end")),
        }
        words.end()
    }

    /// Takes a line about origin and identity; false of any other.
    fn head_line(&mut self, word: &str, words: &mut Words<'_>) -> Read<bool> {
        let is_second = match word {
            "identity" => {
                words.keyword("damaged")?;
                // For people: the bytes themselves are padding.
                let _why = words.rest();
                return Ok(true);
            }
            "origin" => self.head.origin.replace(origin(words)?).is_some(),
            "label" => {
                let text = unquoted(words.rest())?;
                self.head.label.replace(label(&text)?).is_some()
            }
            "record" => self.head.record.replace(record(words)?).is_some(),
            _ => return Ok(false),
        };
        if is_second {
            return Err(Fault::new(format!("there is another {word} before this")));
        }
        Ok(true)
    }

    fn body_line(
        &mut self,
        word: &str,
        words: &mut Words<'_>,
        sequence: &mut Sequence<'_>,
    ) -> Read<()> {
        match word {
            "area" => {
                let area = words.number()?;
                sequence.area(area, words.named("chunk")?)
            }
            "padding" => {
                let offset = words.number()?;
                sequence.padding(offset, &bytes(words.next())?)
            }
            "junk" => {
                let offset = words.number()?;
                sequence.junk(offset, &bytes(words.next())?)
            }
            "missing" => {
                let area = words.named("area")?;
                sequence.missing_area(area, words.named("chunk")?)
            }
            "end" => {
                sequence.end(words.number()?)?;
                self.part = Part::Ended;
                Ok(())
            }
            _ => {
                let old_chunk = number(word)?;
                words.keyword("->")?;
                sequence.exception(old_chunk, words.number()?)
            }
        }
    }
}

fn origin(words: &mut Words<'_>) -> Read<OriginIdentity> {
    let (size_bytes, sample_scheme) = (words.named("size_bytes")?, words.named("sample_scheme")?);
    let sample_crc32 = words.named("sample_crc32")?;
    words.keyword("mtime")?;
    let time = words.next();
    let Some((seconds, nanoseconds)) = time.split_once('.') else {
        return Err(Fault::new("seconds, a point and nanoseconds were expected"));
    };
    let mtime_ns: u32 = number(nanoseconds)?;
    if nanoseconds.len() != 9 {
        return Err(Fault::new(
            "nine digits of nanoseconds were expected behind the point",
        ));
    }
    Ok(OriginIdentity {
        size_bytes,
        sample_scheme,
        sample_crc32,
        mtime_s: signed(seconds)?,
        mtime_ns,
    })
}

fn record(words: &mut Words<'_>) -> Read<IdentityRecord> {
    let (clean, has_journal) = (words.flag("clean")?, words.flag("journal")?);
    let origin_changing = words.flag("origin_changing")?;
    words.keyword("session")?;
    let session = id(words.next())?;
    words.keyword("boot_id")?;
    Ok(IdentityRecord {
        clean,
        has_journal,
        origin_changing,
        session,
        boot_id: id(words.next())?,
        ..IdentityRecord::default()
    })
}

/// The text that was quoted and escaped as Rust does it.
fn unquoted(word: &str) -> Read<String> {
    let wrong = || Fault::new("a text in quotes was expected");
    let inner = word.strip_prefix('"').and_then(|w| w.strip_suffix('"'));
    let mut rest = inner.filter(|_| word.len() > 1).ok_or_else(wrong)?;
    let mut text = String::new();
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '"' {
            return Err(wrong());
        }
        if c != '\\' {
            text.push(c);
            continue;
        }
        let escaped = rest.chars().next().ok_or_else(wrong)?;
        rest = rest.get(escaped.len_utf8()..).unwrap_or_default();
        text.push(match escaped {
            '"' | '\\' | '\'' => escaped,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            'u' => {
                let braced = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
                let (digits, behind) = braced.ok_or_else(wrong)?;
                rest = behind;
                let code = u32::from_str_radix(digits, 16).ok();
                code.and_then(char::from_u32).ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        });
    }
    Ok(text)
}
