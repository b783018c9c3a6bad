//! `usnap diff`: which ranges a chain changes, or a stream of them with their data.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use anyhow::Context;
use usnap_engine::chain::{Chain, Relative};
use usnap_engine::diff::{self, DiffOptions, Exact};

use super::export::{ChainArgs, flow, take_signals, told};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::progress::Progress;

/// List the byte ranges that COW files change, or write them as a diff
///
/// Prints a line `offset length` for each range, in bytes, ascending; neighbours are joined. A range
/// is made of whole chunks that were written, whatever their content is; --exact compares the content.
/// With --with-data the ranges and their data are written as a diff, which `usnap patch` applies to a
/// copy of ORIGIN on another machine. A COW file that is being served is refused.
///
/// Example: usnap diff disk.img changes.cow --with-data - | ssh there usnap patch - disk.img
#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    chain: ChainArgs,
    /// Only what COW changes, relative to what it lies on (the layers)
    #[arg(long)]
    top: bool,
    /// Leave out sectors whose content is the same; reads both sides
    #[arg(long)]
    exact: bool,
    /// Write a diff with the data to this file; - for standard output
    #[arg(long, value_name = "OUT", conflicts_with = "json")]
    with_data: Option<PathBuf>,
    /// Replace OUT if it is there
    #[arg(long, short, requires = "with_data")]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
JSON: `size_bytes` (of the device), `relative_to` (`origin`, or with --top `layers`), `exact`, `ranges` (of each \
`offset` and `length`, in bytes), `range_count` and `changed_bytes`.

The diff's format is documented in engine/DIFF.md of the sources; each part has a checksum.";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let is_file = |out: &PathBuf| out.as_os_str() != "-";
    let interrupt = take_signals(args.with_data.as_ref().is_some_and(is_file))?;
    let chain = args.chain.open()?;
    let options = DiffOptions {
        relative: if args.top {
            Relative::ToLayers
        } else {
            Relative::ToOrigin
        },
        exact: args.exact,
    };
    let mut progress = Progress::new(
        format!("comparing {}", args.chain.cow().display()),
        "MiB",
        Some(chain.device().size_bytes() >> 20),
    );
    let mut watch = |done: u64| {
        progress.set(done >> 20);
        flow(interrupt.as_ref())
    };
    let done = match &args.with_data {
        Some(out) if out.as_os_str() == "-" => {
            let mut out = output::Stream::new();
            let written = diff::write(&chain, options, &mut out, &mut watch);
            out.ended(written.map(drop))
        }
        Some(out) => to_file(&chain, options, out, args.force, &mut watch),
        None => list(&chain, options, args.json, &mut watch),
    };
    done.map_err(|failure| told(failure, interrupt.as_ref()))?;
    Ok(ExitCode::Success)
}

/// Writes a diff to a file that appears when it is complete.
fn to_file(
    chain: &Chain,
    options: DiffOptions,
    out: &Path,
    force: bool,
    watch: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<()> {
    let cannot = || format!("cannot write {}", out.display());
    let found = std::fs::metadata(out);
    if found.as_ref().is_ok_and(|found| !found.is_file()) {
        return Err(
            Failure::new(format!("{}: it is no file", cannot())).with_hint("- is standard output")
        );
    }
    if found.is_ok() && (!force || chain.is_part(out)) {
        return Err(Failure::new(format!("{}: it exists", cannot()))
            .with_hint("nothing was changed; --force replaces it"));
    }
    let folder = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let new = tempfile::Builder::new()
        .prefix(".usnap-diff-")
        .tempfile_in(folder)
        .with_context(cannot)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, new.as_file());
    diff::write(chain, options, &mut buffered, watch)
        .map_err(|error| Failure::from(error.context(cannot())))?;
    buffered.flush().with_context(cannot)?;
    drop(buffered);
    new.as_file().sync_all().with_context(cannot)?;
    let persisted = if force {
        new.persist(out)
    } else {
        new.persist_noclobber(out)
    };
    persisted.map_err(|e| e.error).with_context(cannot)?;
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(cannot)?;
    Ok(())
}

/// Prints the ranges.
fn list(
    chain: &Chain,
    options: DiffOptions,
    json: bool,
    watch: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<()> {
    let mut list = List {
        out: output::stdout(),
        json,
        ranges: 0,
        changed_bytes: 0,
    };
    list.begin(chain, options).map_err(output::failed)?;
    let mut changes = chain.changes(options.relative).inspect(|range| {
        let _goes_on = watch(range.start);
    });
    if options.exact {
        let base = chain.base(options.relative);
        let mut exact = Exact::new(changes, chain.device(), base);
        while let Some(range) = exact.next_range()? {
            list.range(&range).map_err(output::failed)?;
        }
    } else {
        changes
            .try_for_each(|range| list.range(&range))
            .map_err(output::failed)?;
    }
    list.end().map_err(output::failed)
}

/// The ranges, as they are printed.
struct List<W> {
    out: W,
    json: bool,
    ranges: u64,
    changed_bytes: u64,
}

impl<W: Write> List<W> {
    fn begin(&mut self, chain: &Chain, options: DiffOptions) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let relative_to = match options.relative {
            Relative::ToOrigin => "origin",
            Relative::ToLayers => "layers",
        };
        write!(
            self.out,
            "{{\"size_bytes\":{},\"relative_to\":\"{relative_to}\",\"exact\":{},\n\"ranges\":[",
            chain.device().size_bytes(),
            options.exact
        )
    }

    fn range(&mut self, range: &Range<u64>) -> io::Result<()> {
        let (offset, length) = (range.start, range.end - range.start);
        let is_first = self.ranges == 0;
        self.ranges += 1;
        self.changed_bytes += length;
        if !self.json {
            return writeln!(self.out, "{offset} {length}");
        }
        let before = if is_first { "\n" } else { ",\n" };
        write!(
            self.out,
            "{before}{{\"offset\":{offset},\"length\":{length}}}"
        )
    }

    fn end(mut self) -> io::Result<()> {
        if self.json {
            writeln!(
                self.out,
                "\n],\n\"range_count\":{},\"changed_bytes\":{}}}",
                self.ranges, self.changed_bytes
            )?;
        }
        self.out.flush()
    }
}
