//! The frame of the file, and text that is safe in it.

/// The style: two sets of colours, of which the reader's preference chooses.
const STYLE: &str = "\
:root{--paper:#fff;--ink:#1f2328;--dim:#59636e;--line:#d1d9e0;--box:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#f0f6fc;--dim:#9198a1;--line:#3d444d;\
--box:#151b23}}
text{font:11px system-ui,sans-serif;fill:var(--ink)}
.title{font-size:16px;font-weight:600}
.head{font-size:12px;font-weight:600}
.note,.tick{fill:var(--dim)}
.tick{font-size:10px}
.value{font-variant-numeric:tabular-nums}
.paper{fill:var(--paper)}
.box{fill:var(--box)}
.grid{stroke:var(--line);stroke-width:1}
.whisker{stroke:var(--ink);stroke-width:1.2;fill:none}
";
/// The colours of rows; each reads well on both papers.
const COLOURS: [&str; 8] = [
    "#3b82c4", "#d9822b", "#3f9e5a", "#c44e6e", "#8467c1", "#9a7b4f", "#2f9aa0", "#8a8f98",
];
/// The mean width of a character, of 11 pixels high letters.
const CHARACTER: f64 = 6.0;

/// The file's beginning.
pub(crate) fn head(width: f64, height: f64, title: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"{title}\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
    )
}

/// The colour of that number.
pub(crate) fn colour(index: usize) -> &'static str {
    COLOURS
        .get(index % COLOURS.len())
        .copied()
        .unwrap_or_default()
}

/// About how many pixels wide the text is.
pub(crate) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// The text, its end cut off where it is wider than that.
pub(crate) fn fitted(text: &str, width: f64) -> String {
    if text_width(text) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for character in text.chars() {
        if text_width(&short) + 2.0 * CHARACTER > width {
            break;
        }
        short.push(character);
    }
    short + "\u{2026}"
}

/// The text as XML may hold it, in content and in attributes.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // XML 1.0 has no way to write most of these.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::{escaped, fitted};

    #[test]
    fn what_xml_would_read_otherwise_is_escaped() {
        assert_eq!(
            escaped("a<b>&\"c\"'\u{1b}\n\u{e9}"),
            "a&lt;b&gt;&amp;&quot;c&quot;&#39;\u{fffd}\u{fffd}\u{e9}"
        );
    }

    #[test]
    fn long_labels_lose_their_end() {
        assert_eq!(fitted("short", 100.0), "short");
        let cut = fitted("nbd+unix:///?socket=/somewhere", 60.0);
        assert!(
            cut.ends_with('\u{2026}') && cut.chars().count() <= 10,
            "{cut}"
        );
    }
}
