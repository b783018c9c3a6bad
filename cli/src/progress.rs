//! Progress of long work, on standard error: a bar on a terminal, else a line now and then.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;
use crate::printable::one_line;

/// Shorter work says nothing: it is over before anybody could read it.
const FIRST_LINE_AFTER: Duration = Duration::from_secs(3);
const NEXT_LINE_AFTER: Duration = Duration::from_secs(10);

/// The progress of one piece of work; gone from the terminal when dropped.
pub(crate) struct Progress {
    what: String,
    unit: &'static str,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl Progress {
    /// Begins `what` (as in "checking c.cow"), counted in `unit`s, up to `total` where it is known.
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, total: Option<u64>) -> Self {
        let what = one_line(&what.into());
        let bar = stderr().is_terminal().then(|| bar(&what, unit, total));
        Self {
            what,
            unit,
            total,
            bar,
            next_line: Instant::now() + FIRST_LINE_AFTER,
        }
    }

    /// Says how many units are done.
    pub(crate) fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            if self.total.is_none() {
                bar.set_message(line(&self.what, self.unit, done, None));
            }
            bar.set_position(done);
            return;
        }
        let now = Instant::now();
        if now >= self.next_line {
            self.next_line = now + NEXT_LINE_AFTER;
            output::say(line(&self.what, self.unit, done, self.total));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, unit: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            format!("{{msg}} {{wide_bar}} {{pos}}/{{len}} {unit}"),
        ),
        None => (
            ProgressBar::new_spinner(),
            format!("{{spinner}} {{msg}}: {{pos}} {unit}"),
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn line(what: &str, unit: &str, done: u64, total: Option<u64>) -> String {
    match total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = u128::from(done) * 100 / u128::from(total);
            format!("{what}: {done} of {total} {unit} ({percent} %)")
        }
        None => format!("{what}: {done} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_have_a_share_where_the_total_is_known() {
        assert_eq!(
            line("checking c", "areas", 5, Some(20)),
            "checking c: 5 of 20 areas (25 %)"
        );
        assert_eq!(
            line("checking c", "areas", 5, Some(0)),
            "checking c: 5 areas"
        );
        assert_eq!(line("checking c", "areas", 5, None), "checking c: 5 areas");
    }
}
