//! A dump as JSON: the keys that a dump has and no others, in its order, with any white space.
//!
//! Read by our own hands since a JSON library holds each text and number whole, however long it is; here
//! nothing longer than `LEN_MAX` is held.

use std::io::{self, BufRead};

use usnap_format::{IdentityRecord, OriginIdentity};

use super::sequence::{Head, Sequence, check_version, label};
use super::{Fault, LEN_MAX, Read, bytes, failed, id, number, signed};
use crate::error::Result;

/// Reads it to its end.
pub(super) fn read(input: impl BufRead, sequence: &mut Sequence<'_>) -> Result<()> {
    let mut tokens = Tokens {
        input,
        line: 1,
        column: 0,
        started: (1, 1),
    };
    document(&mut tokens, sequence).map_err(|fault| fault.at(tokens.started.0, tokens.started.1))
}

fn document<R: BufRead>(tokens: &mut Tokens<R>, sequence: &mut Sequence<'_>) -> Read<()> {
    let mut head = Head::default();
    let (mut seen, mut is_begun, mut has_areas, mut is_ended) = (0_u32, false, false, false);
    tokens.object(|tokens, key| {
        let bit = match key {
            "usnap_dump" => 1,
            "valid" => 2,
            "chunk_size_sectors" => 4,
            "cow_size_bytes" => 8,
            "label" => 16,
            "origin" => 32,
            "identity_damage" => 64,
            "record" => 128,
            "padding" => 256,
            "areas" => 512,
            "missing_area" => 1024,
            "exceptions" => 2048,
            _ => return Err(Fault::new(format!("a dump has no {key:?}"))),
        };
        if seen & bit != 0 {
            return Err(Fault::new(format!("there is another {key:?} before this")));
        }
        seen |= bit;
        if bit < 256 && is_begun {
            let what = format!("{key:?} has to come before the areas and the padding");
            return Err(Fault::new(what));
        }
        if bit >= 256 && !is_begun {
            if seen & 15 != 15 {
                return Err(Fault::new(
                    "usnap_dump, valid, chunk_size_sectors and cow_size_bytes have to come first",
                ));
            }
            sequence.head(&head)?;
            is_begun = true;
        }
        match key {
            "usnap_dump" => check_version(tokens.number()?)?,
            "valid" => head.valid = tokens.number()?,
            "chunk_size_sectors" => head.chunk_size_sectors = tokens.number()?,
            "cow_size_bytes" => head.cow_size_bytes = tokens.number()?,
            "label" => {
                let text = tokens.nullable(Tokens::string)?;
                head.label = text.map(|text| label(&text)).transpose()?;
            }
            "origin" => head.origin = tokens.nullable(origin)?,
            "identity_damage" => drop(tokens.nullable(Tokens::string)?),
            "record" => head.record = tokens.nullable(record)?,
            "padding" => tokens.array(|tokens| {
                let (offset, bytes) = piece(tokens)?;
                sequence.padding(offset, &bytes)
            })?,
            "areas" => {
                has_areas = true;
                tokens.array(|tokens| area(tokens, sequence))?;
            }
            "missing_area" => {
                let [area, chunk] = tokens.numbers(["area", "chunk"])?;
                sequence.missing_area(area, chunk)?;
            }
            _ if !has_areas => return Err(Fault::new("the areas have to come before this")),
            _ => {
                sequence.end(tokens.number()?)?;
                is_ended = true;
            }
        }
        if is_ended && bit != 2048 {
            return Err(Fault::new("`exceptions` comes last"));
        }
        Ok(())
    })?;
    if !is_ended {
        return Err(Fault::new("it ends without `exceptions`: it was cut off"));
    }
    match tokens.token_byte()? {
        None => Ok(()),
        Some(_) => Err(Fault::new("there is more behind its end")),
    }
}

fn area<R: BufRead>(tokens: &mut Tokens<R>, sequence: &mut Sequence<'_>) -> Read<()> {
    let (mut area, mut chunk, mut is_begun) = (None, None, false);
    tokens.object(|tokens, key| {
        match key {
            "area" if area.is_none() => area = Some(tokens.number()?),
            "chunk" if chunk.is_none() => chunk = Some(tokens.number()?),
            "exceptions" if !is_begun => {
                let (Some(area), Some(chunk)) = (area, chunk) else {
                    return Err(Fault::new("area and chunk have to come before this"));
                };
                sequence.area(area, chunk)?;
                is_begun = true;
                tokens.array(|tokens| {
                    let [old_chunk, new_chunk] = tokens.numbers(["old_chunk", "new_chunk"])?;
                    sequence.exception(old_chunk, new_chunk)
                })?;
            }
            "junk" if is_begun => tokens.array(|tokens| {
                let (offset, bytes) = piece(tokens)?;
                sequence.junk(offset, &bytes)
            })?,
            _ => return Err(Fault::new(format!("{key:?} does not come here"))),
        }
        Ok(())
    })?;
    if is_begun {
        return Ok(());
    }
    Err(Fault::new("the area has no `exceptions`"))
}

