//! `usnap check`: every kind of damage that a store can have, named.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use usnap_engine::check::{CheckReport, Finding, FindingKind, Severity, check};
use usnap_engine::device::holder;

use crate::control;
use crate::exit_code::ExitCode;
use crate::failure::Result;
use crate::output;
use crate::printable;
use crate::progress::Progress;

/// Check a COW file for damage, changing nothing
///
/// Each finding is a line, with the area, the entry in it and the chunk; what is worth knowing and
/// no damage is a line `note: ...`; the last line sums up. Exits with 0 when there is no damage, 3
/// when there is, and 1 when the file could not be checked. With --origin, whether it is the image
/// that the COW file was made for, and whether every change lies inside it, is checked too.
#[derive(clap::Args, Debug)]
#[command(after_long_help = kinds())]
pub(crate) struct Args {
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Image that the COW file belongs to
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let user = match control::ask(&args.cow) {
        Some(_) => Some("being served".to_owned()),
        None => holder(&args.cow).map(|who| format!("in use by {who}, which does not answer")),
    };
    if let Some(user) = user {
        tracing::warn!(
            "{} is {user}: a commit under way may show as damage",
            args.cow.display()
        );
    }
    let progress = Progress::new(format!("checking {}", args.cow.display()), "areas", None);
    let report = check(&args.cow, args.origin.as_deref());
    drop(progress);
    let report = report?;
    if args.json {
        output::print_json(&Document::new(&report))?;
    } else {
        output::print(&text(&printable::path(&args.cow), &report))?;
    }
    Ok(if report.is_clean() {
        ExitCode::Success
    } else {
        ExitCode::Damage
    })
}

/// The kinds of findings and the way out of each, for the help.
fn kinds() -> String {
    let mut text = String::from("Kinds of findings (`kind` in JSON), and the way out:\n");
    for kind in FindingKind::ALL {
        let note = match kind.severity() {
            Severity::Damage => "",
            Severity::Note => " (a note)",
        };
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {kind}{note}: {}", kind.remedy());
    }
    text.push_str(
        "\n\nJSON: `clean`, `exceptions` and `areas` (how many were read), `finding_count` (may be \
         more than are listed), and the lists `findings` and `notes`; of each `kind`, `area`, \
         `chunk` (the area's, 0 for the header), `index` (the entry in the area), `old_chunk` and \
         `new_chunk` (null where they do not apply) and `message`.\n\nExample: usnap check changes.cow --origin disk.img",
    );
    text
}

fn text(cow: &str, report: &CheckReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", printable::one_line(&finding.message));
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {}", printable::one_line(&note.message));
    }
    let verdict = match (report.finding_count, report.findings.len() as u64) {
        (0, _) => "clean".to_owned(),
        (1, _) => "1 finding".to_owned(),
        (all, shown) if all > shown => format!("{all} findings, {shown} of them shown"),
        (all, _) => format!("{all} findings"),
    };
    let (exceptions, areas) = (report.exceptions, report.areas);
    let _ = writeln!(
        text,
        "{cow}: {verdict}; exceptions: {exceptions}, areas: {areas}"
    );
    text
}

/// The JSON form; a contract.
#[derive(Serialize)]
struct Document<'a> {
    clean: bool,
    exceptions: u64,
    areas: u64,
    /// May be more than are listed.
    finding_count: u64,
    findings: Vec<FindingDocument<'a>>,
    /// What is worth knowing and no damage.
    notes: Vec<FindingDocument<'a>>,
}

#[derive(Serialize)]
struct FindingDocument<'a> {
    kind: &'static str,
    area: Option<u64>,
    /// Of the COW file: the area's, or 0 for the header.
    chunk: Option<u64>,
    index: Option<u64>,
    old_chunk: Option<u64>,
    new_chunk: Option<u64>,
    message: &'a str,
}

impl<'a> Document<'a> {
    fn new(report: &'a CheckReport) -> Self {
        Self {
            clean: report.is_clean(),
            exceptions: report.exceptions,
            areas: report.areas,
            finding_count: report.finding_count,
            findings: report.findings.iter().map(FindingDocument::new).collect(),
            notes: report.notes.iter().map(FindingDocument::new).collect(),
        }
    }
}

impl<'a> FindingDocument<'a> {
    fn new(finding: &'a Finding) -> Self {
        Self {
            kind: finding.kind.name(),
            area: finding.area.map(|area| area.0),
            chunk: finding.chunk.map(|chunk| chunk.0),
            index: finding.index,
            old_chunk: finding.exception.map(|exception| exception.old_chunk.0),
            new_chunk: finding.exception.map(|exception| exception.new_chunk.0),
            message: &finding.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_what_is_not_shown() {
        let report = CheckReport {
            finding_count: 5,
            exceptions: 9,
            areas: 1,
            ..Default::default()
        };
        let expected = "c: 5 findings, 0 of them shown; exceptions: 9, areas: 1\n";
        assert_eq!(text("c", &report), expected);
        let expected = "c: clean; exceptions: 0, areas: 0\n";
        assert_eq!(text("c", &CheckReport::default()), expected);
    }
}
