//! The contract that every command keeps, whatever it does: help, version, exit codes, one error
//! line, results on standard output and everything else on standard error.

use anyhow::{Context, Result, ensure};
use usnap_test_support::tool::Output;
use usnap_test_support::{Lab, Need, Scratch, Tool, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

/// Every command, with arguments that are right except that `FILE` stands for a file.
const COMMANDS: [(&str, &[&str]); 18] = [
    ("serve", &["FILE", "--read-only", "--single"]),
    ("serve-origin", &["FILE", "--single"]),
    ("snapshot", &["list", "FILE"]),
    ("create", &["new.cow", "--origin", "FILE"]),
    ("status", &["FILE"]),
    ("check", &["FILE"]),
    ("dump", &["FILE"]),
    ("repair", &["FILE"]),
    ("restore", &["FILE", "new.cow"]),
    ("compact", &["FILE", "FILE", "new.cow"]),
    ("resize", &["FILE", "1M"]),
    ("info", &["FILE"]),
    ("merge", &["FILE", "ORIGIN"]),
    ("export", &["FILE", "FILE", "new.img"]),
    ("diff", &["FILE", "FILE"]),
    ("patch", &["FILE", "disk.img"]),
    ("bench", &["file:FILE"]),
    ("demo", &[]),
];

/// The commands that take a file, called with `file` in its place.
fn on_file(file: &str) -> impl Iterator<Item = (&'static str, Tool)> {
    COMMANDS
        .into_iter()
        .filter(|(_, args)| !args.is_empty())
        .map(move |(name, args)| {
            let args = args.iter().map(|arg| arg.replace("FILE", file));
            (name, LAB.usnap(&[name]).args(args))
        })
}

/// One line `usnap: cannot ...`, perhaps a hint, and nothing on standard output.
fn is_one_error(output: &Output) -> Result<()> {
    let mut lines = output.stderr.lines();
    let first = lines.next().context("nothing was said")?;
    ensure!(first.starts_with("usnap: cannot "), "{output}");
    let hint = lines.next().unwrap_or("hint: ");
    ensure!(
        hint.starts_with("hint: ") && lines.next().is_none(),
        "{output}"
    );
    ensure!(output.stdout.is_empty(), "{output}");
    Ok(())
}

#[test]
fn help_is_a_result_and_names_every_command_and_exit_code() -> Result<()> {
    let help = LAB.usnap(&["--help"]).fails_with(0)?;
    ensure!(help.stderr.is_empty(), "{help}");
    for (name, _) in COMMANDS {
        ensure!(
            help.stdout.contains(&format!("\n  {name} ")),
            "no {name}: {help}"
        );
    }
    ensure!(help.stdout.contains("3 check found damage"), "{help}");
    ensure!(
        !help.stdout.contains("generate"),
        "a hidden command shows: {help}"
    );
    Ok(())
}

/// The names below `Commands:` in the help of `words`; none where it is a command of its own.
fn commands_of(words: &[&str]) -> Result<Vec<String>> {
    let help = LAB.usnap(words).arg("--help").ok()?;
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return Ok(Vec::new());
    };
    let names = list.lines().take_while(|line| line.starts_with("  "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn every_command_is_held_to_the_contract() -> Result<()> {
    let mut listed = commands_of(&[])?;
    listed.retain(|name| name != "help");
    let known: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
    for name in &listed {
        ensure!(known.contains(&name.as_str()), "COMMANDS lacks {name}");
    }
    ensure!(listed.len() == known.len(), "{listed:?}, but {known:?}");
    Ok(())
}

#[test]
fn help_and_man_page_tell_each_option_and_an_example() -> Result<()> {
    for (name, _) in COMMANDS {
        let parts = commands_of(&[name])?;
        let parts = parts.iter().filter(|part| *part != "help");
        let mut calls: Vec<Vec<&str>> = parts.map(|part| vec![name, part.as_str()]).collect();
        if calls.is_empty() {
            calls.push(vec![name]);
        }
        for words in calls {
            let help = LAB.usnap(&words).arg("--help").ok()?;
            let paragraphs: Vec<&str> = help.split("\n\n").collect();
            let summary = paragraphs.first().copied().unwrap_or_default();
            ensure!(
                !summary.contains('\n') && !summary.ends_with('.'),
                "{words:?} begins with no summary: {summary}"
            );
            let about = paragraphs.get(1).copied().unwrap_or_default();
            ensure!(
                !about.starts_with("Usage:") && about.trim_end().ends_with('.'),
                "{words:?} has no paragraph: {about}"
            );
            ensure!(
                help.contains("\nExample") && help.contains(&format!("usnap {} ", words.join(" "))),
                "{words:?} has no example"
            );
            undescribed(&help).with_context(|| format!("{words:?}"))?;
            let page = format!("man/usnap-{}.1", words.join("-"));
            let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
            let page = std::fs::read_to_string(&page).with_context(|| format!("{words:?}"))?;
            let page = page.replace("\\-", "-");
            ensure!(page.contains(summary), "{words:?}: the man page is another");
            ensure!(page.contains("Example"), "{words:?}: the man page lacks it");
        }
    }
    Ok(())
}

/// Expects below each option and argument a line that says what it is.
fn undescribed(help: &str) -> Result<()> {
    let lines: Vec<&str> = help.lines().collect();
    for pair in lines.windows(2) {
        let [line, next] = pair else { continue };
        let word = line.trim_start();
        let indent = line.len() - word.len();
        let opens = word.starts_with('-') && (2..=6).contains(&indent);
        if opens || (indent == 2 && (word.starts_with('<') || word.starts_with('['))) {
            let described = next.starts_with("          ") && next.trim().len() >= 8;
            ensure!(described, "nothing is said of {word}");
        }
    }
    Ok(())
}

#[test]
fn every_command_has_short_and_long_help_and_the_version() -> Result<()> {
    for (name, _) in COMMANDS {
        let short = LAB.usnap(&[name, "-h"]).ok()?;
        let long = LAB.usnap(&[name, "--help"]).ok()?;
        ensure!(
            short.contains("Usage: usnap") && long.len() >= short.len(),
            "{name}: {long}"
        );
        let version = LAB.usnap(&[name, "--version"]).ok()?;
        ensure!(
            version.contains(env!("CARGO_PKG_VERSION")),
            "{name}: {version}"
        );
    }
    Ok(())
}

#[test]
fn what_can_not_be_understood_is_a_usage_error() -> Result<()> {
    is_one_error(&LAB.usnap(&["sevre"]).fails_with(2)?)?;
    for (name, args) in COMMANDS {
        is_one_error(
            &LAB.usnap(&[name])
                .args(args)
                .arg("--no-such-option")
                .fails_with(2)?,
        )?;
    }
    for (name, tool) in on_file("x") {
        is_one_error(&LAB.usnap(&[name]).fails_with(2)?)?;
        is_one_error(&tool.args(["one", "too-many"]).fails_with(2)?)?;
    }
    let nothing = LAB.usnap(&[]).fails_with(2)?;
    ensure!(
        nothing.stderr.contains("Usage: usnap") && nothing.stdout.is_empty(),
        "{nothing}"
    );
    Ok(())
}

#[test]
fn a_mistyped_option_gets_the_right_one_as_hint() -> Result<()> {
    let output = LAB
        .usnap(&["serve", "x", "--read-only", "--sokcet", "s"])
        .fails_with(2)?;
    ensure!(
        output.stderr.contains("hint: ") && output.stderr.contains("--socket"),
        "{output}"
    );
    Ok(())
}

#[test]
fn a_missing_file_is_named_with_the_reason() -> Result<()> {
    let scratch = LAB.scratch("missing")?;
    for (_, tool) in on_file("no-such-file") {
        let output = tool.current_dir(scratch.path()).fails_with(1)?;
        is_one_error(&output)?;
        ensure!(output.stderr.contains("no-such-file"), "{output}");
        ensure!(output.stderr.contains("No such file"), "{output}");
    }
    ensure!(
        std::fs::read_dir(scratch.path())?.next().is_none(),
        "something was left behind"
    );
    Ok(())
}

#[test]
fn a_file_that_may_not_be_read_is_named_with_the_reason() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_root = rustix::process::geteuid().is_root();
    if is_root && missing(&[Need::Program("setpriv")])? {
        return Ok(());
    }
    // Somebody else must get there, and may write there.
    let scratch = Scratch::new(std::path::Path::new("/tmp"), "usnap-forbidden")?;
    let mode = std::fs::Permissions::from_mode;
    std::fs::set_permissions(scratch.path(), mode(0o777))?;
    let program = scratch.join("usnap");
    std::fs::copy(LAB.program(), &program)?;
    std::fs::write(scratch.join("secret"), "SnAp and more")?;
    std::fs::set_permissions(scratch.join("secret"), mode(0o000))?;
    for (name, args) in COMMANDS.into_iter().filter(|(_, args)| !args.is_empty()) {
        let args = args.iter().map(|arg| arg.replace("FILE", "secret"));
        let tool = if is_root {
            let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
            Tool::new("setpriv").args(nobody).arg(&program)
        } else {
            Tool::new(&program)
        };
        let output = tool.arg(name).args(args).current_dir(scratch.path());
        let output = output.fails_with(1)?;
        is_one_error(&output)?;
        ensure!(output.stderr.contains("secret"), "{output}");
        // This one asks the server of that file, not the file.
        let told = output.stderr.contains("ermission denied") || name == "snapshot";
        ensure!(told, "{output}");
    }
    ensure!(
        std::fs::read_dir(scratch.path())?.count() == 2,
        "something was left behind"
    );
    Ok(())
}

#[test]
fn a_store_that_was_cut_off_is_said_to_be_so_and_left_as_it_is() -> Result<()> {
    let scratch = LAB.scratch("cut")?;
    let cut = scratch.join("cut.cow");
    LAB.usnap(&["create", "--size", "1M"]).arg(&cut).ok()?;
    std::fs::File::options()
        .write(true)
        .open(&cut)?
        .set_len(5000)?;
    let before = std::fs::read(&cut)?;
    for name in ["ORIGIN", "disk.img"] {
        scratch.sparse_file(name, 1 << 20)?;
    }
    // What takes it as a store: as an image it is one of 5000 bytes.
    let as_image = ["serve", "serve-origin", "snapshot", "create", "bench"];
    for (name, tool) in on_file("cut.cow").filter(|(name, _)| !as_image.contains(name)) {
        let output = tool.current_dir(scratch.path()).run()?;
        match output.status.code() {
            Some(1 | 2) => is_one_error(&output)?,
            Some(3) => {}
            _ => anyhow::bail!("{name}: {output}"),
        }
        ensure!(std::fs::read(&cut)? == before, "{name} changed it");
        for image in ["ORIGIN", "disk.img"] {
            let image = std::fs::read(scratch.join(image))?;
            ensure!(image == vec![0; 1 << 20], "{name} changed an image");
        }
        for new in ["new.cow", "new.img"] {
            ensure!(!scratch.join(new).exists(), "{name} left {new}");
        }
    }
    Ok(())
}

#[test]
fn a_folder_is_no_file() -> Result<()> {
    let scratch = LAB.scratch("folder")?;
    std::fs::create_dir(scratch.join("folder"))?;
    for (name, tool) in on_file("folder") {
        let output = tool.current_dir(scratch.path()).run()?;
        ensure!(
            matches!(output.status.code(), Some(1 | 2)),
            "{name}: {output}"
        );
        is_one_error(&output)?;
        ensure!(output.stderr.contains("folder"), "{output}");
    }
    Ok(())
}

#[test]
fn an_empty_and_a_tiny_file_are_no_store() -> Result<()> {
    let scratch = LAB.scratch("tiny")?;
    for content in ["", "x", "SnAp", "SnAp\u{1}\0\0\0\u{1}\0\0\0"] {
        std::fs::write(scratch.join("tiny"), content)?;
        for (name, tool) in on_file("tiny")
            .filter(|(name, _)| !matches!(*name, "serve" | "serve-origin" | "create" | "compact"))
        {
            let output = tool.current_dir(scratch.path()).run()?;
            ensure!(
                matches!(output.status.code(), Some(1 | 3)),
                "{name} {content:?}: {output}"
            );
            if output.status.code() == Some(1) {
                is_one_error(&output)?;
            }
        }
        ensure!(
            std::fs::read_to_string(scratch.join("tiny"))? == content,
            "it was changed"
        );
    }
    Ok(())
}

#[test]
fn a_file_of_something_else_is_refused_as_cow_and_left_as_it_is() -> Result<()> {
    let scratch = LAB.scratch("foreign")?;
    let content = "this is not a store. ".repeat(1000);
    std::fs::write(scratch.join("foreign"), &content)?;
    scratch.sparse_file("disk.img", 1 << 20)?;
    for words in [
        &["status", "foreign"][..],
        &["dump", "foreign"],
        &["check", "foreign"],
        &["repair", "foreign"],
        &["repair", "foreign", "--chunk-size", "4K", "--drop-damaged"],
        &["serve", "disk.img", "--cow", "foreign", "--single"],
        &["create", "foreign", "--size", "1M"],
        &["export", "disk.img", "foreign", "new.img"],
        &["export", "disk.img", "foreign", "-"],
        &["diff", "disk.img", "foreign", "--json"],
        &["diff", "disk.img", "foreign", "--with-data", "new.diff"],
        &["patch", "foreign", "disk.img"],
    ] {
        let output = LAB.usnap(words).current_dir(scratch.path()).fails_with(1)?;
        is_one_error(&output)?;
        ensure!(output.stderr.contains("foreign"), "{output}");
    }
    ensure!(
        std::fs::read_to_string(scratch.join("foreign"))? == content,
        "it was changed"
    );
    Ok(())
}

#[test]
fn a_closed_pipe_is_quiet() -> Result<()> {
    let scratch = LAB.scratch("pipe")?;
    let cow = scratch.join("c.cow");
    LAB.usnap(&["create"])
        .arg(&cow)
        .args(["--size", "1M"])
        .ok()?;
    for command in ["status", "dump", "check"] {
        // The reader is gone before the first byte is written.
        let script =
            format!("exec 3>&1; ( sleep 0.2; \"$0\" {command} \"$1\"; echo $? >&3 ) | true");
        let tool = Tool::new("bash")
            .args(["-c", &script, LAB.program()])
            .arg(&cow);
        let output = tool.run()?;
        ensure!(
            output.stdout == "0\n" && output.stderr.is_empty(),
            "{command}: {output}"
        );
    }
    Ok(())
}

#[test]
fn a_standard_error_that_takes_nothing_changes_nothing() -> Result<()> {
    let scratch = LAB.scratch("deaf")?;
    std::fs::write(scratch.join("o.img"), vec![0; 1 << 20])?;
    let run = |args: &[&str]| -> Result<Option<i32>> {
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_usnap"))
            .args(args)
            .current_dir(scratch.path())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::options().write(true).open("/dev/full")?)
            .status()?;
        Ok(status.code())
    };
    ensure!(run(&["check", "absent.cow"])? == Some(1));
    ensure!(run(&["chekc"])? == Some(2));
    // It says that it made a COW file, and warns of what is in use.
    let served = ["serve", "o.img", "--cow", "c.cow", "--cow-size", "12K"];
    let options = ["--on-space", "1:true", "--run", "exit 7"];
    ensure!(run(&[&served[..], &options[..]].concat())? == Some(7));
    ensure!(run(&["check", "c.cow"])? == Some(0));
    Ok(())
}
