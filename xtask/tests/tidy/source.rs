//! Rules for source text.

use super::{Text, files, hold, tell_apart};

const MAX_LINES: usize = 700;
const MAX_MEDIAN_LINES: usize = 250;

fn short_enough(file: &Text) -> Vec<String> {
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        vec![format!("{lines} lines, more than {MAX_LINES}")]
    } else {
        vec![]
    }
}

#[test]
fn no_source_file_is_long() {
    hold(&["rs"], short_enough);
    let long = "//! Long.\n".repeat(MAX_LINES + 1);
    tell_apart(short_enough, "x.rs", &long, "//! Short.\n");
}

#[test]
fn half_of_the_source_files_are_short() {
    let mut lines: Vec<usize> = files(&["rs"])
        .iter()
        .map(|f| f.text.lines().count())
        .collect();
    lines.sort_unstable();
    let median = lines[lines.len() / 2];
    assert!(median <= MAX_MEDIAN_LINES, "the median is {median} lines");
}

/// Complains about each line for which `offends` has something to say.
fn by_line<'a>(file: &'a Text, offends: impl Fn(&'a str) -> Option<String>) -> Vec<String> {
    let numbered = file.text.lines().enumerate();
    numbered
        .filter_map(|(i, line)| offends(line).map(|w| format!("line {}: {w}", i + 1)))
        .collect()
}

fn ascii_only(file: &Text) -> Vec<String> {
    by_line(file, |line| {
        let odd = line.chars().find(|c| !c.is_ascii());
        odd.map(|c| format!("not ASCII: {}", c.escape_unicode()))
    })
}

#[test]
fn source_and_manifests_are_ascii() {
    hold(&["rs", "toml"], ascii_only);
    tell_apart(ascii_only, "x.rs", "// caf\u{e9}", "// cafe");
}

/// The code of a line: what stands before a comment. Good enough for rules about words.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn finished(file: &Text) -> Vec<String> {
    // Put together here, so that this file does not offend itself.
    let marks = [
        ["FIX", "ME"],
        ["dbg", "!("],
        ["todo", "!("],
        ["unimplemented", "!("],
    ];
    by_line(file, |line| {
        let mark = marks
            .iter()
            .map(|parts| parts.concat())
            .find(|mark| line.contains(mark))?;
        Some(format!("{mark} is left in"))
    })
}

#[test]
fn nothing_is_left_for_later() {
    hold(&["rs", "toml", "sh"], finished);
    tell_apart(finished, "x.rs", &["to", "do!()"].concat(), "// all done");
}

fn silent_library(file: &Text) -> Vec<String> {
    let library = ["engine/src/", "format-spec/src/", "nbd-frontend/src/"];
    if !library.iter().any(|folder| file.path.starts_with(folder)) {
        return vec![];
    }
    by_line(file, |line| {
        code(line)
            .contains("print!(")
            .then(|| "a library prints".to_owned())
            .or(code(line)
                .contains("println!(")
                .then(|| "a library prints".to_owned()))
    })
}

#[test]
fn libraries_print_nothing() {
    hold(&["rs"], silent_library);
    tell_apart(
        silent_library,
        "engine/src/x.rs",
        "eprintln!(\"x\");",
        "tracing::warn!(\"x\");",
    );
    tell_apart(
        silent_library,
        "engine/src/x.rs",
        "print!(\"x\");",
        "// println!(\"x\")",
    );
    let cli = Text {
        path: "cli/src/x.rs".into(),
        text: "println!(\"x\");".into(),
    };
    assert!(silent_library(&cli).is_empty());
}

fn says_what_it_is_for(file: &Text) -> Vec<String> {
    // A crate's root may take its documentation from a file.
    let begins = ["//!", "#![doc = include_str!("];
    match file.text.lines().find(|line| !line.trim().is_empty()) {
        Some(first) if begins.iter().any(|begin| first.starts_with(begin)) => vec![],
        _ => vec!["does not begin with //!".to_owned()],
    }
}

