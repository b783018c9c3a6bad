//! Puts the figures where the README shows them, so that none is copied by hand.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::chart;
use crate::contender::Contender;
use crate::job::Job;
use crate::plan::SHOWN;
use crate::report::{Report, claims, rate_of, told};
use crate::sample::Figure;
use crate::statistics::{Cell, Samples};
use crate::table::Table;

const BEGIN: &str = "<!-- figures: begin";
const END: &str = "<!-- figures: end -->";
/// Where the chart lies, seen from the README.
const CHART: &str = "benches/compare.svg";

/// Replaces what stands between the markers of `path`, and the chart.
pub(crate) fn update(path: &Path, report: &Report) -> Result<()> {
    let update = || -> Result<()> {
        let old = fs::read_to_string(path)?;
        let new =
            replaced(&old, &section(report)).context("it lacks the markers of the figures")?;
        let chart = path.with_file_name(CHART);
        fs::write(&chart, chart::draw(report).to_svg())
            .with_context(|| format!("cannot write {}", chart.display()))?;
        fs::write(path, new)?;
        Ok(())
    };
    update().with_context(|| format!("cannot put figures into {}", path.display()))
}

/// `None` where a marker is missing, or is not a line of its own.
fn replaced(text: &str, section: &str) -> Option<String> {
    let begin = text.find(BEGIN)?;
    let begin = begin + text.get(begin..)?.find('\n')? + 1;
    let end = begin + text.get(begin..)?.find(END)?;
    let (head, tail) = (text.get(..begin)?, text.get(end..)?);
    Some(format!("{head}{}\n{tail}", section.trim_end()))
}

fn section(report: &Report) -> String {
    let mut text = format!("Measured on {}.\n\n", report.conditions());
    text += &format!("![throughput and processor time beside other servers]({CHART})\n\n");
    for samples in report.by_transport() {
        text += &format!(
            "Over {}, 4 KiB requests in thousands a second, 256 KiB in MB/s; behind the slash the \
             server's processor time a request in microseconds. Medians of the rounds; `-`: the server \
             forgets its changes when the client hangs up.\n\n",
            samples.transport()
        );
        text += &overview(samples);
        text += "\nWhat usnap is meant to reach, and what it does. Ratios are taken within each round:\n\n";
        text += &claims(samples);
        text.push('\n');
    }
    text
}

fn overview(samples: Samples<'_>) -> String {
    let names = Contender::MAIN.map(|server| server.to_string());
    let mut table = Table::new(["job".to_owned()].into_iter().chain(names));
    for job in Job::all() {
        let name = job.to_string();
        if !SHOWN.contains(&name.as_str()) {
            continue;
        }
        let cells = Contender::MAIN.map(|server| {
            let cell = Cell { job: &name, server };
            let both = samples
                .spread(cell, rate_of(&job))
                .zip(samples.spread(cell, Figure::Cpu));
            both.map_or("-".to_owned(), |(rate, cpu)| {
                format!("{} / {:.1}", told(rate.median, &job), cpu.median)
            })
        });
        table.row([name.clone()].into_iter().chain(cells));
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let text = "a\n<!-- figures: begin (x) -->\nold\nold\n<!-- figures: end -->\nb\n";
        let new = "a\n<!-- figures: begin (x) -->\nnew\n<!-- figures: end -->\nb\n";
        assert_eq!(replaced(text, "new\n\n").as_deref(), Some(new));
        assert_eq!(replaced(new, "new").as_deref(), Some(new));
        assert_eq!(replaced("a\n<!-- figures: end -->\n", "new"), None);
        assert_eq!(replaced("a\n<!-- figures: begin -->\n", "new"), None);
    }

    #[test]
    fn the_readme_has_the_markers() -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("README.md");
        assert!(replaced(&fs::read_to_string(path)?, "").is_some());
        Ok(())
    }
}
