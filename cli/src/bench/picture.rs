//! The result as a chart: for each workload the throughput with its spread, and the latencies.

use usnap_chart::{Chart, Mark, Panel, Row, Scale};

use super::report::{Report, Summary};
use super::table::throughput;

/// The chart's file.
pub(crate) fn svg(report: &Report) -> String {
    let mut chart = Chart::new("usnap bench");
    let settings = &report.settings;
    chart.notes.push(report.machine.line());
    chart.notes.push(format!(
        "medians of {} interleaved rounds, whiskers: least and most; latencies: p50, p99, p99.9",
        settings.rounds
    ));
    let mut rest = &report.results[..];
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|result| result.title == first.title);
        let (these, others) = rest.split_at(same.count());
        chart.panels.push(rates(first, these, report));
        chart.panels.push(latencies(first, these, report));
        rest = others;
    }
    chart.to_svg()
}

fn name_of(report: &Report, result: &Summary) -> String {
    let uri = report.uris.get(result.uri_index);
    let uri = uri.map_or("", |uri| uri.uri.as_str());
    // The end tells one from another, and the beginning is what is kept.
    let short = uri
        .rsplit(['/', '='])
        .next()
        .filter(|name| !name.is_empty());
    format!("{} {}", result.uri_index + 1, short.unwrap_or(uri))
}

fn rates(first: &Summary, these: &[Summary], report: &Report) -> Panel {
    let unit = if first.counts_bytes {
        "MB/s"
    } else {
        "requests a second"
    };
    let mut panel = Panel::new(first.title.clone(), unit, Scale::Linear);
    panel.rows.extend(these.iter().map(|result| {
        let rate = throughput(result);
        let mark = Mark::Bar {
            value: rate.median,
            low: rate.least,
            high: rate.most,
        };
        Row::new(name_of(report, result), result.uri_index, mark)
    }));
    panel
}

fn latencies(first: &Summary, these: &[Summary], report: &Report) -> Panel {
    let mut panel = Panel::new(
        first.title.clone(),
        "latency in microseconds",
        Scale::Logarithmic,
    );
    panel.rows.extend(these.iter().map(|result| {
        let latency = &result.latency;
        let points = [
            ("p50", latency.p50_us),
            ("p99", latency.p99_us),
            ("p99.9", latency.p99_9_us),
        ];
        let points = points.map(|(name, value)| (name.to_owned(), value));
        let mark = Mark::Points(points.to_vec());
        Row::new(name_of(report, result), result.uri_index, mark)
    }));
    panel
}
