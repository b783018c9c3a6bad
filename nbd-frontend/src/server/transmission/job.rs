//! What is handed to a worker: a request that waits for a disk, and is answered from there.

use super::End;
use super::answers::Answers;
use super::deferred::Deferred;
use super::read::Patience;
use crate::proto::{Request, RequestKind};
use crate::server::backlog::Pending;
use crate::server::sender::Sender;

/// Work for a connection, off its thread.
pub(in crate::server) struct Job {
    pub(in crate::server) pending: Pending,
    pub(super) work: Work,
}

/// Something that takes its time.
pub(super) enum Work {
    /// A read or cache request whose bytes are not in memory.
    Read(Request),
    /// A flush for all who wait for one.
    Flush(Deferred),
}

impl Job {
    /// Does the work and sends the answers.
    pub(in crate::server) fn run(self, sender: &mut Sender) {
        let mut answers = Answers::new(self.pending.connection(), sender);
        // If the client is gone, its own thread finds out as well.
        _ = answers.perform(&self.work);
        _ = answers.send();
    }
}

impl Answers<'_> {
    /// Does the work, however long it takes, if anybody is there to hear of it.
    pub(super) fn perform(&mut self, work: &Work) -> Result<(), End> {
        match work {
            Work::Read(request) => {
                self.check_wanted()?;
                match request.kind {
                    RequestKind::Read { len, dont_fragment } => self
                        .read(request, len, dont_fragment, Patience::Wait)
                        .map(drop),
                    RequestKind::Cache { len } => self.cache(request, len),
                    _ => Ok(()),
                }
            }
            Work::Flush(deferred) => {
                self.check_cut()?;
                Ok(self.settle(deferred)?)
            }
        }
    }
}
