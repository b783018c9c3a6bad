//! ^C and SIGTERM in the middle of every command that may take long: it ends soon, with the code
//! that a shell shows for that signal, changes no input and leaves nothing half made. A merge goes on.
//!
//! In the middle is where so much was read; the store is sparse and so large that most is left then.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use usnap_test_support::tool::wait;
use usnap_test_support::{Lab, Scratch};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

const CHUNK: u64 = 4096;
const EXCEPTIONS: u64 = 1_000_000;
/// So many chunks are no zeros: something is written of what is read first.
const FULL_CHUNKS: u64 = 24 << 8;
/// What a command that goes through the areas, 16 MiB of them, has read in the middle.
const AREAS: u64 = 4 << 20;
/// That of one that goes through the data.
const DATA: u64 = 48 << 20;
/// Where nobody reads what it writes it gets hardly further than through the areas.
const UNREAD: u64 = EXCEPTIONS * 16 + (512 << 10);
const IN_PARTS: u64 = 4 << 20;

/// Every command: how much it has read in the middle, and with which arguments; none where nothing
/// takes long. Standard output is a pipe that nobody reads, standard input one with half of `< FILE`.
const COMMANDS: [(&str, &[(u64, &str)]); 18] = [
    // What serves ends in order: the suites of each are about that.
    ("serve", &[]),
    ("serve-origin", &[]),
    ("snapshot", &[]),
    ("create", &[]),
    ("status", &[]),
    ("check", &[(AREAS, "b.cow")]),
    ("dump", &[(32 << 10, "b.cow"), (32 << 10, "b.cow --json")]),
    ("repair", &[(AREAS, "b.cow --dry-run")]),
    (
        "restore",
        &[(AREAS, "b.dump new.cow"), (IN_PARTS, "- new.cow < b.dump")],
    ),
    ("compact", &[(DATA, "o.img b.cow new.cow")]),
    ("resize", &[]),
    ("info", &[(DATA, "b.cow --origin o.img")]),
    // From the end, so two are in the middle one after the other.
    ("merge", &[(IN_PARTS, "m.cow m.img --batch 1M")]),
    (
        "export",
        &[
            (DATA, "o.img b.cow new.img"),
            (DATA, "o.img b.cow new.img --force"),
            (UNREAD, "o.img b.cow -"),
        ],
    ),
    (
        "diff",
        &[
            (DATA, "o.img b.cow --exact"),
            (DATA, "o.img b.cow --with-data new.diff"),
            (UNREAD, "o.img b.cow --with-data -"),
        ],
    ),
    // In the second pass, which writes.
    (
        "patch",
        &[(30 << 20, "b.diff p.img"), (IN_PARTS, "- p.img < b.diff")],
    ),
    // Ends early with what it has measured: its own tests.
    ("bench", &[]),
    // A second, in a folder of its own.
    ("demo", &[]),
];

/// A store of as many chunks, one after the other, of an origin that is as long.
fn store(scratch: &Scratch, cow: &str, origin: &str, exceptions: u64) -> Result<()> {
    let origin = scratch.sparse_file(origin, exceptions * CHUNK)?;
    let cow = scratch.join(cow);
    LAB.usnap(&["create", "--origin"])
        .args([&origin, &cow])
        .ok()?;
    let file = File::options().write(true).open(&cow)?;
    for first in (0..exceptions).step_by(256) {
        let area = (1 + first / 256 * 257) * CHUNK;
        let mut entries = Vec::with_capacity(4096);
        for n in 0..256.min(exceptions - first) {
            entries.extend_from_slice(&(first + n).to_le_bytes());
            entries.extend_from_slice(&(area / CHUNK + 1 + n).to_le_bytes());
        }
        file.write_all_at(&entries, area)?;
        if first < FULL_CHUNKS {
            file.write_all_at(&vec![0xAB; entries.len() * 256], area + CHUNK)?;
        }
    }
    Ok(())
}

