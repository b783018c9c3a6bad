//! An export that was removed, while its connections end.

use std::fmt;

use super::{Export, Offered};
use crate::server::{CUT_TIMEOUT, Limits};

/// An export that clients no longer get.
pub struct Removed {
    offered: Offered,
}

impl Removed {
    pub(super) fn new(offered: Offered) -> Self {
        Self { offered }
    }

    /// The export.
    #[must_use]
    pub fn export(&self) -> &Export {
        &self.offered.export
    }

    /// How many connections still have it.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.offered.closing.count()
    }

    /// Waits on the calling thread until no connection has it: as long as at a server's end, and
    /// with the same means, `limits.shutdown_grace` for what is half sent and
    /// `limits.shutdown_timeout` for the rest; then those that are left are cut. Returns whether
    /// all are gone: one whose request the device does not finish is not waited for.
    #[must_use = "a connection that is left still uses the device"]
    pub fn wait(&self, limits: &Limits) -> bool {
        let closing = &self.offered.closing;
        if closing.wait_until_empty(limits.shutdown_grace) {
            return true;
        }
        closing.end_inputs();
        if closing.wait_until_empty(limits.shutdown_timeout) {
            return true;
        }
        let count = closing.cut();
        tracing::warn!(
            count,
            export = self.export().name(),
            "cutting connections of a removed export that did not end in time"
        );
        closing.wait_until_empty(CUT_TIMEOUT)
    }
}

impl fmt::Debug for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removed")
            .field("export", self.export())
            .field("connection_count", &self.connection_count())
            .finish()
    }
}
