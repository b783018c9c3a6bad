//! `usnap repair`: the plan, always shown first; then, unless it is a dry run, done and checked.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use usnap_engine::JournalMode;
use usnap_engine::check::CheckReport;
use usnap_engine::repair::{Plan, Repair, RepairOptions, Step};
use usnap_format::ChunkSize;

use crate::args::chunk_size_parser;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::output;
use crate::printable;
use crate::progress::Progress;

/// Repair the metadata of a COW file
///
/// Shows what is to be done, does it and checks the file again. Data chunks are never written.
/// What can lose nothing is done unasked: bytes behind the last entry are zeroed, an entry that
/// repeats another is removed, a torn end is cut off, a missing area is added to the file, a
/// damaged header is written anew where the areas say what it was. All else is refused, with
/// nothing changed, unless an option asks for it. A repair that is interrupted, by a power cut
/// too, is finished by another one.
#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// COW file; nobody else may be using it
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Show what would be done, and change nothing; exits with 3 if there is something to do
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Make a COW file valid again that a kernel invalidated
    ///
    /// A kernel does that (`valid` = 0) when it runs full or meets an error, and never takes the
    /// file again. Everything that it had committed is still there, and each entry is checked.
    /// What it had not committed is lost: the snapshot is as after a power cut at that moment, and
    /// a filesystem on it is to be checked. It shows wrong data where the origin was written to
    /// through snapshot-origin since the last commit. A size that is fatal to a kernel that fills
    /// it is made longer by a chunk.
    #[arg(long)]
    revalidate: bool,
    /// Remove entries that can't be believed, wherever they lie
    ///
    /// Their chunks read as the origin's again. Of entries that contradict each other the first
    /// stays. The data chunks stay as they are; `usnap dump` before it keeps a list of all entries.
    /// Also zeroes whole sectors of entries that lie behind a sector of zeros, which are left by a
    /// kernel that was interrupted, or by the loss of that sector.
    #[arg(long)]
    drop_damaged: bool,
    /// Image that the COW file belongs to, for a new record where the old one is damaged or wiped
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<PathBuf>,
    /// Chunk size of the COW file, where its header is damaged and leaves a doubt
    #[arg(long, value_name = "SIZE", value_parser = chunk_size_parser())]
    chunk_size: Option<ChunkSize>,
    /// What to do with the journal of a server that was killed, where it is in doubt
    ///
    /// A journal that nothing speaks against is replayed unasked.
    #[arg(long, value_name = "ACTION")]
    journal: Option<Journal>,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

/// What becomes of a journal.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Journal {
    /// Commit what it has, although something speaks against it
    Replay,
    /// Remove it: what it has is lost
    Discard,
}

const AFTER_HELP: &str = "\
Exit codes: 0 nothing was wrong, or it is repaired and checked; 3 with --dry-run, there is \
something to do; 1 something stands in the way and nothing was changed, or it failed half-way \
(repair it again). `usnap check --help` lists the kinds of damage.

JSON: `cow`, `dry_run`, `step_count` (may be more than are listed), `steps` (of each `kind`, `area`, \
`chunk`, `index`, `old_chunk`, `new_chunk`, `from`, `to`, `message`; null where they do not apply), \
`refusals` (`message`, `hint`; unless the list is empty nothing is done) and `notes`. It is \
printed before anything is done; the exit code says what came of it.

Example: usnap repair changes.cow --dry-run";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = RepairOptions {
        revalidate: args.revalidate,
        drop_damaged: args.drop_damaged,
        chunk_size: args.chunk_size,
        journal: match args.journal {
            None => JournalMode::Auto,
            Some(Journal::Replay) => JournalMode::Replay,
            Some(Journal::Discard) => JournalMode::Discard,
        },
        ..RepairOptions::default()
    };
    let progress = Progress::new(format!("checking {}", args.cow.display()), "areas", None);
    let repair = Repair::open(&args.cow, args.origin.as_deref(), &options, args.dry_run);
    drop(progress);
    let repair = repair?;
    let plan = repair.plan();
    let shown = if args.json {
        output::print_json(&Document::new(args, plan))
    } else {
        output::print(&text(args, plan))
    };
    shown.map_err(|failure| unseen(args, failure))?;
    if let Some(refusal) = plan.refusals.first() {
        let message = format!("cannot repair {}: {}", args.cow.display(), refusal.message);
        return Err(Failure::new(message).with_hint(refusal.hint.clone()));
    }
    if plan.is_empty() {
        return Ok(ExitCode::Success);
    }
    if args.dry_run {
        return Ok(ExitCode::Damage);
    }
    let progress = Progress::new(format!("repairing {}", args.cow.display()), "steps", None);
    let report = repair.carry_out();
    drop(progress);
    ended(args, &report?)
}

