//! Commands that the user gives us to run.

use std::ffi::OsStr;
use std::process::Command;

/// Variables that told us of sockets and readiness; they were for us.
const OURS: [&str; 4] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
];

/// `command`, to be run by a shell. Our descriptors are all close-on-exec.
pub(super) fn shell(command: &OsStr) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    for name in OURS {
        shell.env_remove(name);
    }
    shell
}
