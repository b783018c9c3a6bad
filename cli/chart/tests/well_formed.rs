//! Every chart is well-formed XML, whatever names and figures it is given.
#![expect(
    clippy::expect_used,
    reason = "helpers of tests: what is no XML fails the test"
)]

use usnap_chart::{Chart, Mark, Panel, Row, Scale};

/// The names of the elements that are still open; panics where the text is no XML.
fn check(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml;
    while let Some((text, tail)) = rest.split_once('<') {
        check_text(text);
        let (tag, tail) = tail.split_once('>').expect("a tag ends");
        rest = tail;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "tags nest");
            continue;
        }
        let (tag, empty) = tag
            .strip_suffix('/')
            .map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
        let mut seen = Vec::new();
        while !attributes.trim().is_empty() {
            let (key, value) = attributes.trim().split_once("=\"").expect("key=\"");
            assert!(!seen.contains(&key), "{key} twice");
            assert!(
                key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
                "{key}"
            );
            seen.push(key);
            let (value, tail) = value.split_once('"').expect("a value ends");
            check_text(value);
            assert!(
                !value.contains("NaN") && !value.contains("inf"),
                "{key}={value}"
            );
            attributes = tail;
        }
        if !empty {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}

fn check_text(text: &str) {
    assert!(!text.contains('>'), "{text}");
    assert!(
        !text.chars().any(|c| c.is_control() && c != '\n'),
        "{text:?}"
    );
    for entity in text.split('&').skip(1) {
        let (name, _) = entity.split_once(';').expect("an entity ends");
        assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "{name}");
    }
}

fn panel(scale: Scale, marks: Vec<Option<Mark>>) -> Panel {
    let mut panel = Panel::new("4K read & \"write\" <q32>", "kIOPS", scale);
    let rows = marks.into_iter().enumerate();
    let label = |index| format!("nbd+unix:///?socket=/tmp/<a>&b'{index}\u{7}");
    panel.rows = rows
        .map(|(index, mark)| Row {
            label: label(index),
            colour: index * 5,
            mark,
        })
        .collect();
    panel
}

#[test]
fn odd_names_and_odd_figures_make_a_file_that_can_be_read() {
    let odd = [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300, 5.0];
    let bars = odd.map(|value| {
        Some(Mark::Bar {
            value,
            low: -value,
            high: value * 2.0,
        })
    });
    let points = odd.map(|value| Some(Mark::Points(vec![("p50 <".to_owned(), value)])));
    for scale in [Scale::Linear, Scale::Logarithmic] {
        for columns in [0, 1, 3, 100] {
            let mut chart = Chart::new("a <title> & more");
            chart.columns = columns;
            chart.notes.push("a note & <another>".repeat(20));
            chart.panels = vec![
                panel(scale, bars.to_vec()),
                panel(scale, points.to_vec()),
                panel(scale, vec![None, Some(Mark::Points(Vec::new()))]),
                panel(scale, Vec::new()),
            ];
            check(&chart.to_svg());
        }
    }
    check(&Chart::new("").to_svg());
}

#[test]
fn bars_are_as_long_as_their_values_and_whiskers_show_the_spread() {
    let bar = |value| {
        Some(Mark::Bar {
            value,
            low: value * 0.9,
            high: value,
        })
    };
    let mut chart = Chart::new("t");
    chart.panels = vec![panel(Scale::Linear, vec![bar(100.0), bar(25.0)])];
    let svg = chart.to_svg();
    check(&svg);
    let widths: Vec<f64> = svg
        .lines()
        .filter(|line| line.starts_with("<rect fill="))
        .filter_map(|line| {
            line.split("width=\"")
                .nth(1)?
                .split('"')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    let [long, short] = widths[..] else {
        panic!("{widths:?}")
    };
    assert!((long / short - 4.0).abs() < 0.01, "{widths:?}");
    assert_eq!(svg.matches("class=\"whisker\"").count(), 2);
    assert!(svg.contains("100 (90.0 to 100)"), "{svg}");
    assert!(svg.contains("prefers-color-scheme:dark"));
}
