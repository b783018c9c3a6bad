//! The chart that the README shows: each job's throughput beside nbdkit cow's, and what it costs.

use usnap_chart::{Chart, Mark, Panel, Row, Scale};

use crate::contender::Contender;
use crate::report::Report;
use crate::sample::Figure;
use crate::statistics::{Cell, Samples, Spread};

/// The jobs that are drawn, a line of two panels each.
const DRAWN: [&str; 6] = [
    "4K read q32",
    "4K first write q32",
    "4K overwrite q32",
    "4K 70/30 mix q32",
    "256K read q4",
    "256K first write q4",
];

/// What stands at 1.
const UNIT: Contender = Contender::NbdkitCow4;

/// Draws what `report` has of it, over the first transport.
pub(crate) fn draw(report: &Report) -> Chart {
    let mut chart = Chart::new("usnap beside other NBD servers");
    chart.notes = vec![
        format!(
            "Left: throughput relative to {UNIT} (longer is faster). Right: the server's processor \
             time a request (shorter is cheaper). Medians of the rounds, whiskers: quartiles."
        ),
        report.conditions(),
    ];
    for samples in report.by_transport().take(1) {
        for job in DRAWN {
            chart
                .panels
                .push(panel(job, "throughput beside nbdkit cow 4K", |server| {
                    let cell = |server| Cell { job, server };
                    samples.ratio(cell(server), cell(UNIT), Figure::Rate)
                }));
            chart.panels.push(panel(
                job,
                "microseconds of processor time a request",
                |server| cpu(samples, job, server),
            ));
        }
    }
    chart
}

fn cpu(samples: Samples<'_>, job: &str, server: Contender) -> Option<Spread> {
    samples.spread(Cell { job, server }, Figure::Cpu)
}

fn panel(job: &str, unit: &str, figure: impl Fn(Contender) -> Option<Spread>) -> Panel {
    let mut panel = Panel::new(job, unit, Scale::Linear);
    for (colour, server) in Contender::MAIN.into_iter().enumerate() {
        let label = server.to_string();
        // A server that can't run this job has no row.
        if let Some(spread) = figure(server) {
            let mark = Mark::Bar {
                value: spread.median,
                low: spread.lower,
                high: spread.upper,
            };
            panel.rows.push(Row::new(label, colour, mark));
        }
    }
    panel
}
