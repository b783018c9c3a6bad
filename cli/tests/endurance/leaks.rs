//! Whether a server holds no more than it did.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use usnap_test_support::Server;
use usnap_test_support::process_stat::Held;

/// What an allocator keeps of the buffers of many connections at once: it levels off at less, while
/// a leak of the buffers would be several times as much for each wave of clients.
pub(crate) const SLACK_OF_MANY_AT_ONCE_KIB: u64 = 64 << 10;
/// The same where there are few at once: a leak of two kilobytes a connection would be more.
pub(crate) const SLACK_OF_FEW_AT_ONCE_KIB: u64 = 16 << 10;
/// A server may take this long to notice that clients have gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the server holds once it has let go of connections that ended: the least within a while.
pub(crate) fn settled(server: &Server) -> Result<Held> {
    let mut least = Held::by(server.pid())?;
    let mut steady_since = Instant::now();
    while steady_since.elapsed() < Duration::from_millis(500) {
        std::thread::sleep(Duration::from_millis(20));
        let now = Held::by(server.pid())?;
        if now.descriptors < least.descriptors || now.threads < least.threads {
            steady_since = Instant::now();
        }
        least = now;
    }
    Ok(least)
}

/// Expects the server to hold, before long, no more than at `baseline`, but for some memory.
pub(crate) fn nothing_leaked(server: &Server, baseline: Held, slack_kib: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = Held::by(server.pid())?;
        let fine = now.descriptors <= baseline.descriptors
            && now.threads <= baseline.threads
            && now.resident_kib <= baseline.resident_kib + slack_kib;
        if fine {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "the server held {baseline:?} and now holds {now:?}\n{}",
                server.log()?
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
