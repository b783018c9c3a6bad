//! The rules of the house that no lint knows, checked on every file of the repository. Each rule is
//! a function from text to complaints, and is tested on a bad sample of its own.
#![expect(
    clippy::expect_used,
    reason = "helpers of tests: what can not be read fails the test"
)]

use std::path::{Path, PathBuf};

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/source.rs"]
mod source;

/// A text file of the repository; the path is relative to its top.
struct Text {
    path: String,
    text: String,
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the repository")
}

/// Every file that ends in one of `extensions`, what is built and what is hidden left out.
fn files(extensions: &[&str]) -> Vec<Text> {
    let mut found = Vec::new();
    let mut folders = vec![top().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the repository is readable") {
            let path: PathBuf = entry
                .expect("a folder of the repository is readable")
                .path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with('.') || name == "target" || name == "artifacts" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if extensions
                .iter()
                .any(|e| path.extension().is_some_and(|x| x == *e))
            {
                let text = std::fs::read_to_string(&path).expect("a text file is UTF-8");
                let path = path.strip_prefix(top()).expect("it lies below the top");
                found.push(Text {
                    path: path.display().to_string(),
                    text,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no file ends in {extensions:?}");
    found
}

/// Applies a rule to every file; fails with all complaints at once.
fn hold(extensions: &[&str], rule: impl Fn(&Text) -> Vec<String>) {
    let complaints: Vec<String> = files(extensions)
        .iter()
        .flat_map(|file| {
            rule(file)
                .into_iter()
                .map(|what| format!("{}: {what}", file.path))
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// A rule must object to `bad` and let `good` pass.
fn tell_apart(rule: impl Fn(&Text) -> Vec<String>, path: &str, bad: &str, good: &str) {
    let sample = |text: &str| Text {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    assert!(
        !rule(&sample(bad)).is_empty(),
        "the bad sample passed: {bad}"
    );
    let complaints = rule(&sample(good));
    assert!(
        complaints.is_empty(),
        "the good sample {good} failed: {complaints:?}"
    );
}
