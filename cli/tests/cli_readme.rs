//! The README's console blocks are run, and print what they are said to print.
//!
//! Each block has a folder of its own. A line that begins with `$ ` is a command; what follows is
//! what it prints, standard error included. In the expected text `...` stands for anything: inside
//! a line, or as a line of its own for any number of lines.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use usnap_test_support::{Lab, Need, Tool, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const README: &str = include_str!("../../README.md");
/// What the blocks call beside usnap and the shell's own.
const NEEDS: [Need; 3] = [
    Need::Program("mke2fs"),
    Need::Program("qemu-io"),
    Need::Program("nbdcopy"),
];
/// Between the outputs of two commands; no command prints it.
const MARK: &str = "==== end of command ====";

/// A command and what it is said to print.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

fn console_blocks(text: &str) -> Vec<Vec<Step>> {
    let mut blocks = Vec::new();
    for part in text.split("\n```console\n").skip(1) {
        let mut steps: Vec<Step> = Vec::new();
        for line in part.split("\n```").next().unwrap_or_default().lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step {
                    command: command.to_owned(),
                    expected: Vec::new(),
                });
            } else if let Some(step) = steps.last_mut() {
                match step.command.strip_suffix('\\') {
                    // A command that goes on in the next line.
                    Some(begun) => step.command = format!("{begun}{}", line.trim_start()),
                    None => step.expected.push(line.to_owned()),
                }
            }
        }
        blocks.push(steps);
    }
    blocks
}

/// Whether `line` is what `pattern` says; `...` stands for any text.
fn line_matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once("...") {
        None => pattern == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|at| rest.is_char_boundary(*at))
                .any(|at| line_matches(after, &rest[at..]))
        }),
    }
}

fn lines_match(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "..." => {
            lines_match(rest, lines)
                || lines
                    .split_first()
                    .is_some_and(|(_, tail)| lines_match(expected, tail))
        }
        (Some((pattern, rest)), Some((line, tail))) => {
            line_matches(pattern, line) && lines_match(rest, tail)
        }
        _ => false,
    }
}

fn run(steps: &[Step]) -> Result<()> {
    let scratch = LAB.scratch("readme")?;
    let mut script = String::from("exec 2>&1 </dev/null\n");
    for step in steps {
        writeln!(script, "{}\nprintf '%s\\n' '{MARK}'", step.command)?;
    }
    let folder = Path::new(LAB.program())
        .parent()
        .context("the program lies in a folder")?;
    let path = format!(
        "{}:{}:/usr/sbin:/sbin",
        folder.display(),
        std::env::var("PATH")?
    );
    let said = Tool::new("bash")
        .args(["-c", &script])
        .env("PATH", path)
        .env("LC_ALL", "C")
        .current_dir(scratch.path())
        .run()?;
    let outputs: Vec<&str> = said.stdout.split(&format!("{MARK}\n")).collect();
    ensure!(
        outputs.len() == steps.len() + 1,
        "not all commands were run: {said}"
    );
    for (step, output) in steps.iter().zip(outputs) {
        let lines: Vec<&str> = output.lines().collect();
        ensure!(
            lines_match(&step.expected, &lines),
            "$ {}\nprints\n{output}\nand the README says\n{}",
            step.command,
            step.expected.join("\n")
        );
    }
    Ok(())
}

#[test]
fn the_examples_of_the_readme_print_what_it_says() -> Result<()> {
    if missing(&NEEDS)? {
        return Ok(());
    }
    let blocks = console_blocks(README);
    ensure!(!blocks.is_empty(), "the README has no console block");
    blocks.iter().try_for_each(|block| run(block))
}

#[test]
fn what_the_readme_says_is_not_there_is_found_missing() -> Result<()> {
    let step = |command: &str, expected: &[&str]| Step {
        command: command.to_owned(),
        expected: expected.iter().map(|line| (*line).to_owned()).collect(),
    };
    run(&[
        step("echo a; echo b >&2", &["a", "b"]),
        step("usnap --version", &["usnap ..."]),
    ])?;
    ensure!(run(&[step("echo a", &["b"])]).is_err());
    ensure!(run(&[step("echo a", &[])]).is_err());
    ensure!(run(&[step("true", &["a"])]).is_err());
    ensure!(run(&[step("exit 3", &[]), step("true", &[])]).is_err());
    Ok(())
}

#[test]
fn blocks_are_read_as_they_are_meant() {
    let text = "x\n```console\n$ a \\\n    b\none\n$ c\n```\n\n```sh\n$ d\n```\n";
    let step = |command: &str, expected: &[&str]| Step {
        command: command.to_owned(),
        expected: expected.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(
        console_blocks(text),
        [[step("a b", &["one"]), step("c", &[])]]
    );
    assert!(lines_match(
        &["a".into(), "...".into(), "z".into()],
        &["a", "b", "c", "z"]
    ));
    assert!(line_matches("took ... s", "took 1.5 s") && !line_matches("took ... s", "took 1.5 m"));
}
