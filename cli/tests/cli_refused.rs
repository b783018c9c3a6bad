//! What must not cost anybody data, a server or a terminal, however it was typed: each test makes
//! the trap and looks at what is left.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use usnap_test_support::{Lab, Scratch};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

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
    let pipe = usnap_test_support::Tool::new("mkfifo").arg(path("pipe"));
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
