//! Drawing a panel: the heading, the axis, and a row each.

use std::fmt::Write as _;

use crate::scale::Axis;
use crate::svg::{colour, escaped, fitted};
use crate::{LINE, Mark, PANEL_WIDTH, Panel, Row, number};

/// The room for labels on the left, and for values on the right.
const LABELS: f64 = 132.0;
const VALUES: f64 = 58.0;
/// Space inside the frame.
const INSET: f64 = 10.0;
/// Two lines of heading.
const HEAD: f64 = 44.0;
/// A row, and the bar in it.
const ROW: f64 = 20.0;
const BAR: f64 = 12.0;

/// Where a panel's rows lie.
#[derive(Clone, Copy)]
struct Frame {
    left: f64,
    /// Where lengths begin, and how long the longest is.
    zero: f64,
    length: f64,
    axis: Axis,
}

impl Frame {
    fn x(self, value: f64) -> Option<f64> {
        self.axis
            .place(value)
            .map(|at| self.zero + at * self.length)
    }
}

impl Panel {
    pub(crate) fn height(&self) -> f64 {
        HEAD + self.rows.len() as f64 * ROW + LINE + INSET
    }

    /// Draws it with its corner at `(left, top)`, in a frame of that height.
    pub(crate) fn draw(&self, out: &mut String, (left, top): (f64, f64), height: f64) {
        let values = self.rows.iter().flat_map(Row::values);
        let frame = Frame {
            left: left + INSET,
            zero: left + INSET + LABELS,
            length: PANEL_WIDTH - 2.0 * INSET - LABELS - VALUES,
            axis: Axis::over(self.scale, values),
        };
        let _ = writeln!(
            out,
            r#"<g><rect class="box" x="{left:.1}" y="{top:.1}" width="{PANEL_WIDTH}" height="{height:.1}" rx="6"/>"#
        );
        let (title, unit) = (escaped(&self.title), escaped(&self.unit));
        let _ = writeln!(
            out,
            r#"<text class="head" x="{0:.1}" y="{1:.1}">{title}</text><text class="note" x="{0:.1}" y="{2:.1}">{unit}</text>"#,
            frame.left,
            top + 18.0,
            top + 33.0,
        );
        let rows_top = top + HEAD;
        let rows_end = rows_top + self.rows.len() as f64 * ROW;
        for tick in frame.axis.ticks() {
            let Some(x) = frame.x(tick) else { continue };
            let _ = writeln!(
                out,
                r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{rows_top:.1}" y2="{rows_end:.1}"/><text class="tick" text-anchor="middle" x="{x:.1}" y="{:.1}">{}</text>"#,
                rows_end + 12.0,
                tick_text(tick),
            );
        }
        for (index, row) in self.rows.iter().enumerate() {
            row.draw(out, frame, rows_top + (index as f64 + 0.5) * ROW);
        }
        out.push_str("</g>\n");
    }
}

impl Row {
    fn values(&self) -> Vec<f64> {
        match &self.mark {
            None => Vec::new(),
            Some(Mark::Bar { value, low, high }) => vec![*value, *low, *high],
            Some(Mark::Points(points)) => points.iter().map(|(_, value)| *value).collect(),
        }
    }

    /// Draws it around the height `middle`.
    fn draw(&self, out: &mut String, frame: Frame, middle: f64) {
        let (label, whole) = (
            escaped(&fitted(&self.label, LABELS - 8.0)),
            escaped(&self.label),
        );
        let base = middle + 4.0;
        let _ = writeln!(
            out,
            r#"<text x="{:.1}" y="{base:.1}">{label}<title>{whole}</title></text>"#,
            frame.left
        );
        let fill = colour(self.colour);
        let told = match &self.mark {
            None => "-".to_owned(),
            Some(Mark::Bar { value, low, high }) => {
                let mark = (*value, *low, *high);
                draw_bar(out, frame, middle, mark, fill)
            }
            Some(Mark::Points(points)) => draw_points(out, frame, middle, points, fill),
        };
        let _ = writeln!(
            out,
            r#"<text class="value" text-anchor="end" x="{:.1}" y="{base:.1}">{told}</text>"#,
            frame.left + PANEL_WIDTH - 20.0,
        );
    }
}

/// Returns the number to write behind it.
fn draw_bar(
    out: &mut String,
    frame: Frame,
    middle: f64,
    (value, low, high): (f64, f64, f64),
    fill: &str,
) -> String {
    let Some(end) = frame.x(value) else {
        return "-".to_owned();
    };
    let told = number(value);
    let _ = writeln!(
        out,
        r#"<rect fill="{fill}" x="{:.1}" y="{:.1}" width="{:.1}" height="{BAR}" rx="2"><title>{told} ({} to {})</title></rect>"#,
        frame.zero,
        middle - BAR / 2.0,
        end - frame.zero,
        number(low),
        number(high),
    );
    if let (Some(from), Some(to)) = (frame.x(low), frame.x(high))
        && low < high
    {
        let (above, below) = (middle - 3.0, middle + 3.0);
        let _ = writeln!(
            out,
            r#"<path class="whisker" d="M{from:.1} {above:.1}V{below:.1}M{from:.1} {middle:.1}H{to:.1}M{to:.1} {above:.1}V{below:.1}"/>"#
        );
    }
    told
}

/// Returns the number to write behind them: the last one.
fn draw_points(
    out: &mut String,
    frame: Frame,
    middle: f64,
    points: &[(String, f64)],
    fill: &str,
) -> String {
    let placed = points
        .iter()
        .filter_map(|(name, value)| Some((name, *value, frame.x(*value)?)));
    let placed: Vec<_> = placed.collect();
    let (Some((_, _, from)), Some((_, last, to))) = (placed.first(), placed.last()) else {
        return "-".to_owned();
    };
    let _ = writeln!(
        out,
        r#"<line stroke="{fill}" stroke-width="2" x1="{from:.1}" x2="{to:.1}" y1="{middle:.1}" y2="{middle:.1}"/>"#
    );
    for (name, value, x) in &placed {
        let (name, value) = (escaped(name), number(*value));
        let _ = writeln!(
            out,
            r#"<circle fill="{fill}" cx="{x:.1}" cy="{middle:.1}" r="4"><title>{name}: {value}</title></circle>"#
        );
    }
    number(*last)
}

/// The number below a line, as short as it is exact enough.
fn tick_text(tick: f64) -> String {
    let short = |value: f64, unit: &str| {
        let text = format!("{value:.2}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{unit}")
    };
    match tick {
        _ if tick >= 1e6 => short(tick / 1e6, "M"),
        _ if tick >= 1e4 => short(tick / 1e3, "k"),
        _ if tick == 0.0 || tick >= 0.01 => short(tick, ""),
        _ => format!("{tick:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::tick_text;

    #[test]
    fn numbers_on_the_axis_are_short() {
        let table = [
            (0.0, "0"),
            (0.25, "0.25"),
            (2.5, "2.5"),
            (500.0, "500"),
            (20_000.0, "20k"),
            (2_500_000.0, "2.5M"),
            (1e-4, "1e-4"),
        ];
        for (tick, text) in table {
            assert_eq!(tick_text(tick), text);
        }
    }
}
