//! Small charts of measurements as SVG: panels of rows, each row a bar with the spread as a whisker
//! or some points on a line. A file of its own, without scripts or fonts, readable in light and
//! dark.
//!
//! ```
//! use usnap_chart::{Chart, Mark, Panel, Row, Scale};
//!
//! let mut panel = Panel::new("4K read, depth 32", "thousand requests a second", Scale::Linear);
//! panel.rows.push(Row::new("usnap", 0, Mark::Bar { value: 158.2, low: 151.0, high: 160.4 }));
//! panel.rows.push(Row::new("another", 1, Mark::Bar { value: 123.2, low: 120.0, high: 125.9 }));
//! let mut chart = Chart::new("Reads");
//! chart.notes.push("medians of 5 rounds; whiskers: least and most".to_owned());
//! chart.panels.push(panel);
//! assert!(chart.to_svg().starts_with("<svg "));
//! ```

mod panel;
mod scale;
mod svg;

use std::fmt::Write as _;

pub use scale::Scale;

use svg::{escaped, text_width};

/// A panel's width in pixels.
const PANEL_WIDTH: f64 = 430.0;
/// The room between panels, and around all of them.
const GAP: f64 = 16.0;
/// The height of a line of text.
const LINE: f64 = 16.0;

/// Several panels below a title.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// The heading.
    pub title: String,
    /// Lines below the heading: what was measured, and on what.
    pub notes: Vec<String>,
    /// The panels, in reading order.
    pub panels: Vec<Panel>,
    /// How many panels stand side by side; at least 1.
    pub columns: usize,
}

/// Rows with a common scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What was measured.
    pub title: String,
    /// The unit of the values.
    pub unit: String,
    /// How values become lengths.
    pub scale: Scale,
    /// The rows, from above.
    pub rows: Vec<Row>,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is called; cut where it is too long, with the whole of it shown as a tooltip.
    pub label: String,
    /// Its colour: one of eight, counted on from there.
    pub colour: usize,
    /// The figures; `None` where there are none.
    pub mark: Option<Mark>,
}

/// The figures of a row. What is not finite, or not positive on a logarithmic scale, is left out.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// A bar up to `value`, and a whisker from `low` to `high`.
    Bar {
        /// The median, usually.
        value: f64,
        /// The least.
        low: f64,
        /// The most.
        high: f64,
    },
    /// Points with their names, on a line from the first to the last.
    Points(Vec<(String, f64)>),
}

impl Chart {
    /// A chart without panels, two of which will stand side by side.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            notes: Vec::new(),
            panels: Vec::new(),
            columns: 2,
        }
    }

    /// The file's content.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        let width = GAP + columns as f64 * (PANEL_WIDTH + GAP);
        let notes: Vec<String> = self
            .notes
            .iter()
            .flat_map(|note| wrapped(note, width - 2.0 * GAP))
            .collect();
        let top = GAP + 24.0 + notes.len() as f64 * LINE + 8.0;
        let rows: Vec<&[Panel]> = self.panels.chunks(columns).collect();
        let heights = rows.iter().map(|row| row.iter().map(Panel::height));
        let heights: Vec<f64> = heights.map(|row| row.fold(0.0, f64::max)).collect();
        let height = top + heights.iter().map(|height| height + GAP).sum::<f64>();
        let mut out = svg::head(width, height, &self.title);
        let _ = writeln!(
            out,
            r#"<text class="title" x="{GAP}" y="{:.1}">{}</text>"#,
            GAP + 14.0,
            escaped(&self.title)
        );
        for (index, note) in notes.iter().enumerate() {
            let y = GAP + 34.0 + index as f64 * LINE;
            let note = escaped(note);
            let _ = writeln!(
                out,
                r#"<text class="note" x="{GAP}" y="{y:.1}">{note}</text>"#
            );
        }
        let mut y = top;
        for (panels, height) in rows.iter().zip(&heights) {
            for (index, panel) in panels.iter().enumerate() {
                let x = GAP + index as f64 * (PANEL_WIDTH + GAP);
                panel.draw(&mut out, (x, y), *height);
            }
            y += height + GAP;
        }
        out.push_str("</svg>\n");
        out
    }
}

impl Panel {
    /// A panel without rows.
    #[must_use]
    pub fn new(title: impl Into<String>, unit: impl Into<String>, scale: Scale) -> Self {
        Self {
            title: title.into(),
            unit: unit.into(),
            scale,
            rows: Vec::new(),
        }
    }
}

impl Row {
    /// A row with figures.
    #[must_use]
    pub fn new(label: impl Into<String>, colour: usize, mark: Mark) -> Self {
        Self {
            label: label.into(),
            colour,
            mark: Some(mark),
        }
    }

    /// A row of something that was not measured here.
    #[must_use]
    pub fn empty(label: impl Into<String>, colour: usize) -> Self {
        Self {
            label: label.into(),
            colour,
            mark: None,
        }
    }
}

/// A number to be read: three digits that count, more only before the point.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 || size == 0.0 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The text in lines of at most so many pixels, broken between words.
fn wrapped(text: &str, width: f64) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if text_width(line) + text_width(word) + text_width(" ") <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{number, wrapped};

    #[test]
    fn numbers_have_three_digits_that_count() {
        let table = [
            (0.0, "0"),
            (0.123, "0.12"),
            (9.99, "9.99"),
            (9.999, "10.0"),
            (42.34, "42.3"),
            (99.96, "100"),
            (123_456.7, "123457"),
        ];
        for (value, text) in table {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn long_notes_are_broken_between_words() {
        let lines = wrapped("one two three four", 60.0);
        assert!(lines.len() > 1, "{lines:?}");
        assert_eq!(lines.join(" "), "one two three four");
        assert_eq!(
            wrapped("longer-than-any-line", 10.0).concat(),
            "longer-than-any-line"
        );
    }
}