/// Nothing is done that nobody could see coming.
fn unseen(args: &Args, failure: Failure) -> Failure {
    if args.dry_run || !failure.is_quiet() {
        return failure;
    }
    let message = format!(
        "cannot repair {}: the plan could not be printed, so nothing was done",
        args.cow.display()
    );
    Failure::new(message)
}

fn ended(args: &Args, report: &CheckReport) -> Result<ExitCode> {
    if let Some(finding) = report.findings.first() {
        let message = format!(
            "cannot repair {}: after all of that {}",
            args.cow.display(),
            finding.message
        );
        return Err(Failure::new(message).with_hint("`usnap check` names what is left"));
    }
    if !args.json {
        output::print(&format!(
            "{}: repaired; exceptions: {}, areas: {}\n",
            printable::path(&args.cow),
            report.exceptions,
            report.areas
        ))?;
    }
    Ok(ExitCode::Success)
}

fn text(args: &Args, plan: &Plan) -> String {
    let cow = printable::path(&args.cow);
    if plan.is_empty() {
        return format!("{cow}: nothing to repair\n");
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    for (number, step) in (1..).zip(&plan.steps) {
        let _ = writeln!(text, "{number}. {}", printable::one_line(&step.message));
    }
    let more = plan.step_count - plan.steps.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "and {more} entries more are removed");
    }
    for refusal in &plan.refusals {
        let message = printable::one_line(&refusal.message);
        let _ = writeln!(text, "in the way: {message}");
    }
    for note in &plan.notes {
        let _ = writeln!(text, "note: {}", printable::one_line(note));
    }
    if args.dry_run || !plan.refusals.is_empty() {
        let _ = writeln!(text, "{cow}: nothing was changed");
    }
    text
}

/// The JSON form; a contract.
#[derive(Serialize)]
struct Document<'a> {
    cow: String,
    dry_run: bool,
    step_count: u64,
    steps: Vec<StepDocument<'a>>,
    refusals: Vec<RefusalDocument<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct StepDocument<'a> {
    kind: &'static str,
    area: Option<u64>,
    chunk: Option<u64>,
    index: Option<u64>,
    old_chunk: Option<u64>,
    new_chunk: Option<u64>,
    from: &'a str,
    to: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct RefusalDocument<'a> {
    message: &'a str,
    hint: &'a str,
}

impl<'a> Document<'a> {
    fn new(args: &Args, plan: &'a Plan) -> Self {
        let refusals = plan.refusals.iter().map(|refusal| RefusalDocument {
            message: &refusal.message,
            hint: &refusal.hint,
        });
        Self {
            cow: args.cow.display().to_string(),
            dry_run: args.dry_run,
            step_count: plan.step_count,
            steps: plan.steps.iter().map(StepDocument::new).collect(),
            refusals: refusals.collect(),
            notes: &plan.notes,
        }
    }
}

impl<'a> StepDocument<'a> {
    fn new(step: &'a Step) -> Self {
        Self {
            kind: step.kind.name(),
            area: step.area.map(|area| area.0),
            chunk: step.chunk.map(|chunk| chunk.0),
            index: step.index,
            old_chunk: step.exception.map(|exception| exception.old_chunk.0),
            new_chunk: step.exception.map(|exception| exception.new_chunk.0),
            from: &step.from,
            to: &step.to,
            message: &step.message,
        }
    }
}
