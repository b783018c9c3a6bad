//! The sockets that a service manager passed, looked at before anything else is done.

use std::os::fd::OwnedFd;

use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::failure::{Failure, Result};

/// The descriptor of the first one (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// Whether a service manager passed sockets to this very process.
pub(crate) fn activated() -> bool {
    number("LISTEN_PID") == Some(getpid().as_raw_pid()) && count() > 0
}

/// Refuses sockets that are bound only: nobody could ever connect, and we would wait for ever.
pub(super) fn refuse_deaf_sockets() -> Result<()> {
    let first = number("LISTEN_FDS_FIRST_FD").unwrap_or(FIRST);
    for index in 0..count() {
        let Some(socket) = duplicate(first.saturating_add(index)) else {
            continue;
        };
        // What is no socket at all is refused where it is taken over.
        if socket_type(&socket).is_ok() && socket_acceptconn(&socket).is_ok_and(|listens| !listens)
        {
            return Err(Failure::new(format!(
                "cannot take over socket {index} of LISTEN_FDS: it does not listen"
            ))
            .with_hint("whoever passes a socket has to call listen(2) on it first"));
        }
    }
    Ok(())
}

/// Ours by its number: what is at a number may be anybody's, so only a duplicate is looked at.
/// `None` where there is nothing, or on a system that can't do that (Linux before 5.6).
fn duplicate(number: i32) -> Option<OwnedFd> {
    let us = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    pidfd_getfd(us, number, PidfdGetfdFlags::empty()).ok()
}

fn count() -> i32 {
    number("LISTEN_FDS").unwrap_or(0)
}

fn number(variable: &str) -> Option<i32> {
    std::env::var(variable).ok()?.parse().ok()
}
