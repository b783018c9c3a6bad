//! Signals that end long work at a safe place: it looks now and then whether it was told to stop. A
//! second signal ends it at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit_code::ExitCode;

/// SIGINT, SIGTERM and SIGHUP, those that are not ignored (nohup, jobs in the background).
pub(crate) struct Interrupt {
    /// The signal that came; 0 for none.
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Takes the signals over: from now on the first one ends nothing by itself.
    pub(crate) fn take() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let is_told = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            if is_ignored(number) {
                continue;
            }
            let status = i32::from(ExitCode::Interrupted(signal_number(number)).code());
            // In this order: the first one arms what the second one meets.
            flag::register_conditional_shutdown(number, status, Arc::clone(&is_told))?;
            flag::register(number, Arc::clone(&is_told))?;
            let value = usize::from(signal_number(number));
            flag::register_usize(number, Arc::clone(&signal), value)?;
        }
        Ok(Self { signal })
    }

    /// Whether to stop.
    pub(crate) fn is_told(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// How the process ends when it has stopped.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let signal = self.signal.load(Ordering::Relaxed);
        ExitCode::Interrupted(u8::try_from(signal).unwrap_or(0))
    }
}

fn signal_number(signal: i32) -> u8 {
    u8::try_from(signal).unwrap_or(0)
}

/// Whether whoever started us had this signal ignored.
pub(crate) fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    // Signal 1 is bit 0.
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::is_ignored;
    use signal_hook::consts::{SIGPIPE, SIGTERM};

    #[test]
    fn what_the_rust_runtime_ignores_is_seen_as_ignored() {
        assert!(is_ignored(SIGPIPE));
        assert!(!is_ignored(SIGTERM));
    }
}
