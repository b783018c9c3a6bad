//! `usnap dump`: a store's metadata as text or JSON, complete enough to be read back.

use std::io::Write;
use std::path::PathBuf;

use usnap_engine::dump::{DumpForm, DumpWriter, StoreHeader, Visitor, walk};
use usnap_format::{AreaIndex, Exception, NewChunk};

use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::progress::Progress;

/// Print the metadata of a COW file
///
/// Prints the header, the record of the origin, and every exception: which chunk of the snapshot
/// lies in which chunk of the COW file. Entries are shown as they are, believable or not, also those
/// of an invalidated file, and so are bytes that mean nothing, where they are not zeros. Nothing is
/// changed or locked. `usnap restore` makes the same metadata of it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Lines: `usnap-dump VERSION`; `header`; `identity damaged` where the record is; `origin`, `label` and \
`record` where there is one; `padding OFFSET BYTES` of the header's chunk; then of each area `area \
AREA chunk CHUNK`, `OLD -> NEW` an exception, `junk OFFSET BYTES` behind the last one; `missing area \
AREA chunk CHUNK` where it lies behind the end of the file; `end EXCEPTIONS`. Bytes are hexadecimal. \
JSON has the same, in the same order.

Example: usnap dump changes.cow > changes.dump";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let what = format!("dumping {}", args.cow.display());
    let form = if args.json {
        DumpForm::Json
    } else {
        DumpForm::Text
    };
    let mut shown = Shown {
        dump: DumpWriter::new(output::stdout(), form),
        progress: Progress::new(what, "exceptions", None),
        missing: None,
    };
    let walked = walk(&args.cow, &mut shown);
    if let Some(error) = shown.dump.take_failure() {
        return Err(output::failed(error));
    }
    walked?;
    if let Some(missing) = &shown.missing {
        tracing::warn!("{missing}");
    }
    let mut out = shown.dump.end().map_err(output::failed)?;
    out.flush().map_err(output::failed)?;
    Ok(ExitCode::Success)
}

/// A dump that is written, with its progress.
struct Shown<W> {
    dump: DumpWriter<W>,
    progress: Progress,
    missing: Option<String>,
}

impl<W: Write> Visitor for Shown<W> {
    fn header(&mut self, header: &StoreHeader) -> usnap_engine::Result<()> {
        self.dump.header(header)
    }

    fn area(&mut self, area: AreaIndex, location: NewChunk) -> usnap_engine::Result<()> {
        self.progress.set(self.dump.exceptions());
        self.dump.area(area, location)
    }

    fn exception(
        &mut self,
        area: AreaIndex,
        index: u64,
        exception: Exception,
    ) -> usnap_engine::Result<()> {
        self.dump.exception(area, index, exception)
    }

    fn padding(&mut self, offset: u64, bytes: &[u8]) -> usnap_engine::Result<()> {
        self.dump.padding(offset, bytes)
    }

    fn junk(&mut self, area: AreaIndex, offset: u64, bytes: &[u8]) -> usnap_engine::Result<()> {
        self.dump.junk(area, offset, bytes)
    }

    fn missing_area(
        &mut self,
        area: AreaIndex,
        location: NewChunk,
        error: usnap_engine::Error,
    ) -> usnap_engine::Result<()> {
        self.missing = Some(error.to_string());
        self.dump.missing_area(area, location, error)
    }
}

/// The whole dump of a store as text.
///
/// # Errors
/// As `walk`.
pub(crate) fn to_text(cow: &std::path::Path) -> Result<String> {
    let mut dump = DumpWriter::new(Vec::new(), DumpForm::Text);
    walk(cow, &mut dump)?;
    let out = dump
        .end()
        .map_err(|error| Failure::from(anyhow::Error::new(error)))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}
