//! A dump: what a walk shows, as text or as JSON. `read.rs` reads both back.

use std::io::{self, Write};

use usnap_format::{AreaIndex, Exception, IdentityRecord, NewChunk, OriginIdentity};

use super::{StoreHeader, VERSION, Visitor};
use crate::error::{Error, ErrorKind, Result};

/// How a dump looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpForm {
    /// Lines for people and for `diff`.
    Text,
    /// One JSON document.
    Json,
}

/// What JSON still has to close.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Head,
    Padding,
    /// The exceptions of an area, with some in it already.
    Area {
        is_empty: bool,
    },
    Junk,
    Missing,
}

/// Writes what a walk shows.
pub struct DumpWriter<W> {
    out: W,
    form: DumpForm,
    open: Open,
    exceptions: u64,
    failure: Option<io::Error>,
}

impl<W: Write> DumpWriter<W> {
    /// A dump that goes to `out`.
    pub fn new(out: W, form: DumpForm) -> Self {
        Self {
            out,
            form,
            open: Open::Head,
            exceptions: 0,
            failure: None,
        }
    }

    /// Writes the end, by which a reader knows that the dump is whole, and returns where it went.
    ///
    /// # Errors
    /// What writing says.
    pub fn end(mut self) -> io::Result<W> {
        let exceptions = self.exceptions;
        match self.form {
            DumpForm::Text => writeln!(self.out, "end {exceptions}")?,
            DumpForm::Json => {
                self.close()?;
                let areas = match self.open {
                    Open::Head | Open::Padding => ",\n\"areas\":[",
                    Open::Missing => "",
                    Open::Area { .. } | Open::Junk => "}",
                };
                let list = if self.open == Open::Missing {
                    ""
                } else {
                    "\n]"
                };
                writeln!(self.out, "{areas}{list},\n\"exceptions\":{exceptions}}}")?;
            }
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// How many exceptions were written so far.
    pub fn exceptions(&self) -> u64 {
        self.exceptions
    }

    /// Why a walk ended, if it was at a write that failed.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Closes the list that is open in JSON.
    fn close(&mut self) -> io::Result<()> {
        match self.open {
            Open::Head | Open::Missing => Ok(()),
            Open::Padding | Open::Area { .. } | Open::Junk => write!(self.out, "]"),
        }
    }

    fn write_header(&mut self, header: &StoreHeader) -> io::Result<()> {
        match self.form {
            DumpForm::Text => self.write_text_header(header),
            DumpForm::Json => self.write_json_header(header),
        }
    }

    fn write_text_header(&mut self, header: &StoreHeader) -> io::Result<()> {
        writeln!(self.out, "usnap-dump {VERSION}")?;
        writeln!(
            self.out,
            "header valid {} chunk_size_sectors {} cow_size_bytes {}",
            header.header.valid,
            header.header.chunk_size.sectors(),
            header.cow_size_bytes
        )?;
        if let Some(why) = header.identity_damage {
            writeln!(self.out, "identity damaged {:?}", why.to_string())?;
        }
        let Some(record) = header.identity else {
            return Ok(());
        };
        if let Some(origin) = record.origin {
            writeln!(
                self.out,
                "origin size_bytes {} sample_scheme {} sample_crc32 {:#010x} mtime {}.{:09}",
                origin.size_bytes,
                origin.sample_scheme,
                origin.sample_crc32,
                origin.mtime_s,
                origin.mtime_ns
            )?;
        }
        if !record.label.as_str().is_empty() {
            writeln!(self.out, "label {:?}", record.label.as_str())?;
        }
        write!(self.out, "record")?;
        for (name, flag) in flags(&record) {
            write!(self.out, " {name} {}", u8::from(flag))?;
        }
        let (session, boot_id) = (hex(&record.session), hex(&record.boot_id));
        writeln!(self.out, " session {session} boot_id {boot_id}")
    }

    fn write_json_header(&mut self, header: &StoreHeader) -> io::Result<()> {
        let label = header.identity.map(|record| record.label);
        let label = label.filter(|label| !label.is_empty());
        let origin = header.identity.and_then(|record| record.origin);
        let damage = header.identity_damage.map(|why| why.to_string());
        write!(
            self.out,
            "{{\"usnap_dump\":{VERSION},\"valid\":{},\"chunk_size_sectors\":{},\
             \"cow_size_bytes\":{},\"label\":{},\"origin\":{},\"identity_damage\":{},\"record\":{}",
            header.header.valid,
            header.header.chunk_size.sectors(),
            header.cow_size_bytes,
            label.map_or_else(null, |label| quoted(label.as_str())),
            origin.as_ref().map_or_else(null, origin_json),
            damage.map_or_else(null, |why| quoted(&why)),
            header.identity.as_ref().map_or_else(null, record_json),
        )
    }

    fn write_padding(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let bytes = hex(bytes);
        if self.form == DumpForm::Text {
            return writeln!(self.out, "padding {offset} {bytes}");
        }
        let before = match self.open {
            Open::Padding => ",\n",
            _ => ",\n\"padding\":[\n",
        };
        self.open = Open::Padding;
        write!(
            self.out,
            "{before}{{\"offset\":{offset},\"hex\":\"{bytes}\"}}"
        )
    }

    fn write_area(&mut self, area: AreaIndex, location: NewChunk) -> io::Result<()> {
        if self.form == DumpForm::Text {
            return writeln!(self.out, "area {area} chunk {location}");
        }
        self.close()?;
        let before = match self.open {
            Open::Head | Open::Padding => ",\n\"areas\":[\n",
            Open::Area { .. } | Open::Junk | Open::Missing => "},\n",
        };
        self.open = Open::Area { is_empty: true };
        write!(
            self.out,
            "{before}{{\"area\":{area},\"chunk\":{location},\"exceptions\":["
        )
    }

    fn write_exception(&mut self, exception: Exception) -> io::Result<()> {
        let Exception {
            old_chunk,
            new_chunk,
        } = exception;
        self.exceptions += 1;
        if self.form == DumpForm::Text {
            return writeln!(self.out, "{old_chunk} -> {new_chunk}");
        }
        let before = match self.open {
            Open::Area { is_empty: false } => ",\n",
            _ => "\n",
        };
        self.open = Open::Area { is_empty: false };
        write!(
            self.out,
            "{before}{{\"old_chunk\":{old_chunk},\"new_chunk\":{new_chunk}}}"
        )
    }

    fn write_junk(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let bytes = hex(bytes);
        if self.form == DumpForm::Text {
            return writeln!(self.out, "junk {offset} {bytes}");
        }
        let before = match self.open {
            Open::Junk => ",\n",
            _ => "],\"junk\":[\n",
        };
        self.open = Open::Junk;
        write!(
            self.out,
            "{before}{{\"offset\":{offset},\"hex\":\"{bytes}\"}}"
        )
    }

    fn write_missing(&mut self, area: AreaIndex, location: NewChunk) -> io::Result<()> {
        if self.form == DumpForm::Text {
            return writeln!(self.out, "missing area {area} chunk {location}");
        }
        self.close()?;
        self.open = Open::Missing;
        write!(
            self.out,
            "}}\n],\n\"missing_area\":{{\"area\":{area},\"chunk\":{location}}}"
        )
    }

    /// Ends the walk at a failed write; the failure itself is kept aside.
    fn keep(&mut self, result: io::Result<()>) -> Result<()> {
        result.map_err(|error| {
            let ended = Error::new(ErrorKind::Io, format!("cannot write the dump: {error}"));
            self.failure = Some(error);
            ended
        })
    }
}

impl<W: Write> Visitor for DumpWriter<W> {
    fn header(&mut self, header: &StoreHeader) -> Result<()> {
        let written = self.write_header(header);
        self.keep(written)
    }

    fn area(&mut self, area: AreaIndex, location: NewChunk) -> Result<()> {
        let written = self.write_area(area, location);
        self.keep(written)
    }

    fn exception(&mut self, _area: AreaIndex, _index: u64, exception: Exception) -> Result<()> {
        let written = self.write_exception(exception);
        self.keep(written)
    }

    fn padding(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let written = self.write_padding(offset, bytes);
        self.keep(written)
    }

    fn junk(&mut self, _area: AreaIndex, offset: u64, bytes: &[u8]) -> Result<()> {
        let written = self.write_junk(offset, bytes);
        self.keep(written)
    }

    fn missing_area(&mut self, area: AreaIndex, location: NewChunk, _error: Error) -> Result<()> {
        let written = self.write_missing(area, location);
        self.keep(written)
    }
}

/// The record's flags, by their names in a dump.
fn flags(record: &IdentityRecord) -> [(&'static str, bool); 3] {
    [
        ("clean", record.clean),
        ("journal", record.has_journal),
        ("origin_changing", record.origin_changing),
    ]
}

fn record_json(record: &IdentityRecord) -> String {
    let mut text = String::from("{");
    for (name, flag) in flags(record) {
        text.push_str(&format!("\"{name}\":{flag},"));
    }
    let (session, boot_id) = (hex(&record.session), hex(&record.boot_id));
    text.push_str(&format!(
        "\"session\":\"{session}\",\"boot_id\":\"{boot_id}\"}}"
    ));
    text
}

fn origin_json(origin: &OriginIdentity) -> String {
    format!(
        "{{\"size_bytes\":{},\"sample_scheme\":{},\"sample_crc32\":{},\"mtime_s\":{},\"mtime_ns\":{}}}",
        origin.size_bytes,
        origin.sample_scheme,
        origin.sample_crc32,
        origin.mtime_s,
        origin.mtime_ns
    )
}

fn null() -> String {
    "null".to_owned()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS.get(usize::from(value)).copied().unwrap_or(b'0'));
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(digit).collect()
}

/// A JSON string; control characters, those above ASCII too, are escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
