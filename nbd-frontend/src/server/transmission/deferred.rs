//! The requests that are answered when the device was flushed: flushes, and writes with FUA.

use super::super::limits::DEFERRED_REPLIES;
use crate::proto::Request;

/// Requests that wait for a flush; a bounded list whose memory is kept.
#[derive(Debug)]
pub(super) struct Deferred {
    requests: Vec<Request>,
}

impl Deferred {
    pub(super) fn new() -> Self {
        Self {
            requests: Vec::with_capacity(DEFERRED_REPLIES),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.requests.len() >= DEFERRED_REPLIES
    }

    pub(super) fn push(&mut self, request: &Request) {
        self.requests.push(*request);
    }

    pub(super) fn first(&self) -> Option<&Request> {
        self.requests.first()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter()
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
    }
}