/// The files by name, with length, blocks and time: what changes when one is written to.
fn state(scratch: &Scratch) -> Result<Vec<(String, [i128; 4])>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(scratch.path())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (is_input, at) = (!name.starts_with(['m', 'p']), entry.metadata()?);
        let times: [i128; 3] = [
            at.blocks().into(),
            at.mtime().into(),
            at.mtime_nsec().into(),
        ];
        let [blocks, s, ns] = if is_input { times } else { [0; 3] };
        files.push((name, [at.len().into(), blocks, s, ns]));
    }
    files.sort();
    Ok(files)
}

/// How much the process asked the system to read.
fn bytes_read(child: &Child) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{}/io", child.id()))?;
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    Ok(line.context("no rchar")?.parse()?)
}

/// Runs it, and tells it to end in the middle.
fn interrupted(scratch: &Scratch, words: &str, middle: u64, with: Signal) -> Result<ExitStatus> {
    let (words, input) = words.split_once(" < ").unwrap_or((words, ""));
    // Whoever runs the tests may have the signals ignored.
    let mut child = Command::new("env")
        .args(["--default-signal", LAB.program()])
        .args(words.split(' '))
        .current_dir(scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    if !input.is_empty() {
        let content = fs::read(scratch.join(input))?;
        stdin.write_all(&content[..content.len() / 2])?;
    }
    let begun = Instant::now();
    while bytes_read(&child)? < middle {
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "it ended before its middle: {ended:?}");
        ensure!(begun.elapsed() < Duration::from_secs(30), "it gets nowhere");
    }
    kill_process(Pid::from_child(&child), with)?;
    let ended = wait(&mut child, Duration::from_secs(10))?;
    if ended.is_none() {
        child.kill()?;
    }
    let mut said = String::new();
    let mut stderr = child.stderr.take().context("piped")?;
    stderr.read_to_string(&mut said)?;
    let status = ended.context("it goes on and on")?;
    let is_error = said.lines().any(|line| line.starts_with("usnap: cannot "));
    ensure!(status.code().is_some() == is_error, "{status}: {said}");
    Ok(status)
}

#[test]
fn told_to_end_in_the_middle_it_does_and_leaves_nothing_half_made() -> Result<()> {
    let scratch = LAB.scratch("interrupted")?;
    store(&scratch, "b.cow", "o.img", EXCEPTIONS)?;
    store(&scratch, "m.cow", "m.img", FULL_CHUNKS)?;
    scratch.sparse_file("p.img", EXCEPTIONS * CHUNK)?;
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        LAB.usnap(&words).current_dir(scratch.path()).ok()
    };
    fs::write(scratch.join("b.dump"), run("dump b.cow")?)?;
    run("diff o.img b.cow --with-data b.diff")?;
    let before = state(&scratch)?;
    for (command, calls) in COMMANDS {
        for (middle, words) in calls {
            for signal in [Signal::INT, Signal::TERM] {
                let what = || format!("{command} {words}, {signal:?}");
                let words = format!("{command} {words}");
                let status = interrupted(&scratch, &words, *middle, signal).with_context(what)?;
                let code = status.code().or(status.signal().map(|number| 128 + number));
                ensure!(code == Some(128 + signal.as_raw()), "{}: {status}", what());
                let after = state(&scratch)?;
                ensure!(after == before, "{}: {before:?}, {after:?}", what());
            }
        }
    }
    // What was told to end twice goes on.
    run("check m.cow --origin m.img")?;
    run("merge m.cow m.img")?;
    run("patch b.diff p.img")?;
    for name in ["m.img", "p.img"] {
        let mut content = vec![0; usize::try_from(FULL_CHUNKS * CHUNK)?];
        File::open(scratch.join(name))?.read_exact(&mut content)?;
        ensure!(
            content.iter().all(|byte| *byte == 0xAB),
            "{name} is another"
        );
    }
    Ok(())
}

#[test]
fn every_command_is_there() -> Result<()> {
    let help = LAB.usnap(&["--help"]).ok()?;
    let (_, list) = help.split_once("\nCommands:\n").context("no commands")?;
    let listed = list.lines().take_while(|line| line.starts_with("  "));
    for name in listed.filter_map(|line| line.split_whitespace().next()) {
        let is_known = COMMANDS.iter().any(|(known, _)| *known == name);
        ensure!(is_known || name == "help", "COMMANDS lacks {name}");
    }
    Ok(())
}
