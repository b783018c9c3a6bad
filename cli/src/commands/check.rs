//! `usnap check`: every kind of damage that a store can have, named.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use usnap_engine::check::{CheckReport, Finding, check};
use usnap_engine::device::holder;

use crate::control;
use crate::exit_code::ExitCode;
use crate::failure::Result;
use crate::output;
use crate::printable;
use crate::progress::Progress;

/// Check a COW file for damage, changing nothing
///
/// Each finding is a line. Exits with 0 when there is none, 3 when there is damage, and 1 when the
/// file could not be checked. With --origin, whether it is the image that the COW file was made
/// for, and whether every change lies inside it, is checked too.
#[derive(clap::Args, Debug)]
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

fn text(cow: &str, report: &CheckReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", printable::one_line(&finding.message));
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
}

#[derive(Serialize)]
struct FindingDocument<'a> {
    kind: String,
    area: Option<u64>,
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
        }
    }
}

impl<'a> FindingDocument<'a> {
    fn new(finding: &'a Finding) -> Self {
        Self {
            kind: snake_case(&format!("{:?}", finding.kind)),
            area: finding.area.map(|area| area.0),
            index: finding.index,
            old_chunk: finding.exception.map(|exception| exception.old_chunk.0),
            new_chunk: finding.exception.map(|exception| exception.new_chunk.0),
            message: &finding.message,
        }
    }
}

/// `EntryHighBits` as `entry_high_bits`: kinds keep their names when new ones come.
fn snake_case(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_in_json() {
        assert_eq!(snake_case("EntryHighBits"), "entry_high_bits");
        assert_eq!(snake_case("Identity"), "identity");
    }

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
