//! `usnap dump`: a store's metadata as text or JSON, complete enough to be read back.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use usnap_engine::dump::{StoreHeader, Visitor, walk};
use usnap_format::{AreaIndex, Exception, IdentityRecord, NewChunk};

use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::printable;
use crate::progress::Progress;

/// Print the metadata of a COW file
///
/// Prints the header, the record of the origin, and every exception: which chunk of the snapshot
/// lies in which chunk of the COW file. Entries are shown as they are, believable or not, also those
/// of an invalidated file. Nothing is changed or locked.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let progress = Progress::new(
        format!("dumping {}", args.cow.display()),
        "exceptions",
        None,
    );
    let form = if args.json { Form::Json } else { Form::Text };
    let mut dump = Dump::new(output::stdout(), form, Some(progress));
    let walked = walk(&args.cow, &mut dump);
    if let Some(error) = dump.write_error.take() {
        return Err(output::failed(error));
    }
    walked?;
    dump.end().map_err(output::failed)?;
    Ok(ExitCode::Success)
}

/// How a dump looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

/// Writes what a walk shows.
pub(crate) struct Dump<W> {
    out: W,
    form: Form,
    progress: Option<Progress>,
    exceptions: u64,
    areas: u64,
    /// Whether the area begun last has an exception already.
    in_area: bool,
    write_error: Option<io::Error>,
}

impl<W: Write> Dump<W> {
    pub(crate) fn new(out: W, form: Form, progress: Option<Progress>) -> Self {
        let (exceptions, areas) = (0, 0);
        Self {
            out,
            form,
            progress,
            exceptions,
            areas,
            in_area: false,
            write_error: None,
        }
    }

    /// Writes the end, by which a reader knows that the dump is whole.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        let exceptions = self.exceptions;
        match self.form {
            Form::Text => writeln!(self.out, "end {exceptions}")?,
            Form::Json => {
                if self.areas > 0 {
                    write!(self.out, "]}}")?;
                }
                writeln!(self.out, "\n],\n\"exceptions\":{exceptions}}}")?;
            }
        }
        self.out.flush()
    }

    fn write_header(&mut self, header: &StoreHeader) -> io::Result<()> {
        if self.form == Form::Json {
            let head = HeaderDocument::new(header);
            let text = serde_json::to_string(&head).map_err(io::Error::other)?;
            let text = printable::json(&text);
            // Left open for the areas.
            let open = text.strip_suffix('}').unwrap_or(&text);
            return write!(self.out, "{open},\n\"areas\":[");
        }
        writeln!(self.out, "usnap-dump 1")?;
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
        let Some(IdentityRecord {
            origin,
            origin_changing,
            label,
            ..
        }) = header.identity
        else {
            return Ok(());
        };
        if let Some(origin) = origin {
            writeln!(
                self.out,
                "origin size_bytes {} sample_scheme {} sample_crc32 {:#010x} mtime {}.{:09}",
                origin.size_bytes,
                origin.sample_scheme,
                origin.sample_crc32,
                origin.mtime_s,
                origin.mtime_ns
            )?;
            if origin_changing {
                writeln!(self.out, "origin_changing")?;
            }
        }
        if !label.as_str().is_empty() {
            writeln!(self.out, "label {:?}", label.as_str())?;
        }
        Ok(())
    }

    fn write_area(&mut self, area: AreaIndex, location: NewChunk) -> io::Result<()> {
        let is_first = self.areas == 0;
        self.areas += 1;
        self.in_area = false;
        match self.form {
            Form::Text => writeln!(self.out, "area {area} chunk {location}"),
            Form::Json => {
                let before = if is_first { "\n" } else { "]},\n" };
                write!(
                    self.out,
                    "{before}{{\"area\":{area},\"chunk\":{location},\"exceptions\":["
                )
            }
        }
    }

    fn write_exception(&mut self, exception: Exception) -> io::Result<()> {
        let Exception {
            old_chunk,
            new_chunk,
        } = exception;
        self.exceptions += 1;
        let is_first = !std::mem::replace(&mut self.in_area, true);
        if let Some(progress) = &mut self.progress {
            progress.set(self.exceptions);
        }
        match self.form {
            Form::Text => writeln!(self.out, "{old_chunk} -> {new_chunk}"),
            Form::Json => {
                let before = if is_first { "\n" } else { ",\n" };
                write!(
                    self.out,
                    "{before}{{\"old_chunk\":{old_chunk},\"new_chunk\":{new_chunk}}}"
                )
            }
        }
    }

    /// Ends the walk at a failed write; the failure itself is kept aside.
    fn keep(&mut self, result: io::Result<()>) -> usnap_engine::Result<()> {
        result.map_err(|error| {
            let ended = usnap_engine::Error::new(usnap_engine::ErrorKind::Io, "cannot write");
            self.write_error = Some(error);
            ended
        })
    }
}

impl<W: Write> Visitor for Dump<W> {
    fn header(&mut self, header: &StoreHeader) -> usnap_engine::Result<()> {
        let written = self.write_header(header);
        self.keep(written)
    }

    fn area(&mut self, area: AreaIndex, location: NewChunk) -> usnap_engine::Result<()> {
        let written = self.write_area(area, location);
        self.keep(written)
    }

    fn exception(
        &mut self,
        _area: AreaIndex,
        _index: u64,
        exception: Exception,
    ) -> usnap_engine::Result<()> {
        let written = self.write_exception(exception);
        self.keep(written)
    }
}

/// The whole dump of a store as text.
///
/// # Errors
/// As `walk`.
pub(crate) fn to_text(cow: &std::path::Path) -> Result<String> {
    let mut dump = Dump::new(Vec::new(), Form::Text, None);
    walk(cow, &mut dump)?;
    dump.end()
        .map_err(|error| Failure::from(anyhow::Error::new(error)))?;
    Ok(String::from_utf8_lossy(&dump.out).into_owned())
}

/// The head of the JSON form; a contract, with the areas behind it.
#[derive(Serialize)]
struct HeaderDocument {
    usnap_dump: u32,
    valid: u32,
    chunk_size_sectors: u32,
    cow_size_bytes: u64,
    label: Option<String>,
    origin: Option<OriginDocument>,
    identity_damage: Option<String>,
}

#[derive(Serialize)]
struct OriginDocument {
    size_bytes: u64,
    sample_scheme: u32,
    sample_crc32: u32,
    mtime_s: i64,
    mtime_ns: u32,
    /// Only the size counts.
    changing: bool,
}

impl HeaderDocument {
    fn new(header: &StoreHeader) -> Self {
        let record = header.identity;
        Self {
            usnap_dump: 1,
            valid: header.header.valid,
            chunk_size_sectors: header.header.chunk_size.sectors(),
            cow_size_bytes: header.cow_size_bytes,
            label: record
                .map(|r| r.label.as_str().to_owned())
                .filter(|l| !l.is_empty()),
            origin: record
                .and_then(|record| Some((record.origin?, record.origin_changing)))
                .map(|(origin, changing)| OriginDocument {
                    size_bytes: origin.size_bytes,
                    sample_scheme: origin.sample_scheme,
                    sample_crc32: origin.sample_crc32,
                    mtime_s: origin.mtime_s,
                    mtime_ns: origin.mtime_ns,
                    changing,
                }),
            identity_damage: header.identity_damage.map(|why| why.to_string()),
        }
    }
}
