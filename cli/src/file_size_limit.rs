//! The limit of file sizes (`ulimit -f`, and the end of what a filesystem can address): a write
//! behind it is to be an error of that write, which is told as "no space", and not our end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGXFSZ;

/// Has the system report such a write. The signal that it sends as well is caught, not ignored:
/// commands that we start get it back as it was.
pub(crate) fn make_an_error() {
    // Nobody looks at the flag; a signal that is caught ends nothing.
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))) {
        // It is before the log begins, and no reason not to go on.
        crate::output::say(format_args!("usnap: cannot catch SIGXFSZ: {error}"));
    }
}
