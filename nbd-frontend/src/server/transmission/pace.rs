//! When to look for the next request for a moment before falling asleep.
//!
//! A server that answers faster than its client asks would fall asleep after each request, and its
//! client would wake it for each: both are system calls and interrupts of the other processor,
//! above all in a virtual machine, and together take longer than most requests. So the next one is
//! looked for first, as long as that succeeds, and giving way to whoever has something to do.
//! Measured (4 KiB reads, one client, two processors): a half more of them with one in flight, a
//! fifth more with 32, for the same processor time.

use std::time::Duration;

/// How long to look: longer than a client takes to be woken and to send the next one, not much
/// longer than falling asleep and being woken takes.
pub(super) const LOOK: Duration = Duration::from_micros(25);

/// The most batches without looking, after it was in vain again and again: so a client that is
/// slow costs next to nothing, and one that becomes quick is noticed.
const MOST_SKIPPED: u32 = 1024;

/// How a client's requests came lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Batches to go until looking is tried again.
    skip: u32,
    /// How many to skip when it is in vain the next time.
    next_skip: u32,
}

impl Pace {
    /// Whether to look for the next batch.
    #[inline]
    pub(super) fn is_quick(&mut self) -> bool {
        let quick = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        quick
    }

    /// Takes note of what came of looking.
    #[inline]
    pub(super) fn looked(&mut self, found: bool) {
        if found {
            self.next_skip = 1;
        } else {
            self.skip = self.next_skip.max(1);
            self.next_skip = (self.skip * 2).min(MOST_SKIPPED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a client is looked for in that many batches.
    fn looks(pace: &mut Pace, batches: u32, found: bool) -> u32 {
        let mut looks = 0;
        for _ in 0..batches {
            if pace.is_quick() {
                looks += 1;
                pace.looked(found);
            }
        }
        looks
    }

    #[test]
    fn a_client_is_looked_for_while_that_succeeds() {
        assert_eq!(looks(&mut Pace::default(), 1000, true), 1000);
    }

    #[test]
    fn looking_in_vain_is_given_up_and_tried_again_seldom() {
        let mut pace = Pace::default();
        let looks_at_first = looks(&mut pace, 10_000, false);
        assert!((10..=25).contains(&looks_at_first), "{looks_at_first}");
        let looks_later = looks(&mut pace, 10_000, false);
        assert!((9..=10).contains(&looks_later), "{looks_later}");
        // When the client is quick again, so is this.
        assert!(looks(&mut pace, 3000, true) > 1500);
    }

    #[test]
    fn one_late_request_among_many_costs_one_look() {
        let mut pace = Pace::default();
        looks(&mut pace, 100, true);
        for _ in 0..100 {
            assert!(pace.is_quick());
            pace.looked(false);
            assert!(!pace.is_quick());
            assert_eq!(looks(&mut pace, 10, true), 10);
        }
    }
}
