//! What lies between the engine and the medium: nothing, or a device that breaks one rule. It bends
//! the log of what the engine did, so the engine is the real one in every case.

use usnap_engine::sim::Event;

/// Passes events on, not all of them or not in order.
pub(crate) trait Stream {
    /// What becomes of one event, appended to `out`.
    fn pass(&mut self, event: Event, out: &mut Vec<Event>);

    /// The engine has done what its client asked for: what is held back until then ends.
    fn end_of_call(&mut self, _out: &mut Vec<Event>) {}
}

/// The honest one.
pub(crate) struct Obedient;

impl Stream for Obedient {
    fn pass(&mut self, event: Event, out: &mut Vec<Event>) {
        out.push(event);
    }
}

/// A flush that covers everything before it: of a bent log the numbers are not the engine's.
pub(crate) const FLUSH: Event = Event::Flush { covers: u64::MAX };

/// Tells areas from data.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) chunk_len: usize,
}

impl Places {
    fn chunk(self, event: &Event) -> Option<u64> {
        Some(event.range()?.0 / self.chunk_len as u64)
    }

    pub(crate) fn is_area(self, event: &Event) -> bool {
        let stride = self.chunk_len as u64 / 16 + 1;
        self.chunk(event).is_some_and(|chunk| chunk % stride == 1)
    }

    pub(crate) fn is_data(self, event: &Event) -> bool {
        self.chunk(event).is_some_and(|chunk| chunk > 1) && !self.is_area(event)
    }

    pub(crate) fn is_same_area(self, one: &Event, other: &Event) -> bool {
        self.is_area(one) && self.chunk(one) == self.chunk(other)
    }
}
