//! `export`, `diff` and `patch` as commands: what they make, and what they leave behind when they are
//! refused or told to stop.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use usnap_test_support::lab::sha256;
use usnap_test_support::pattern::random_file;
use usnap_test_support::tool::wait;
use usnap_test_support::{Lab, MIB, Need, Scratch, Tool, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

fn usnap(scratch: &Scratch, words: &str) -> Tool {
    LAB.usnap(&[])
        .args(words.split_whitespace())
        .current_dir(scratch.path())
}

fn serve(scratch: &Scratch, words: &str, command: &str) -> Result<String> {
    LAB.usnap(&["serve", "disk.img"])
        .args(words.split_whitespace())
        .args(["--run", command])
        .current_dir(scratch.path())
        .ok()
}

/// 24 MiB and a bit, the second half a hole, under two COW files with data and zeros in them.
fn chain(name: &str) -> Result<Scratch> {
    let scratch = LAB.scratch(name)?;
    let disk = scratch.join("disk.img");
    random_file(&disk, 12 * MIB, 3)?;
    std::fs::File::options()
        .write(true)
        .open(&disk)?
        .set_len(24 * MIB + 700)?;
    let write = "qemu-io -f raw \"$uri\" -c 'write -P 7 5000 70000' -c 'write -P 0 1M 2M' \
                 -c 'write -P 9 20M 512' > log";
    serve(&scratch, "--cow a.cow --chunk-size 16K", write)?;
    let write = "qemu-io -f raw \"$uri\" -c 'write -P 5 6000 100' -c 'write -P 6 24M 700' > log";
    serve(&scratch, "--layer a.cow --cow b.cow", write)?;
    Ok(scratch)
}

const CHAIN: &str = "disk.img --layer a.cow b.cow";

#[test]
fn an_image_a_stream_and_a_patched_copy_are_what_the_server_serves() -> Result<()> {
    if missing(&[Need::Program("nbdcopy"), Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = chain("export")?;
    let copy = "nbdcopy \"$uri\" served.img";
    serve(&scratch, "--layer a.cow --cow b.cow --read-only", copy)?;
    let served = sha256(&scratch.join("served.img"))?;
    let is_served = |name: &str| -> Result<()> {
        ensure!(sha256(&scratch.join(name))? == served, "{name}");
        Ok(())
    };
    usnap(&scratch, &format!("export {CHAIN} new.img")).ok()?;
    is_served("new.img")?;
    let taken = std::fs::metadata(scratch.join("new.img"))?.blocks() * 512;
    ensure!(taken < 10 * MIB + 64 * 1024, "{taken} bytes are allocated");
    let shell = |text: &str| {
        let text = text.replace("usnap", LAB.program());
        Tool::new("sh")
            .args(["-c", &text])
            .current_dir(scratch.path())
            .ok()
    };
    shell(&format!("usnap export {CHAIN} - > streamed.img"))?;
    is_served("streamed.img")?;
    shell(&format!(
        "cp disk.img there.img && usnap diff {CHAIN} --with-data - | usnap patch - there.img"
    ))?;
    is_served("there.img")?;
    shell(&format!(
        "cp disk.img exact.img && usnap diff {CHAIN} --exact --with-data d"
    ))?;
    usnap(&scratch, "patch d exact.img --dry-run").ok()?;
    let said = usnap(&scratch, "patch d exact.img").ok()?;
    // What is zero in the origin is not sent again: 100 + 512 + 700 bytes and their sectors are.
    ensure!(said.starts_with("patched exact.img: "), "{said}");
    is_served("exact.img")?;
    // On what the layers show, the uppermost file's changes alone are enough.
    usnap(&scratch, "export disk.img a.cow top.img").ok()?;
    usnap(
        &scratch,
        &format!("diff {CHAIN} --top --with-data top.diff"),
    )
    .ok()?;
    usnap(&scratch, "patch top.diff top.img").ok()?;
    is_served("top.img")
}

#[test]
fn the_ranges_are_printed_as_text_and_as_json() -> Result<()> {
    if missing(&[Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = chain("diff")?;
    let list = |options: &str| usnap(&scratch, &format!("diff {CHAIN} {options}")).ok();
    let end = 24 * MIB;
    ensure!(
        list("")? == format!("0 81920\n1048576 2097152\n20971520 16384\n{end} 700\n"),
        "{}",
        list("")?
    );
    ensure!(list("--top")? == format!("4096 4096\n{end} 700\n"));
    ensure!(list("--top --exact")? == format!("5632 512\n{end} 700\n"));
    let json = list("--json --top")?;
    let expected = format!(
        "{{\"size_bytes\":{},\"relative_to\":\"layers\",\"exact\":false,\n\"ranges\":[\n\
         {{\"offset\":4096,\"length\":4096}},\n{{\"offset\":{end},\"length\":700}}\n],\n\
         \"range_count\":2,\"changed_bytes\":4796}}\n",
        end + 700
    );
    ensure!(json == expected, "{json}");
    Ok(())
}

#[test]
fn nothing_is_overwritten_unasked() -> Result<()> {
    if missing(&[Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = chain("export-over")?;
    std::fs::write(scratch.join("there"), "precious")?;
    std::fs::create_dir(scratch.join("folder"))?;
    Tool::new("mkfifo").arg(scratch.join("pipe")).ok()?;
    let inputs = ["disk.img", "a.cow", "b.cow"].map(|name| sha256(&scratch.join(name)));
    for (words, text) in [
        (format!("export {CHAIN} there"), "--force"),
        (format!("diff {CHAIN} --with-data there"), "--force"),
        (format!("export {CHAIN} folder --force"), "neither a file"),
        (format!("export {CHAIN} pipe --force"), "neither a file"),
        (format!("diff {CHAIN} --with-data folder"), "no file"),
        (format!("export {CHAIN} disk.img --force"), "part of"),
        (format!("export {CHAIN} ./a.cow --force"), "part of"),
        (format!("export {CHAIN} b.cow --force"), "part of"),
        (format!("diff {CHAIN} --with-data b.cow --force"), "b.cow"),
        (format!("export {CHAIN} none/new.img"), "No such file"),
        ("export disk.img b.cow new.img".to_owned(), "with layers"),
        ("diff disk.img b.cow".to_owned(), "with layers"),
        ("patch there disk.img".to_owned(), "no diff"),
    ] {
        let refused = usnap(&scratch, &words).fails_with(1)?;
        ensure!(refused.stderr.contains(text), "{words}: {refused}");
        ensure!(refused.stdout.is_empty(), "{words}: {refused}");
    }
    ensure!(std::fs::read(scratch.join("there"))? == b"precious");
    let after = ["disk.img", "a.cow", "b.cow"].map(|name| sha256(&scratch.join(name)));
    for (before, after) in inputs.into_iter().zip(after) {
        ensure!(before? == after?);
    }
    for word in ["export", "diff"] {
        // Neither while it is served, nor over what it would be.
        let option = if word == "export" { "" } else { "--with-data" };
        let inner = format!(
            "{} {word} disk.img a.cow {option} new.img 2> said; test $? = 1",
            LAB.program()
        );
        serve(&scratch, "--cow a.cow", &inner)?;
        let said = std::fs::read_to_string(scratch.join("said"))?;
        ensure!(
            said.contains("in use by") && said.contains("nbdcopy"),
            "{said}"
        );
    }
    ensure!(!scratch.join("new.img").exists());
    usnap(&scratch, &format!("export {CHAIN} there --force")).ok()?;
    ensure!(std::fs::metadata(scratch.join("there"))?.len() == 24 * MIB + 700);
    let names = std::fs::read_dir(scratch.path())?.count();
    usnap(&scratch, &format!("diff {CHAIN} --with-data there --force")).ok()?;
    ensure!(std::fs::read_dir(scratch.path())?.count() == names);
    Ok(())
}

/// Each is stopped in the middle, since its output is a pipe that nobody reads, or since it reads a
/// pipe to which nobody writes.
#[test]
fn told_to_stop_they_end_with_a_word_and_leave_nothing_half_made() -> Result<()> {
    if missing(&[Need::Program("qemu-io")])? {
        return Ok(());
    }
    let scratch = chain("export-stop")?;
    scratch.sparse_file("large.img", 1 << 40)?;
    let content = b"0".repeat(1 << 16);
    // Enough of it to take its time.
    let mut large = std::fs::File::options()
        .write(true)
        .open(scratch.join("large.img"))?;
    for _ in 0..8192 {
        std::io::Write::write_all(&mut large, &content)?;
    }
    usnap(&scratch, "create large.cow --origin large.img --size 1G").ok()?;
    let names = std::fs::read_dir(scratch.path())?.count();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut child = Command::new(LAB.program())
            .args(["export", "large.img", "large.cow", "new.img"])
            .current_dir(scratch.path())
            .stderr(Stdio::piped())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(60));
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("no pid")?;
        kill_process(pid, signal)?;
        let status = wait(&mut child, Duration::from_secs(20))?.context("it does not end")?;
        let mut said = String::new();
        let mut stderr = child.stderr.take().context("no standard error")?;
        std::io::Read::read_to_string(&mut stderr, &mut said)?;
        let is_told = status.code() == Some(code) && said.contains("interrupted");
        // Before it took the signals over it ends as any process does.
        ensure!(is_told || status.code().is_none(), "{status}: {said}");
        ensure!(!scratch.join("new.img").exists());
        ensure!(std::fs::read_dir(scratch.path())?.count() == names);
    }
    Ok(())
}
