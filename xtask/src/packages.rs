//! The programs that the tests run beside our own, and the Debian packages they come from.

use std::path::Path;
use std::process::{Command, Stdio};

/// How to see that a package is there: a program on the path, a path, or a Python module of the
/// system's own interpreter.
enum Sign {
    Program(&'static str),
    Directory(&'static str),
    PythonModule(&'static str),
}

/// Package and the sign that it is installed.
const NEEDED: &[(&str, Sign)] = &[
    ("busybox", Sign::Program("busybox")),
    ("dmsetup", Sign::Program("dmsetup")),
    ("e2fsprogs", Sign::Program("mke2fs")),
    ("fio", Sign::Program("fio")),
    ("libnbd-bin", Sign::Program("nbdinfo")),
    ("lvm2", Sign::Program("lvm")),
    ("nbd-client", Sign::Program("nbd-client")),
    ("nbd-server", Sign::Program("nbd-server")),
    ("nbdkit", Sign::Program("nbdkit")),
    ("python3-libnbd", Sign::PythonModule("nbd")),
    ("qemu-utils", Sign::Program("qemu-io")),
    ("strace", Sign::Program("strace")),
    ("user-mode-linux", Sign::Directory("/usr/lib/uml/modules")),
    ("valgrind", Sign::Program("valgrind")),
];

/// Installs what is missing, when this is Debian (or near it) and we are root; else prints the one
/// line that would. True when everything is there afterwards.
pub(crate) fn install() -> bool {
    let missing = missing();
    if missing.is_empty() {
        return true;
    }
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        missing.join(" ")
    );
    if !is_root() || find_program("apt-get").is_none() {
        println!("xtask: some tests need programs that are not here; they will be skipped.");
        println!("xtask: on Debian, as root: {line}");
        return false;
    }
    println!("xtask: {line}");
    // The lists of a fresh machine are empty or old, so they are fetched first.
    let installed = apt(&["update", "-q"]) && {
        let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
        arguments.extend(&missing);
        apt(&arguments)
    };
    let left = self::missing();
    if !installed || !left.is_empty() {
        println!(
            "xtask: not installed: {}; tests that need them are skipped",
            left.join(" ")
        );
    }
    left.is_empty()
}

fn missing() -> Vec<&'static str> {
    let absent = |sign: &Sign| match sign {
        Sign::Program(name) => find_program(name).is_none(),
        Sign::Directory(path) => !Path::new(path).is_dir(),
        Sign::PythonModule(name) => !python_has(name),
    };
    NEEDED
        .iter()
        .filter(|(_, sign)| absent(sign))
        .map(|(package, _)| *package)
        .collect()
}

/// Searches `PATH`, and the folders of system programs that a user's `PATH` may lack.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The system's python3 by its full path: a user's own python does not see Debian's modules.
fn python_has(module: &str) -> bool {
    Command::new("/usr/bin/python3")
        .args(["-c", &format!("import {module}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn apt(arguments: &[&str]) -> bool {
    Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
