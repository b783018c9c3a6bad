//! `usnap restore`: a store's metadata from a dump, bit for bit.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use usnap_engine::dump::{ReadOptions, StoreHeader, Visitor, read};
use usnap_engine::restore::{restore_new, restore_over};
use usnap_format::{AreaIndex, Exception, NewChunk};

use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::printable;
use crate::progress::Progress;
use crate::size;

/// Restore the metadata of a COW file from a dump
///
/// Writes what a dump says, text or JSON, as it was: the header, the record of the origin, every
/// entry in its place, and bytes that mean nothing. A dump has no data. A new COW file is sparse and
/// its data chunks are zeros; over an existing one (--over) they stay what they are, so that a dump
/// that was edited, or was made before damage, mends the file that it came from.
///
/// Over an existing file the whole dump is read before anything is changed, and an interruption
/// leaves the old file, the new one, or one that is refused until it is restored again.
#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// What `usnap dump` printed, as text or with --json; - is standard input
    #[arg(value_name = "DUMP")]
    dump: PathBuf,
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Write over an existing COW file, keeping its data chunks
    #[arg(long)]
    over: bool,
    /// Fill the areas anew, in the order of the entries
    ///
    /// For a dump that lines were removed from, or added to: `area` lines and the number at the end
    /// do not matter then, and bytes that mean nothing are left out of the areas.
    #[arg(long)]
    repack: bool,
    /// What to do with the journal of a server that was killed; without it such a file is refused
    #[arg(long, value_name = "ACTION", requires = "over")]
    journal: Option<Journal>,
}

/// What becomes of a journal.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Journal {
    /// Remove it: what it has is lost
    Discard,
}

const AFTER_HELP: &str = "\
Example, without the entries for old chunks from 1000 on:
  usnap dump changes.cow | awk '$2 != \"->\" || $1 < 1000' > changes.dump
  usnap restore --over --repack changes.dump changes.cow";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let tried = || format!("cannot restore {}", args.cow.display());
    let restored = restore(args).map_err(|failure| failure.context(tried))?;
    for note in &restored.notes {
        tracing::warn!("{note}");
    }
    let data = if args.over {
        "its data is what it was"
    } else {
        "its data is zeros"
    };
    output::print(&format!(
        "restored {}: {}, exceptions: {}, areas: {}; {data}",
        printable::path(&args.cow),
        size::human(restored.size_bytes),
        restored.exceptions,
        restored.areas,
    ))?;
    Ok(ExitCode::Success)
}

fn restore(args: &Args) -> Result<usnap_engine::restore::Restored> {
    let options = ReadOptions {
        repack: args.repack,
    };
    let mut file = open(&args.dump, options)?;
    let what = format!("restoring {}", args.cow.display());
    let mut source = |visitor: &mut dyn Visitor| {
        file.rewind()
            .map_err(|e| usnap_engine::Error::io("cannot read the dump", e))?;
        let mut watched = Watched {
            visitor,
            progress: Progress::new(what.clone(), "exceptions", None),
            exceptions: 0,
        };
        read(
            BufReader::with_capacity(1 << 16, &file),
            options,
            &mut watched,
        )
    };
    Ok(if args.over {
        restore_over(&args.cow, args.journal.is_some(), &mut source)?
    } else {
        restore_new(&args.cow, &mut source)?
    })
}

/// The dump as a file, which can be read more than once. Of a pipe no more is kept than is a dump: what
/// is none may have no end.
fn open(dump: &Path, options: ReadOptions) -> Result<File> {
    let fail = |e: io::Error| {
        let tried = format!("cannot read {}", dump.display());
        Failure::from(anyhow::Error::new(e).context(tried))
    };
    let from: Box<dyn io::Read> = if dump == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(dump).map_err(fail)?;
        if file.metadata().map_err(fail)?.is_dir() {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        if file.metadata().map_err(fail)?.is_file() {
            return Ok(file);
        }
        Box::new(file)
    };
    let kept = tempfile::tempfile().map_err(fail)?;
    let keeping = Keeping { from, kept: &kept };
    read(
        BufReader::with_capacity(1 << 16, keeping),
        options,
        &mut Unseen,
    )?;
    Ok(kept)
}

/// Keeps what is read.
struct Keeping<'a> {
    from: Box<dyn io::Read>,
    kept: &'a File,
}

impl io::Read for Keeping<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(buf)?;
        self.kept.write_all(buf.get(..len).unwrap_or_default())?;
        Ok(len)
    }
}

/// Looks at nothing: the dump is read to see that it is one.
struct Unseen;

impl Visitor for Unseen {
    fn header(&mut self, _header: &StoreHeader) -> usnap_engine::Result<()> {
        Ok(())
    }

    fn area(&mut self, _area: AreaIndex, _location: NewChunk) -> usnap_engine::Result<()> {
        Ok(())
    }

    fn exception(
        &mut self,
        _area: AreaIndex,
        _index: u64,
        _exception: Exception,
    ) -> usnap_engine::Result<()> {
        Ok(())
    }

    fn missing_area(
        &mut self,
        _area: AreaIndex,
        _location: NewChunk,
        _error: usnap_engine::Error,
    ) -> usnap_engine::Result<()> {
        Ok(())
    }
}

/// Shows progress of what is read.
struct Watched<'v> {
    visitor: &'v mut dyn Visitor,
    progress: Progress,
    exceptions: u64,
}

impl Visitor for Watched<'_> {
    fn header(&mut self, header: &StoreHeader) -> usnap_engine::Result<()> {
        self.visitor.header(header)
    }

    fn area(&mut self, area: AreaIndex, location: NewChunk) -> usnap_engine::Result<()> {
        self.progress.set(self.exceptions);
        self.visitor.area(area, location)
    }

    fn exception(
        &mut self,
        area: AreaIndex,
        index: u64,
        exception: Exception,
    ) -> usnap_engine::Result<()> {
        self.exceptions += 1;
        self.visitor.exception(area, index, exception)
    }

    fn padding(&mut self, offset: u64, bytes: &[u8]) -> usnap_engine::Result<()> {
        self.visitor.padding(offset, bytes)
    }

    fn junk(&mut self, area: AreaIndex, offset: u64, bytes: &[u8]) -> usnap_engine::Result<()> {
        self.visitor.junk(area, offset, bytes)
    }

    fn missing_area(
        &mut self,
        area: AreaIndex,
        location: NewChunk,
        error: usnap_engine::Error,
    ) -> usnap_engine::Result<()> {
        self.visitor.missing_area(area, location, error)
    }
}
