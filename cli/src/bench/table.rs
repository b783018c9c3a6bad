//! The result as text: what was measured, then a table for each workload.

use std::fmt::Write as _;

use usnap_chart::number;

use super::report::{Report, Spread, Summary};
use crate::printable::one_line;
use crate::size;

const HEADINGS: [&str; 12] = [
    "uri", "median", "least", "most", "ratio", "p50 us", "p99 us", "p99.9 us", "max us", "mean us",
    "hits", "ampl.",
];
const MORE: [&str; 2] = ["first", "copied"];

/// All of it.
pub(crate) fn text(report: &Report) -> String {
    let settings = &report.settings;
    let mut text = format!(
        "{}\n{} rounds of at most {} s over {} behind {}, seed {}\n",
        report.machine.line(),
        settings.rounds,
        settings.seconds,
        size::human(settings.size_bytes),
        settings.offset_bytes,
        settings.seed
    );
    for (index, uri) in report.uris.iter().enumerate() {
        let (name, size) = (one_line(&uri.uri), size::human(uri.size_bytes));
        let _ = writeln!(text, "{:>3}  {name}  ({size}, {})", index + 1, uri.about);
    }
    let mut rest = &report.results[..];
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|result| result.title == first.title);
        let (these, others) = rest.split_at(same.count());
        let unit = if first.counts_bytes {
            "MB/s"
        } else {
            "requests a second"
        };
        let _ = write!(text, "\n{}: {unit}\n{}", first.title, table(these));
        rest = others;
    }
    text
}

/// The figure that a workload is judged by: MB/s of large requests, requests a second of small ones.
pub(super) fn throughput(result: &Summary) -> Spread {
    if !result.counts_bytes {
        return result.requests_per_second;
    }
    let spread = result.bytes_per_second;
    Spread {
        median: spread.median / 1e6,
        least: spread.least / 1e6,
        most: spread.most / 1e6,
    }
}

fn table(results: &[Summary]) -> String {
    let mut rows = vec![
        HEADINGS
            .iter()
            .chain(&MORE)
            .map(|word| (*word).to_owned())
            .collect(),
    ];
    rows.extend(results.iter().map(row));
    let mut widths = vec![0; HEADINGS.len() + MORE.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:>width$}"))
            .collect();
        text.push_str(&cells.join("  "));
        text.push('\n');
    }
    text
}

fn row(result: &Summary) -> Vec<String> {
    let rate = throughput(result);
    let latency = &result.latency;
    let or_dash = |told: Option<String>| told.unwrap_or_else(|| "-".to_owned());
    vec![
        (result.uri_index + 1).to_string(),
        number(rate.median),
        number(rate.least),
        number(rate.most),
        or_dash(
            result
                .ratio_to_first
                .map(|ratio| format!("{:.2}", ratio.median)),
        ),
        number(latency.p50_us),
        number(latency.p99_us),
        number(latency.p99_9_us),
        number(latency.max_us),
        number(latency.mean_us),
        or_dash(result.hit_rate.map(|rate| format!("{:.0} %", rate * 100.0))),
        or_dash(
            result
                .write_amplification
                .map(|ratio| format!("{ratio:.2}")),
        ),
        or_dash(result.first_writes.map(|count| count.to_string())),
        or_dash(result.chunks_copied.map(|count| count.to_string())),
    ]
}