#[test]
fn every_source_file_begins_with_its_purpose() {
    hold(&["rs"], says_what_it_is_for);
    tell_apart(
        says_what_it_is_for,
        "x.rs",
        "use std::io;\n",
        "//! Input.\nuse std::io;\n",
    );
}

/// The one file that may, and says for each place why it is sound.
const MAPPED_MEMORY: &str = "engine/src/journal/mapped.rs";

fn safe(file: &Text) -> Vec<String> {
    if file.path == MAPPED_MEMORY {
        return Vec::new();
    }
    let word = ["un", "safe"].concat();
    let forms = [" {", " fn", " impl", " trait", " extern"].map(|after| format!("{word}{after}"));
    by_line(file, |line| {
        let form = forms
            .iter()
            .find(|form| code(line).contains(form.as_str()))?;
        Some(format!("{form} outside {MAPPED_MEMORY}"))
    })
}

#[test]
fn there_is_no_unsafe_code_but_for_the_mapped_memory() {
    hold(&["rs"], safe);
    tell_apart(safe, "x.rs", &["un", "safe { f() }"].concat(), "f()");
}

/// Folder, and what its code may not name: the arrows between the packages point down only.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "format-spec/src/",
        &["usnap_", "std::", "clap", "tokio", "rustix"],
    ),
    ("engine/src/", &["usnap_nbd", "clap::", "tokio::"]),
    (
        "engine/src/sim/",
        &[
            "crate::store",
            "crate::snapshot",
            "crate::table",
            "crate::Snapshot",
        ],
    ),
    (
        "nbd-frontend/src/proto",
        &[
            "usnap_",
            "tokio",
            "rustix",
            "std::net",
            "std::os",
            "std::thread",
            "std::time",
            "crate::server",
            "crate::export",
            "clap::",
        ],
    ),
    ("nbd-frontend/src/", &["clap::", "usnap_format"]),
    ("cli/src/", &["usnap_benches"]),
];

fn points_down(file: &Text) -> Vec<String> {
    let mut complaints = Vec::new();
    for (_, names) in ARROWS
        .iter()
        .filter(|(folder, _)| file.path.starts_with(folder))
    {
        // Tests may use the standard library and whatever they compare with.
        let body = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let body = Text {
            path: String::new(),
            text: body.to_owned(),
        };
        if file.path.contains("tests") {
            continue;
        }
        complaints.extend(by_line(&body, |line| {
            let name = names.iter().find(|name| code(line).contains(**name))?;
            Some(format!("names {name}"))
        }));
    }
    complaints
}

#[test]
fn imports_point_down_only() {
    hold(&["rs"], points_down);
    let rule = points_down;
    tell_apart(
        rule,
        "format-spec/src/x.rs",
        "use std::io;",
        "use core::fmt;",
    );
    tell_apart(
        rule,
        "engine/src/x.rs",
        "use usnap_nbd::proto;",
        "use usnap_format::Layout;",
    );
    tell_apart(
        rule,
        "nbd-frontend/src/proto/x.rs",
        "use std::net::TcpStream;",
        "use std::io;",
    );
    tell_apart(
        rule,
        "nbd-frontend/src/proto/x.rs",
        "use tokio::net;",
        "#[cfg(test)]\nuse tokio;",
    );
}

fn imports_by_name(file: &Text) -> Vec<String> {
    let mut in_tests = file.path.contains("tests/") || file.path.ends_with("tests.rs");
    let mut complaints = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        in_tests |= line.contains("#[cfg(test)]");
        let line = code(line).trim();
        let wild = line.contains("use ") && line.ends_with("::*;");
        let prelude = line.ends_with("super::*;") || line.ends_with("prelude::*;");
        if wild && !(in_tests && prelude) {
            complaints.push(format!("line {}: {line}", index + 1));
        }
    }
    complaints
}

#[test]
fn imports_name_what_they_bring() {
    hold(&["rs"], imports_by_name);
    let good = "use std::io::Read;\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
    tell_apart(imports_by_name, "engine/src/x.rs", "use std::io::*;", good);
    tell_apart(imports_by_name, "engine/src/x.rs", "use super::*;", good);
}
