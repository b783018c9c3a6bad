//! What must not cost anybody data, a server or a terminal, however it was typed: each test makes
//! the trap and looks at what is left.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use usnap_test_support::raw_client::command;
use usnap_test_support::tool::{Output, wait};
use usnap_test_support::{Lab, NBD_ENOSPC, Need, RawClient, Scratch, Tool, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const LIMIT: Duration = Duration::from_secs(20);

fn place(name: &str) -> Result<Scratch> {
    // Sockets need short paths, which a target folder may not have.
    let scratch = Scratch::new(Path::new("/tmp"), &format!("usnap-cli-{name}"))?;
    scratch.sparse_file("disk.img", 1 << 20)?;
    Ok(scratch)
}

/// The pid file was renamed over whatever was there, and removed at the end.
#[test]
fn a_pid_file_replaces_nothing_but_a_pid_file() -> Result<()> {
    let scratch = place("pid-over")?;
    let path = |name: &str| scratch.join(name);
    LAB.usnap(&["create"])
        .arg(path("c.cow"))
        .args(["--size", "1M"])
        .ok()?;
    let before = std::fs::read(path("c.cow"))?;
    std::os::unix::fs::symlink("nowhere", path("link"))?;
    drop(std::os::unix::net::UnixListener::bind(path("socket"))?);
    std::fs::create_dir(path("folder"))?;
    let pipe = Tool::new("mkfifo").arg(path("pipe"));
    pipe.ok()?;
    let traps = ["disk.img", "c.cow", "link", "socket", "folder", "pipe"];
    for trap in traps.into_iter().chain(["/dev/null"]) {
        let words = ["serve", "disk.img", "--cow", "new.cow", "--run", "true"];
        let refused = LAB
            .usnap(&words)
            .args(["--pid-file", trap])
            .current_dir(scratch.path())
            .fails_with(1)?;
        ensure!(
            refused.stderr.contains("cannot write the pid file") && refused.stderr.contains(trap),
            "{refused}"
        );
        ensure!(refused.stderr.contains("\nhint: "), "{refused}");
        ensure!(
            !path("new.cow").exists(),
            "{trap}: a COW was made all the same"
        );
    }
    ensure!(std::fs::metadata(path("disk.img"))?.len() == 1 << 20);
    ensure!(std::fs::read(path("c.cow"))? == before);
    ensure!(std::fs::read_link(path("link"))? == Path::new("nowhere"));
    ensure!(
        std::fs::symlink_metadata(path("socket"))?
            .file_type()
            .is_socket()
    );
    ensure!(
        std::fs::symlink_metadata(path("pipe"))?
            .file_type()
            .is_fifo()
    );
    ensure!(std::fs::metadata("/dev/null")?.file_type().is_char_device());
    Ok(())
}

#[test]
fn a_pid_file_left_behind_is_replaced() -> Result<()> {
    let scratch = place("pid-old")?;
    std::fs::write(scratch.join("pid"), "1\n")?;
    let words = ["serve", "disk.img", "-r", "--pid-file", "pid", "--run"];
    let tool = LAB.usnap(&words).arg("cat pid");
    let said = tool.current_dir(scratch.path()).ok()?;
    ensure!(said.trim().parse::<u32>()? > 1, "{said}");
    ensure!(!scratch.join("pid").exists());
    Ok(())
}

/// The system ends a process with a signal when it writes behind its limit of file sizes.
#[test]
fn a_limit_of_file_sizes_ends_neither_the_server_nor_create() -> Result<()> {
    let scratch = place("fsize")?;
    let created = ["create", "small.cow", "--size", "1G"];
    let limited = Tool::new("prlimit").args(["--fsize=1048576", LAB.program()]);
    let refused = limited
        .args(created)
        .current_dir(scratch.path())
        .fails_with(1)?;
    ensure!(
        refused.stderr.starts_with("usnap: cannot create small.cow")
            && refused.stderr.contains("File too large"),
        "{refused}"
    );
    ensure!(!scratch.join("small.cow").exists());

    // A COW made without the limit, served under it: the first chunks fit, then no more do.
    LAB.usnap(&["create", "c.cow", "--size", "4M"])
        .current_dir(scratch.path())
        .ok()?;
    scratch.sparse_file("disk.img", 2 << 20)?;
    let mut limited = Command::new("prlimit");
    limited
        .args(["--fsize=1048576", LAB.program(), "serve", "disk.img"])
        .args(["--cow", "c.cow", "--socket", "s", "--commit-interval", "0"])
        .current_dir(scratch.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = limited.spawn()?;
    let mut uri = String::new();
    let stdout = child.stdout.take().context("no standard output")?;
    BufReader::new(stdout).read_line(&mut uri)?;
    let mut client = RawClient::connect(&scratch.join("s"))?;
    let chunk = [7; 4096];
    let errors = (0..512_u64)
        .map(|number| client.call(command::WRITE, number * 4096, 4096, &chunk))
        .collect::<Result<Vec<u32>>>()?;
    ensure!(errors[0] == 0 && errors[511] == NBD_ENOSPC, "{errors:?}");
    ensure!(
        errors.iter().all(|error| [0, NBD_ENOSPC].contains(error)),
        "{errors:?}"
    );
    client.flush()?;
    let mut read = [0; 4096];
    client.read_at(0, &mut read)?;
    ensure!(read == chunk);
    client.disconnect()?;
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let status = wait(&mut child, LIMIT)?.context("it does not end")?;
    ensure!(status.success(), "{status}");
    LAB.check_is_clean(&scratch.join("c.cow"))
}

/// Such sizes got as far as a system call's argument, and the message was a conversion's.
#[test]
fn sizes_that_no_file_can_have_are_a_usage_error_in_words() -> Result<()> {
    let scratch = place("huge")?;
    for size in ["9223372036854775808", "18446744073709551615", "8388608T"] {
        for words in [
            ["create", "c.cow", "--chunk-size", "4K", "--size"],
            ["serve", "disk.img", "--cow", "c.cow", "--cow-size"],
            [
                "serve",
                "disk.img",
                "--transient",
                "--name=x",
                "--ram-limit",
            ],
        ] {
            let tool = LAB.usnap(&words).arg(size).current_dir(scratch.path());
            let refused = tool.fails_with(2)?;
            ensure!(refused.stderr.contains("8 EiB or more"), "{refused}");
            ensure!(!scratch.join("c.cow").exists());
        }
    }
    Ok(())
}

/// Messages printed paths as they are: a file's name could clear the screen or forge a line.
#[test]
fn a_files_name_can_not_steer_the_terminal() -> Result<()> {
    let scratch = place("escape")?;
    let (cow, image) = (
        "a\u{1b}[2J\nusnap: forged\u{9b}.cow",
        "i\u{1b}[31m\n\u{7f}.img",
    );
    let path = scratch.sparse_file(image, 1 << 20)?;
    let calls: [(&[&str], i32); 11] = [
        (&["create", cow, "--origin", image], 0),
        (&["create", cow, "--size", "1M"], 1),
        (&["status", cow], 0),
        (&["status", "--json", cow], 0),
        (&["check", cow, "--origin", image], 0),
        (
            &[
                "serve",
                image,
                "--cow",
                cow,
                "--chunk-size",
                "64K",
                "--run",
                "true",
            ],
            0,
        ),
        (&["serve", image, "--cow", image, "--run", "true"], 1),
        (
            &["serve", image, "-r", "--run", "true", "--pid-file", image],
            1,
        ),
        (&["dump", image], 1),
        (&["status", "no\u{1b}c\r\nsuch"], 1),
        (&["create", "l", "--size", "1M", "--label", "\u{1b}c\n"], 2),
    ];
    for (words, code) in calls {
        let said = LAB
            .usnap(words)
            .current_dir(scratch.path())
            .fails_with(code)?;
        is_plain(&said)?;
    }
    std::fs::write(&path, vec![1; 2 << 20])?;
    for words in [
        &["check", cow, "--origin", image][..],
        &["check", "--json", cow, "--origin", image],
    ] {
        let said = LAB.usnap(words).current_dir(scratch.path()).fails_with(3)?;
        ensure!(said.stdout.contains("31m"), "{said}");
        is_plain(&said)?;
    }
    Ok(())
}

fn is_plain(output: &Output) -> Result<()> {
    let lines = output.stdout.lines().chain(output.stderr.lines());
    for line in lines {
        ensure!(
            !line.contains(char::is_control) && !line.starts_with("usnap: forged"),
            "{output}"
        );
    }
    Ok(())
}

/// Status waited for a stopped server for ever once its queue was full, and before that said that
/// no server has the file.
#[test]
fn a_server_that_was_stopped_is_named_and_not_waited_for() -> Result<()> {
    let scratch = place("stopped")?;
    let cow = scratch.join("c.cow");
    let server = LAB.serve(&scratch.join("disk.img"))?.cow(&cow).start()?;
    let pid = server.pid();
    let in_use = format!("in use by pid {} (usnap), which does not answer", pid);
    server.signal(Signal::STOP)?;
    let status = LAB.usnap(&["status"]).arg(&cow).limit(LIMIT).run();
    let json = LAB
        .usnap(&["status", "--json"])
        .arg(&cow)
        .limit(LIMIT)
        .run();
    let check = LAB.usnap(&["check"]).arg(&cow).limit(LIMIT).run();
    server.signal(Signal::CONT)?;
    let (status, json, check) = (status?, json?, check?);
    ensure!(
        status.stdout.contains(&format!("\n{in_use}: as committed")),
        "{status}"
    );
    ensure!(json.stdout.contains("\"in_use_by\": \"pid "), "{json}");
    ensure!(check.stderr.contains(&in_use), "{check}");
    let status = LAB.usnap(&["status"]).arg(&cow).ok()?;
    ensure!(status.contains("served by process"), "{status}");
    server.stop()?;
    let status = LAB.usnap(&["status"]).arg(&cow).ok()?;
    ensure!(status.contains("no server answers"), "{status}");
    Ok(())
}

/// The variable of --run had replacement characters in the place of other bytes.
#[test]
fn the_command_of_run_gets_the_sockets_path_byte_by_byte() -> Result<()> {
    let scratch = place("bytes")?;
    let socket = OsStr::from_bytes(b"s\xff\xfe");
    let script = r#"test -S "$unixsocket" && printf %s "$unixsocket" | tail -c 3 | od -An -tx1"#;
    let tool = LAB
        .usnap(&["serve", "disk.img", "-r", "--run", script, "--socket"])
        .arg(socket);
    let said = tool.current_dir(scratch.path()).ok()?;
    ensure!(said == " 73 ff fe\n", "{said}");
    Ok(())
}

/// It was made before the server listened, and stayed behind where that failed.
#[test]
fn a_cow_made_by_a_run_that_can_not_begin_is_not_left_behind() -> Result<()> {
    let scratch = place("left")?;
    let _taken = std::os::unix::net::UnixListener::bind(scratch.join("taken"))?;
    let cow = scratch.join("c.cow");
    for words in [
        ["--socket", "taken"],
        ["--socket", "no-such-folder/s"],
        ["--listen", "192.0.2.1:1"],
        ["--pid-file", "no-such-folder/pid"],
    ] {
        let serve = || {
            let serve = LAB.usnap(&["serve", "disk.img", "--cow", "c.cow"]);
            serve.args(words).current_dir(scratch.path())
        };
        serve().fails_with(1)?;
        ensure!(!cow.exists(), "{words:?}: the COW was left behind");
        // One that was there before stays.
        LAB.usnap(&["create"])
            .arg(&cow)
            .args(["--size", "1M"])
            .ok()?;
        serve().fails_with(1)?;
        ensure!(cow.exists(), "{words:?}: a COW that was there is gone");
        std::fs::remove_file(&cow)?;
    }
    // And one that was served stays, though nobody wrote.
    let serve = LAB.usnap(&["serve", "disk.img", "--cow", "c.cow", "--run", "exit 7"]);
    serve.current_dir(scratch.path()).fails_with(7)?;
    ensure!(cow.exists());
    Ok(())
}

/// It ended with success, without a client, and with nothing said.
#[test]
fn single_without_an_output_that_can_be_written_to_fails() -> Result<()> {
    let scratch = place("deaf")?;
    for output in [
        ">/dev/full",
        ">&-",
        ">/dev/null",
        "1</dev/null",
        "1<disk.img",
    ] {
        let script = format!("\"$0\" serve disk.img --cow c.cow --single {output}");
        let tool = Tool::new("bash").args(["-c", &script, LAB.program()]);
        let refused = tool.current_dir(scratch.path()).fails_with(1)?;
        ensure!(
            refused
                .stderr
                .contains("usnap: cannot write to standard output"),
            "{output}: {refused}"
        );
        ensure!(!scratch.join("c.cow").exists(), "{output}");
    }
    Ok(())
}

/// The server took it over, said nothing, and could never be reached.
#[test]
fn a_passed_socket_that_does_not_listen_is_refused() -> Result<()> {
    if missing(&[Need::PythonModule("socket")])? {
        return Ok(());
    }
    let scratch = place("passed")?;
    let script = r#"
import os, socket, sys
s = socket.socket(getattr(socket, sys.argv[2])); s.bind("s" if sys.argv[2] == "AF_UNIX" else ("127.0.0.1", 0))
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], [sys.argv[1], "serve", "disk.img", "--cow", "c.cow"])
"#;
    for family in ["AF_UNIX", "AF_INET"] {
        let tool = Tool::new("/usr/bin/python3").args(["-c", script, LAB.program(), family]);
        let refused = tool
            .current_dir(scratch.path())
            .limit(LIMIT)
            .fails_with(1)?;
        ensure!(
            refused
                .stderr
                .contains("socket 0 of LISTEN_FDS: it does not listen"),
            "{refused}"
        );
        ensure!(!scratch.join("c.cow").exists());
    }
    Ok(())
}