fn piece<R: BufRead>(tokens: &mut Tokens<R>) -> Read<(u64, Vec<u8>)> {
    let (mut offset, mut data) = (None, None);
    tokens.object(|tokens, key| {
        match key {
            "offset" => offset = Some(tokens.number()?),
            "hex" => data = Some(bytes(&tokens.string()?)?),
            _ => return Err(Fault::new(format!("{key:?} does not come here"))),
        }
        Ok(())
    })?;
    offset
        .zip(data)
        .ok_or_else(|| Fault::new("offset and hex were expected"))
}

fn origin<R: BufRead>(tokens: &mut Tokens<R>) -> Read<OriginIdentity> {
    let mut origin = OriginIdentity::default();
    tokens.object(|tokens, key| {
        match key {
            "size_bytes" => origin.size_bytes = tokens.number()?,
            "sample_scheme" => origin.sample_scheme = tokens.number()?,
            "sample_crc32" => origin.sample_crc32 = tokens.number()?,
            "mtime_s" => origin.mtime_s = signed(&tokens.bare_word()?)?,
            "mtime_ns" => origin.mtime_ns = tokens.number()?,
            _ => return Err(Fault::new(format!("{key:?} does not come here"))),
        }
        Ok(())
    })?;
    if origin.mtime_ns >= 1_000_000_000 {
        return Err(Fault::new("mtime_ns is not below 1000000000"));
    }
    Ok(origin)
}

fn record<R: BufRead>(tokens: &mut Tokens<R>) -> Read<IdentityRecord> {
    let mut record = IdentityRecord::default();
    tokens.object(|tokens, key| {
        match key {
            "clean" => record.clean = tokens.flag()?,
            "journal" => record.has_journal = tokens.flag()?,
            "origin_changing" => record.origin_changing = tokens.flag()?,
            "session" => record.session = id(&tokens.string()?)?,
            "boot_id" => record.boot_id = id(&tokens.string()?)?,
            _ => return Err(Fault::new(format!("{key:?} does not come here"))),
        }
        Ok(())
    })?;
    Ok(record)
}

/// JSON's words, with their place.
struct Tokens<R> {
    input: R,
    line: u64,
    /// Of the byte that was taken last.
    column: u64,
    /// Where the word that is read began.
    started: (u64, u64),
}

impl<R: BufRead> Tokens<R> {
    /// The next byte, which is not taken.
    fn peek(&mut self) -> Read<Option<u8>> {
        loop {
            match self.input.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
    }

    /// Takes the byte that was peeked at.
    fn take(&mut self, byte: u8) {
        self.input.consume(1);
        if byte == b'\n' {
            self.line += 1;
            self.column = 0;
        } else if byte & 0xc0 != 0x80 {
            self.column += 1;
        }
    }

    /// The first byte of the next word, behind white space, which is not taken.
    fn token_byte(&mut self) -> Read<Option<u8>> {
        loop {
            let byte = self.peek()?;
            match byte {
                Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) => self.take(byte),
                _ => {
                    self.started = (self.line, self.column + 1);
                    return Ok(byte);
                }
            }
        }
    }

    /// Takes the next word's first byte if it is this one.
    fn try_punctuation(&mut self, wanted: u8) -> Read<bool> {
        match self.token_byte()? {
            Some(byte) if byte == wanted => {
                self.take(byte);
                Ok(true)
            }
            Some(_) => Ok(false),
            None => Err(Fault::new("it ends here: it was cut off")),
        }
    }

    fn punctuation(&mut self, wanted: u8) -> Read<()> {
        if self.try_punctuation(wanted)? {
            return Ok(());
        }
        let wanted = char::from(wanted);
        Err(Fault::new(format!("{wanted:?} was expected")))
    }

