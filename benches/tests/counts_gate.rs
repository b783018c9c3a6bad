//! The gate on instruction counts, from outside: a count that is the same passes, one that grew
//! fails and says what to do. On the engine alone and with a build that was not optimised, which
//! changes the numbers and not what is made of them.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

use std::path::Path;
use std::process::Command;

use usnap_test_support::{Need, Scratch, missing};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const COUNTED: &str = "engine: 256K read, origin";

/// Exit code and what was printed.
fn counts(table: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_counts"))
        .args(["--only", COUNTED, "--directory"])
        .arg(std::env::temp_dir())
        .arg("--table")
        .arg(table)
        .args(more)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_count_passes_beside_itself_and_fails_beside_a_planted_smaller_one() {
    if missing(&[Need::Program("valgrind")]).unwrap() {
        return;
    }
    let scratch = Scratch::new(&std::env::temp_dir(), "usnap-gate").unwrap();
    let table = scratch.join("README.md");
    std::fs::copy(README, &table).unwrap();
    let (code, said) = counts(&table, &["--record"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = counts(&table, &[]);
    assert_eq!(code, Some(0), "{said}");

    let recorded = std::fs::read_to_string(&table).unwrap();
    let row = recorded
        .lines()
        .find(|line| line.starts_with("| 256K read, origin |"))
        .unwrap();
    let number = row.split('|').nth(2).unwrap().trim();
    let instructions: u64 = number.replace(',', "").parse().unwrap();
    let planted = row.replacen(number, &(instructions * 4 / 5).to_string(), 1);
    std::fs::write(&table, recorded.replace(row, &planted)).unwrap();
    let (code, said) = counts(&table, &[]);
    assert_eq!(code, Some(1), "{said}");
    for part in ["FAILED", COUNTED, "cargo xtask counts --record"] {
        assert!(said.contains(part), "{said}");
    }
}
