//! What the device is made of, in the contexts that the client selected.

use usnap_engine::Result as DeviceResult;
use usnap_engine::device::Extent;

use super::{End, Transmission};
use crate::proto::consts::{STATE_HOLE, STATE_ZERO};
use crate::proto::{Context, Request};
use crate::server::limits::{STATUS_EXTENTS, STATUS_LOOKS};

impl Transmission<'_> {
    /// Describes the range from its start on, as far as it is looked through.
    pub(super) fn block_status(
        &mut self,
        request: &Request,
        len: u64,
        req_one: bool,
    ) -> Result<(), End> {
        let most = if req_one { 1 } else { STATUS_EXTENTS };
        if let Err(error) = self.find_extents(request.offset, len, most)? {
            self.answers.fail_with(request, &error);
            return Ok(());
        }
        self.status.clear();
        let (cookie, offset) = (request.cookie, request.offset);
        let mut reply =
            self.connection
                .replies
                .block_status(&mut self.status, cookie, offset, len, req_one);
        let mut contexts = self.negotiated.contexts.iter().peekable();
        while let Some((id, context)) = contexts.next() {
            reply.begin(id);
            for extent in &self.extents {
                if !reply.push(extent.len, flags(extent, context)) {
                    break;
                }
            }
            reply.finish(contexts.peek().is_none());
        }
        let status = std::mem::take(&mut self.status);
        self.answers.add(&status);
        self.status = status;
        Ok(())
    }

    /// Looks up at most `most` extents, neighbours that are told alike joined.
    fn find_extents(
        &mut self,
        offset: u64,
        len: u64,
        most: usize,
    ) -> Result<DeviceResult<()>, End> {
        self.extents.clear();
        let mut done = 0;
        for _ in 0..STATUS_LOOKS {
            if done >= len {
                break;
            }
            self.answers.check_cut()?;
            let found = self.connection.device.extent_at(offset + done, len - done);
            let mut extent = match found {
                Ok(extent) => extent,
                Err(error) => return Ok(Err(error)),
            };
            // A device that breaks its promise of progress must not stop ours.
            extent.len = extent.len.clamp(1, len - done);
            let contexts = self.negotiated.contexts.iter();
            let is_full = self.extents.len() == most;
            match self.extents.last_mut() {
                Some(last) if are_alike(last, &extent, contexts) => last.len += extent.len,
                _ if is_full => break,
                _ => self.extents.push(extent),
            }
            done += extent.len;
        }
        Ok(Ok(()))
    }
}

/// Whether two extents are told alike in all of these contexts.
fn are_alike(
    one: &Extent,
    other: &Extent,
    mut contexts: impl Iterator<Item = (u32, Context)>,
) -> bool {
    contexts.all(|(_, context)| flags(one, context) == flags(other, context))
}

/// An extent's flags in a context. A hole is told only where it reads as zeros: "contents are not
/// guaranteed" otherwise, and clients would leave out the origin's data.
fn flags(extent: &Extent, context: Context) -> u64 {
    match context {
        Context::BaseAllocation => {
            let zero = if extent.zero { STATE_ZERO } else { 0 };
            let hole = if extent.zero && extent.hole {
                STATE_HOLE
            } else {
                0
            };
            u64::from(zero | hole)
        }
        Context::AllocationDepth => u64::from(extent.depth),
    }
}
