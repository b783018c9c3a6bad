//! When to look for the next request for a moment before falling asleep.
//!
//! A client with one request in flight sends the next one some microseconds after it has its
//! answer. To fall asleep and be woken takes longer than that, above all in a virtual machine, and
//! costs as much processor time as looking. So while a client behaves like that, and as long as
//! looking succeeds, it is looked for, giving way to whoever else has something to do. With more
//! requests in flight there is less to gain: the time would be paid for by each of them.

use std::time::Duration;

/// How long to look: longer than a client takes to be woken and to send the next one, not much
/// longer than falling asleep and being woken takes.
pub(super) const LOOK: Duration = Duration::from_micros(25);

/// This many batches of one request in a row make a client that waits for each answer.
const LONE_BATCHES: u32 = 16;

/// The most batches without looking, after it was in vain again and again: so a client that is
/// slow costs next to nothing, and one that becomes quick is noticed.
const MOST_SKIPPED: u32 = 1024;

/// How a client's requests came lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    lone_batches: u32,
    /// Batches to go until looking is tried again.
    skip: u32,
    /// How many to skip when it is in vain the next time.
    next_skip: u32,
}

impl Pace {
    /// Takes note of a batch; whether to look for the next one.
    #[inline]
    pub(super) fn batch(&mut self, requests: u32) -> bool {
        self.lone_batches = if requests == 1 {
            self.lone_batches.saturating_add(1)
        } else {
            0
        };
        if !self.is_quick() {
            return false;
        }
        let look = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        look
    }

    /// Whether the client waits for each answer.
    #[inline]
    pub(super) fn is_quick(&self) -> bool {
        self.lone_batches >= LONE_BATCHES
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
    fn looks(pace: &mut Pace, batches: u32, requests: u32, found: bool) -> u32 {
        let mut looks = 0;
        for _ in 0..batches {
            if pace.batch(requests) {
                looks += 1;
                pace.looked(found);
            }
        }
        looks
    }

    #[test]
    fn a_client_that_waits_for_each_answer_is_looked_for_while_that_succeeds() {
        let mut pace = Pace::default();
        assert_eq!(looks(&mut pace, 1000, 1, true), 1000 - 15);
    }

    #[test]
    fn a_client_with_several_requests_in_flight_is_not_looked_for() {
        let mut pace = Pace::default();
        assert_eq!(looks(&mut pace, 1000, 2, true), 0);
        for _ in 0..100 {
            assert_eq!(
                looks(&mut pace, 10, 1, true) + looks(&mut pace, 1, 3, true),
                0
            );
        }
    }

    #[test]
    fn looking_in_vain_is_given_up_and_tried_again_seldom() {
        let mut pace = Pace::default();
        let looks_at_first = looks(&mut pace, 10_000, 1, false);
        assert!((10..=25).contains(&looks_at_first), "{looks_at_first}");
        let looks_later = looks(&mut pace, 10_000, 1, false);
        assert!((9..=10).contains(&looks_later), "{looks_later}");
        // When the client is quick again, so is this.
        assert!(looks(&mut pace, 3000, 1, true) > 1500);
    }

    #[test]
    fn one_late_request_among_many_costs_one_look() {
        let mut pace = Pace::default();
        looks(&mut pace, 100, 1, true);
        for _ in 0..100 {
            assert!(pace.batch(1));
            pace.looked(false);
            assert!(!pace.batch(1));
            assert_eq!(looks(&mut pace, 10, 1, true), 10);
        }
    }
}
