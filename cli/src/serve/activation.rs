//! Whether a service manager passed sockets (sd_listen_fds(3)).

use rustix::process::getpid;

/// Whether it passed any to this very process.
pub(crate) fn activated() -> bool {
    number("LISTEN_PID") == Some(getpid().as_raw_pid()) && number("LISTEN_FDS") > Some(0)
}

fn number(variable: &str) -> Option<i32> {
    std::env::var(variable).ok()?.parse().ok()
}
