//! Rules for the documents: what they name is there.

use super::{Text, files, hold, tell_apart, top};

/// Endings of files that belong to the repository (an example's own files have others).
const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".sh", ".py"];

/// Documents of the NBD project, by their names there.
const ELSEWHERE: &[&str] = &["doc/proto.md", "doc/uri.md"];

/// What a document quotes or links to, as far as it can only be a path of the repository.
fn paths_named(text: &str) -> Vec<String> {
    // Code blocks are examples, not references.
    let prose: String = text
        .split("\n```")
        .step_by(2)
        .flat_map(|part| [part, "\n"])
        .collect();
    let quoted = prose.split('`').skip(1).step_by(2);
    let linked = prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let linked = linked.map(|link| link.split('#').next().unwrap_or_default());
    quoted
        .chain(linked)
        .filter(|name| is_path(name))
        .map(str::to_owned)
        .collect()
}

fn is_path(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let file = ENDINGS
        .iter()
        .any(|ending| name.ends_with(ending) && name.len() > ending.len());
    let folder = name.ends_with('/') && name.len() > 1;
    // `NAME.sh` stands for any name; files that really are in capitals are documents.
    let stem = name.split('.').next().unwrap_or_default();
    let stands_for_any = !name.ends_with(".md") && stem.chars().all(|c| c.is_ascii_uppercase());
    let is_relative = !name.starts_with('/') && name.chars().all(plain);
    (file || folder) && is_relative && !stands_for_any && !ELSEWHERE.contains(&name)
}

/// A document may name a path from the top, from its own folder, or from that folder's `src`.
fn names_what_is_there(file: &Text) -> Vec<String> {
    let is_document = [
        "README.md",
        "SPEC.md",
        "KERNEL.md",
        "DESIGN.md",
        "PROTOCOL.md",
        "CHANGELOG.md",
    ];
    if !is_document.iter().any(|name| file.path.ends_with(name)) {
        return vec![];
    }
    let own = top().join(&file.path);
    let own = own.parent().unwrap_or(top());
    let roots = [top().to_path_buf(), own.to_path_buf(), own.join("src")];
    let missing = |name: &String| roots.iter().all(|root| !root.join(name).exists());
    paths_named(&file.text)
        .into_iter()
        .filter(missing)
        .map(|name| format!("names {name}, which is not there"))
        .collect()
}

#[test]
fn every_path_that_a_document_names_exists() {
    hold(&["md"], names_what_is_there);
    let rule = names_what_is_there;
    tell_apart(
        rule,
        "README.md",
        "see `engine/src/no_such.rs`",
        "see `engine/src/lib.rs`",
    );
    tell_apart(
        rule,
        "engine/DESIGN.md",
        "see [it](no-such.md)",
        "see `error.rs` and `disk.img`",
    );
    tell_apart(
        rule,
        "README.md",
        "in `no-such-folder/`",
        "in `engine/`, `nbd+unix:///x/`",
    );
    tell_apart(
        rule,
        "README.md",
        "`nothing.rs`",
        "text\n```\n`nothing.rs`\n```\n",
    );
}

fn has_unreleased(file: &Text) -> Vec<String> {
    let wanted = file.path == "CHANGELOG.md" && !file.text.contains("\n## [Unreleased]");
    if wanted {
        vec!["has no section ## [Unreleased]".to_owned()]
    } else {
        vec![]
    }
}

#[test]
fn the_changelog_has_a_place_for_what_is_new() {
    hold(&["md"], has_unreleased);
    let good = "# Changelog\n\n## [Unreleased]\n";
    tell_apart(has_unreleased, "CHANGELOG.md", "# Changelog\n", good);
}

#[test]
fn the_fuzz_targets_are_the_ones_that_their_readme_lists() {
    let Ok(readme) = std::fs::read_to_string(top().join("fuzz/README.md")) else {
        return;
    };
    let sources = files(&["rs"]);
    let targets = sources.iter().filter_map(|file| {
        file.path
            .strip_prefix("fuzz/fuzz_targets/")
            .and_then(|name| name.strip_suffix(".rs"))
    });
    for target in targets {
        assert!(
            readme.contains(&format!("`{target}`")),
            "fuzz/README.md does not list {target}"
        );
    }
}

/// The tests that the specification's table of differences names, and where.
fn tests_named_as_proof(spec: &str) -> Vec<String> {
    let section = spec.split("\n## 10. ").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let last_cells = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    last_cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_difference_from_the_kernel_is_shown_by_a_test_that_is_there() {
    let spec = std::fs::read_to_string(top().join("format-spec/SPEC.md")).unwrap();
    let named = tests_named_as_proof(&spec);
    assert!(named.len() > 10, "only {named:?}");
    let sources = files(&["rs"]);
    for test in named {
        let head = format!("#[test]\nfn {test}(");
        let is_there = sources.iter().any(|file| file.text.contains(&head));
        assert!(is_there, "SPEC.md names {test}, which is no test");
    }
}
