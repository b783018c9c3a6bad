//! Text for terminals and for readers of lines. Paths, labels and what peers send can hold
//! anything: what would end the line or steer a terminal is escaped.

use std::path::Path;

/// The text on one line, its control characters escaped.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The path on one line; bytes that are no UTF-8 are replaced.
pub(crate) fn path(path: &Path) -> String {
    one_line(&path.display().to_string())
}

/// JSON with the control characters escaped that it may hold raw, those above the ASCII ones. Its
/// own line breaks stay.
pub(crate) fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else_is() {
        assert_eq!(
            one_line("a\nb\u{1b}[2J\u{9b}c \u{e9}\\"),
            "a\\nb\\u{1b}[2J\\u{9b}c \u{e9}\\"
        );
        assert_eq!(path(Path::new("a\tb")), "a\\tb");
    }

    #[test]
    fn json_stays_what_it_was() {
        let value = serde_json::json!({"path": "a\u{1b}\u{7f}\u{9b}\u{e9}"});
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, value);
    }
}
