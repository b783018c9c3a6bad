//! `usnap serve` as a process: when it is ready, where it listens, how it ends, and what it leaves.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use usnap_nbd::proto::client::ClientOptions;
use usnap_nbd::proto::client::blocking::Client;
use usnap_test_support::tool::wait;
use usnap_test_support::{Lab, Need, Scratch, Tool, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const LIMIT: Duration = Duration::from_secs(20);

/// A server started in a folder, with the line it printed when ready.
struct Started {
    child: Child,
    uri: String,
}

impl Started {
    fn new(folder: &Path, words: &str) -> Result<Self> {
        let mut command = Command::new(LAB.program());
        command
            .arg("serve")
            .args(words.split_whitespace())
            .current_dir(folder);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut started = Self {
            child: child.spawn()?,
            uri: String::new(),
        };
        let stdout = started
            .child
            .stdout
            .as_mut()
            .context("no standard output")?;
        BufReader::new(stdout).read_line(&mut started.uri)?;
        if started.uri.is_empty() {
            started.child.wait()?;
            anyhow::bail!("not ready: {}", started.log()?);
        }
        Ok(started)
    }

    fn socket(&self) -> Result<PathBuf> {
        let socket = self.uri.trim_end().split("socket=").nth(1);
        Ok(PathBuf::from(
            socket.with_context(|| format!("no socket in {}", self.uri))?,
        ))
    }

    fn client(&self) -> Result<Client<UnixStream>> {
        let stream = UnixStream::connect(self.socket()?)?;
        Ok(Client::connect(stream, ClientOptions::new(""))?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// The exit code, and what was on standard output behind the first line.
    fn ended(&mut self) -> Result<(Option<i32>, String)> {
        let status = wait(&mut self.child, LIMIT)?.context("it does not end")?;
        let mut rest = String::new();
        self.child
            .stdout
            .as_mut()
            .context("no standard output")?
            .read_to_string(&mut rest)?;
        Ok((status.code(), rest))
    }

    fn log(&mut self) -> Result<String> {
        let mut log = String::new();
        self.child
            .stderr
            .as_mut()
            .context("no standard error")?
            .read_to_string(&mut log)?;
        Ok(log)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn place(name: &str) -> Result<Scratch> {
    // Sockets need short paths, which a target folder may not have.
    let scratch = Scratch::new(Path::new("/tmp"), &format!("usnap-cli-{name}"))?;
    scratch.sparse_file("disk.img", 8 << 20)?;
    Ok(scratch)
}

#[test]
fn the_ready_line_is_the_uri_and_all_there_is_on_standard_output() -> Result<()> {
    let scratch = place("ready")?;
    let mut server = Started::new(scratch.path(), "disk.img --read-only --socket s --name a/b")?;
    let socket = scratch.path().canonicalize()?.join("s");
    ensure!(
        server.uri == format!("nbd+unix:///a/b?socket={}\n", socket.display())
            || server.uri == format!("nbd+unix:///a%2Fb?socket={}\n", socket.display()),
        "{}",
        server.uri
    );
    ensure!(server.client()?.negotiated().size_bytes == 8 << 20);
    server.signal(Signal::TERM)?;
    ensure!(server.ended()? == (Some(0), String::new()));
    ensure!(!socket.exists(), "the socket is left behind");
    Ok(())
}

#[test]
fn the_default_socket_is_private_and_goes_away_with_its_folder() -> Result<()> {
    let scratch = place("private")?;
    for words in ["disk.img -r", "disk.img -r -U -"] {
        let mut server = Started::new(scratch.path(), words)?;
        let socket = server.socket()?;
        let folder = socket.parent().context("a folder")?.to_owned();
        let mode = |path: &Path| std::fs::metadata(path).map(|m| m.permissions().mode() & 0o777);
        ensure!(
            mode(&socket)? == 0o600 && mode(&folder)? == 0o700,
            "{words}"
        );
        server.signal(Signal::INT)?;
        ensure!(server.ended()?.0 == Some(0), "{words}");
        ensure!(!folder.exists(), "{words}: the folder is left behind");
    }
    Ok(())
}

#[test]
fn tcp_listens_on_loopback_and_tells_the_port() -> Result<()> {
    let scratch = place("tcp")?;
    let server = Started::new(scratch.path(), "disk.img -r --listen :0 --name x")?;
    let address = server
        .uri
        .trim_end()
        .strip_prefix("nbd://")
        .context("a TCP URI")?;
    let address = address.strip_suffix("/x").context("the export's name")?;
    ensure!(
        address.starts_with("127.0.0.1:") && !address.ends_with(":0"),
        "{address}"
    );
    let stream = std::net::TcpStream::connect(address)?;
    let client = Client::connect(stream, ClientOptions::new("x"))?;
    ensure!(client.negotiated().size_bytes == 8 << 20);
    Ok(())
}

#[test]
fn a_cow_is_created_when_absent_and_what_was_written_is_there_the_next_time() -> Result<()> {
    let scratch = place("cow")?;
    let words = "disk.img --cow c.cow --cow-size 4M --chunk-size 16K --commit-interval 0";
    let mut first = Started::new(scratch.path(), words)?;
    ensure!(std::fs::metadata(scratch.join("c.cow"))?.len() == 4 << 20);
    let mut client = first.client()?;
    ensure!(
        client
            .negotiated()
            .block_sizes
            .is_some_and(|sizes| sizes.preferred == 16 << 10)
    );
    client.write_at(&[0xab; 5000], 12_345, false)?;
    first.signal(Signal::TERM)?;
    ensure!(first.ended()?.0 == Some(0));

    let second = Started::new(scratch.path(), words)?;
    let mut read = vec![0; 5002];
    second.client()?.read_at(&mut read, 12_344)?;
    ensure!(read[0] == 0 && read[5001] == 0 && read[1..5001].iter().all(|byte| *byte == 0xab));
    let origin = std::fs::read(scratch.join("disk.img"))?;
    ensure!(
        origin.iter().all(|byte| *byte == 0),
        "the origin was written to"
    );
    Ok(())
}

#[test]
fn the_timer_commits_without_a_flush() -> Result<()> {
    let scratch = place("timer")?;
    let server = Started::new(scratch.path(), "disk.img --cow c.cow --commit-interval 0.1")?;
    server.client()?.write_at(&[1; 4096], 0, false)?;
    let committed = || -> Result<bool> {
        // The file itself, not the server's word.
        let said = LAB.usnap(&["dump"]).arg(scratch.join("c.cow")).ok()?;
        Ok(said.ends_with("0 -> 2\nend 1\n"))
    };
    for _ in 0..100 {
        if committed()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("not committed after 5 s")
}

#[test]
fn transient_changes_are_gone_at_exit() -> Result<()> {
    let scratch = place("transient")?;
    let words = "disk.img --transient --ram-limit 1M";
    let mut server = Started::new(scratch.path(), words)?;
    let mut client = server.client()?;
    client.write_at(&[7; 4096], 4096, true)?;
    let mut read = [0; 4096];
    client.read_at(&mut read, 4096)?;
    ensure!(read == [7; 4096]);
    ensure!(
        client.write_at(&[7; 2 << 20], 0, false).is_err(),
        "more than the limit was taken"
    );
    server.signal(Signal::TERM)?;
    ensure!(server.ended()?.0 == Some(0));
    let left = std::fs::read_dir(scratch.path())?.count();
    ensure!(left == 1, "{left} files");
    Started::new(scratch.path(), words)?
        .client()?
        .read_at(&mut read, 4096)?;
    ensure!(read == [0; 4096]);
    Ok(())
}

#[test]
fn status_asks_the_live_server_and_says_when_there_is_none() -> Result<()> {
    let scratch = place("status")?;
    let cow = scratch.join("c.cow");
    let mut server = Started::new(scratch.path(), "disk.img --cow c.cow --commit-interval 0")?;
    let mut client = server.client()?;
    client.write_at(&[1; 8192], 0, false)?;
    let pid = server.child.id();
    let live = LAB.usnap(&["status"]).arg(&cow).ok()?;
    ensure!(
        live.starts_with("32/") && live.contains(&format!("served by process {pid}:")),
        "{live}"
    );
    ensure!(live.contains("2 not yet committed"), "{live}");
    let json = LAB.usnap(&["status", "--json"]).arg(&cow).ok()?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(
        json["server"]["pid"] == pid && json["exceptions_uncommitted"] == 2,
        "{json}"
    );
    server.signal(Signal::TERM)?;
    ensure!(server.ended()?.0 == Some(0));
    let rest = LAB.usnap(&["status"]).arg(&cow).ok()?;
    ensure!(
        rest.starts_with("32/") && rest.contains("no server answers"),
        "{rest}"
    );
    ensure!(rest.contains("2 exceptions, room"), "{rest}");
    Ok(())
}

#[test]
fn a_cow_in_use_is_refused_and_the_holder_named() -> Result<()> {
    let scratch = place("in-use")?;
    let server = Started::new(scratch.path(), "disk.img --cow c.cow")?;
    let second = LAB
        .usnap(&["serve", "disk.img", "--cow", "c.cow"])
        .current_dir(scratch.path());
    let refused = second.fails_with(1)?;
    ensure!(
        refused.stderr.contains(&server.child.id().to_string()),
        "{refused}"
    );
    Ok(())
}

#[test]
fn run_has_the_variables_and_its_exit_status_is_ours() -> Result<()> {
    let scratch = place("run")?;
    let script = r#"printf '%s|%s|%s\n' "$uri" "$unixsocket" "$exportname"; test -S "$unixsocket" || exit 9; exit 42"#;
    let tool = LAB.usnap(&["serve", "disk.img", "-r", "--name", "e", "--run", script]);
    let output = tool.current_dir(scratch.path()).fails_with(42)?;
    let fields: Vec<&str> = output.stdout.trim_end().split('|').collect();
    ensure!(fields.len() == 3 && fields[2] == "e", "{output}");
    ensure!(
        fields[0] == format!("nbd+unix:///e?socket={}", fields[1]),
        "{output}"
    );
    Ok(())
}

#[test]
fn the_command_of_run_inherits_nothing_but_the_standard_descriptors() -> Result<()> {
    let scratch = place("fds")?;
    let script = "ls -l /proc/self/fd | tail -n +2 | wc -l";
    // What the test itself has inherited goes through.
    let direct = Tool::new("/bin/sh").args(["-c", script]).ok()?;
    let tool = LAB.usnap(&["serve", "disk.img", "--cow", "c.cow", "--run", script]);
    let output = tool.current_dir(scratch.path()).ok()?;
    ensure!(output == direct, "{output} instead of {direct}");
    Ok(())
}

#[test]
fn sigterm_ends_the_command_of_run_with_all_its_children() -> Result<()> {
    let scratch = place("run-term")?;
    let script = "sleep 100 & echo $! >pid; echo nbd; wait";
    let mut command = Command::new(LAB.program());
    command
        .args(["serve", "disk.img", "-r", "--run", script])
        .current_dir(scratch.path());
    let mut server = Started::spawn(command)?;
    server.signal(Signal::TERM)?;
    ensure!(server.ended()?.0 == Some(128 + 15));
    let pid: i32 = std::fs::read_to_string(scratch.join("pid"))?
        .trim()
        .parse()?;
    for _ in 0..100 {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("process {pid} goes on")
}

#[test]
fn the_pid_file_is_there_when_ready_and_gone_at_the_end() -> Result<()> {
    let scratch = place("pid")?;
    let path = scratch.join("usnap.pid");
    let mut server = Started::new(scratch.path(), "disk.img -r --pid-file usnap.pid")?;
    ensure!(std::fs::read_to_string(&path)? == format!("{}\n", server.child.id()));
    server.signal(Signal::TERM)?;
    ensure!(server.ended()?.0 == Some(0));
    ensure!(!path.exists());
    Ok(())
}

#[test]
fn no_pid_file_is_written_by_a_server_that_does_not_get_ready() -> Result<()> {
    let scratch = place("no-pid")?;
    let socket = std::os::unix::net::UnixListener::bind(scratch.join("s"))?;
    let words = [
        "serve",
        "disk.img",
        "-r",
        "--socket",
        "s",
        "--pid-file",
        "usnap.pid",
    ];
    let refused = LAB
        .usnap(&words)
        .current_dir(scratch.path())
        .fails_with(1)?;
    ensure!(
        refused.stderr.contains("a server listens there already"),
        "{refused}"
    );
    ensure!(refused.stderr.contains("\nhint: "), "{refused}");
    ensure!(!scratch.join("usnap.pid").exists());
    drop(socket);
    Ok(())
}

#[test]
fn single_serves_its_standard_input_and_output() -> Result<()> {
    let scratch = place("single")?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new(LAB.program())
        .args(["serve", "disk.img", "--cow", "c.cow", "--single"])
        .current_dir(scratch.path())
        .stdin(std::os::fd::OwnedFd::from(theirs.try_clone()?))
        .stdout(std::os::fd::OwnedFd::from(theirs))
        .stderr(Stdio::null())
        .spawn()?;
    let mut client = Client::connect(ours, ClientOptions::new(""))?;
    client.write_at(&[5; 512], 512, false)?;
    drop(client.disconnect()?);
    ensure!(
        wait(&mut child, LIMIT)?
            .context("it does not end")?
            .success()
    );
    let status = LAB.status_line(&scratch.join("c.cow"))?;
    ensure!(status.starts_with("24/"), "{status}");
    Ok(())
}

#[test]
fn a_server_ends_with_its_parent() -> Result<()> {
    let scratch = place("parent")?;
    let script = "\"$0\" serve disk.img --cow c.cow --exit-with-parent --pid-file p >/dev/null 2>&1 & \
                  for i in $(seq 200); do test -s p && break; sleep 0.05; done; cat p";
    let parent = Tool::new("bash").args(["-c", script, LAB.program()]);
    let pid: i32 = parent.current_dir(scratch.path()).ok()?.trim().parse()?;
    for _ in 0..200 {
        // Its pid file goes away when it ends in order.
        if !scratch.join("p").exists() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(pid) = Pid::from_raw(pid) {
        kill_process(pid, Signal::KILL)?;
    }
    anyhow::bail!("the server goes on without its parent")
}

#[test]
fn a_service_managers_sockets_are_taken_over_and_it_is_told_when_ready() -> Result<()> {
    if missing(&[Need::PythonModule("socket")])? {
        return Ok(());
    }
    let scratch = place("activated")?;
    let notify = std::os::unix::net::UnixDatagram::bind(scratch.join("notify"))?;
    notify.set_read_timeout(Some(LIMIT))?;
    // What systemd does: the socket as descriptor 3, and the pid of the very process.
    let script = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind("s"); s.listen()
os.dup2(s.fileno(), 3)
if s.fileno() != 3: s.close()
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), NOTIFY_SOCKET=os.path.abspath("notify"))
os.execv(sys.argv[1], [sys.argv[1], "serve", "disk.img", "-r"])
"#;
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-c", script, LAB.program()])
        .current_dir(scratch.path());
    let mut server = Started::spawn(command)?;
    let mut message = [0; 64];
    let len = notify.recv(&mut message)?;
    ensure!(message[..len].starts_with(b"READY=1"));
    let stream = UnixStream::connect(scratch.join("s"))?;
    ensure!(
        Client::connect(stream, ClientOptions::new(""))?
            .negotiated()
            .size_bytes
            == 8 << 20
    );
    server.signal(Signal::TERM)?;
    ensure!(server.ended()?.0 == Some(0));
    ensure!(
        scratch.join("s").exists(),
        "the service manager's socket was removed"
    );
    Ok(())
}

#[test]
fn a_second_signal_ends_at_once() -> Result<()> {
    let scratch = place("second-signal")?;
    let mut server = Started::new(scratch.path(), "disk.img -r --socket s")?;
    let mut stream = UnixStream::connect(scratch.join("s"))?;
    let client = Client::connect(stream.try_clone()?, ClientOptions::new(""))?;
    // The beginning of a request: an end in order waits a while for the rest.
    stream.write_all(&[0x25, 0x60])?;
    std::thread::sleep(Duration::from_millis(50));
    server.signal(Signal::TERM)?;
    std::thread::sleep(Duration::from_millis(50));
    server.signal(Signal::TERM)?;
    ensure!(server.ended()?.0 == Some(1));
    let log = server.log()?;
    ensure!(
        log.contains("usnap: cannot end in order: told to end at once"),
        "{log}"
    );
    drop(client);
    Ok(())
}

#[test]
fn the_level_of_the_log_is_what_was_typed_before_what_the_environment_says() -> Result<()> {
    let scratch = place("level")?;
    let run = |words: &[&str], env: &str| -> Result<String> {
        let tool = LAB.usnap(&["serve", "disk.img", "--transient", "--run", "true"]);
        let tool = tool
            .args(words)
            .env("USNAP_LOG", env)
            .current_dir(scratch.path());
        Ok(tool.fails_with(0)?.stderr)
    };
    ensure!(run(&[], "info")?.contains("INFO"));
    ensure!(run(&[], "warn")?.is_empty());
    ensure!(run(&["-v"], "off")?.contains("INFO"));
    ensure!(run(&["--log-level", "error"], "debug")?.is_empty());
    Ok(())
}

#[test]
fn the_log_can_be_json() -> Result<()> {
    let scratch = place("log")?;
    let mut server = Started::new(scratch.path(), "disk.img --cow c.cow --log-format json")?;
    server.signal(Signal::TERM)?;
    ensure!(server.ended()?.0 == Some(0));
    let log = server.log()?;
    ensure!(!log.is_empty());
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line)?;
        ensure!(
            event["level"].is_string() && event["message"].is_string(),
            "{line}"
        );
    }
    Ok(())
}