    /// The members of an object, one after the other; `member` reads the value.
    fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> Read<()>) -> Read<()> {
        self.punctuation(b'{')?;
        if self.try_punctuation(b'}')? {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            let place = self.started;
            self.punctuation(b':')?;
            self.started = place;
            member(self, &key)?;
            if self.try_punctuation(b'}')? {
                return Ok(());
            }
            self.punctuation(b',')?;
        }
    }

    fn array(&mut self, mut element: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        self.punctuation(b'[')?;
        if self.try_punctuation(b']')? {
            return Ok(());
        }
        loop {
            element(self)?;
            if self.try_punctuation(b']')? {
                return Ok(());
            }
            self.punctuation(b',')?;
        }
    }

    /// An object of two numbers.
    fn numbers(&mut self, names: [&str; 2]) -> Read<[u64; 2]> {
        let mut values = [None; 2];
        self.object(|tokens, key| {
            let place = names.iter().position(|name| *name == key);
            match place.and_then(|place| values.get_mut(place)) {
                Some(value @ None) => *value = Some(tokens.number()?),
                _ => return Err(Fault::new(format!("{key:?} does not come here"))),
            }
            Ok(())
        })?;
        match values {
            [Some(first), Some(second)] => Ok([first, second]),
            _ => Err(Fault::new(format!(
                "{} and {} were expected",
                names[0], names[1]
            ))),
        }
    }

    fn nullable<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        if self.token_byte()? != Some(b'n') {
            return read(self).map(Some);
        }
        match &*self.bare_word()? {
            "null" => Ok(None),
            word => Err(Fault::new(format!("null was expected, not {word:?}"))),
        }
    }

    fn flag(&mut self) -> Read<bool> {
        match &*self.bare_word()? {
            "true" => Ok(true),
            "false" => Ok(false),
            word => Err(Fault::new(format!(
                "true or false was expected, not {word:?}"
            ))),
        }
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Read<T> {
        let word = self.bare_word()?;
        if word.starts_with("0x") {
            return Err(Fault::new("a number in JSON is decimal"));
        }
        number(&word)
    }

    /// A number, or one of the names without quotes.
    fn bare_word(&mut self) -> Read<String> {
        self.token_byte()?;
        let mut word = String::new();
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'+' | b'.') {
                break;
            }
            if word.len() >= LEN_MAX {
                return Err(Fault::new(format!(
                    "the word is longer than {LEN_MAX} bytes"
                )));
            }
            self.take(byte);
            word.push(char::from(byte));
        }
        Ok(word)
    }

    fn string(&mut self) -> Read<String> {
        self.punctuation(b'"')?;
        let mut text = Vec::new();
        loop {
            let Some(byte) = self.peek()? else {
                return Err(Fault::new("it ends in a text: it was cut off"));
            };
            self.take(byte);
            match byte {
                b'"' => break,
                b'\\' => {
                    let mut utf8 = [0; 4];
                    text.extend(self.escaped()?.encode_utf8(&mut utf8).as_bytes());
                }
                ..0x20 => return Err(Fault::new("there is a control character in a text")),
                _ => text.push(byte),
            }
            if text.len() > LEN_MAX {
                return Err(Fault::new(format!(
                    "the text is longer than {LEN_MAX} bytes"
                )));
            }
        }
        String::from_utf8(text).map_err(|_| Fault::new("the text is not UTF-8"))
    }

    fn escaped(&mut self) -> Read<char> {
        Ok(match self.any_byte()? {
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let mut units = vec![self.code_unit()?];
                if matches!(units.first(), Some(0xd800..0xdc00))
                    && (self.any_byte()?, self.any_byte()?) == (b'\\', b'u')
                {
                    units.push(self.code_unit()?);
                }
                match char::decode_utf16(units).next() {
                    Some(Ok(c)) => c,
                    _ => return Err(Fault::new("an escaped character is none")),
                }
            }
            _ => return Err(Fault::new("an escape in a text is not known")),
        })
    }

    fn any_byte(&mut self) -> Read<u8> {
        let Some(byte) = self.peek()? else {
            return Err(Fault::new("it ends in a text: it was cut off"));
        };
        self.take(byte);
        Ok(byte)
    }

    fn code_unit(&mut self) -> Read<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = char::from(self.any_byte()?).to_digit(16);
            let digit = digit.and_then(|digit| u16::try_from(digit).ok());
            unit = unit << 4 | digit.ok_or_else(|| Fault::new("four digits were expected"))?;
        }
        Ok(unit)
    }
}
