//! The story of a run, written down as it happens: what was asked and answered, when flushes began
//! and which mark stands behind them in the disk's log. From it follows what may be found after a
//! power cut at any place of that log.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use usnap_test_support::Rng;

use crate::written::{Change, Content, Written};

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A change is about to be sent.
    Begun { id: u64, what: Planned },
    /// It was answered as done.
    Done { id: u64 },
    /// A flush is about to be sent.
    Flushing { number: u64 },
    /// It was answered as done, and the mark of its number is in the log.
    Marked { number: u64 },
}

/// A change that can be made again from a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) seed: u64,
}

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    Zero,
    Trim,
}

impl Planned {
    pub(crate) fn change(&self) -> Change {
        let content = match self.kind {
            Kind::Write => Content::Bytes(Rng::new(self.seed).bytes(self.len)),
            Kind::Zero => Content::Zeros,
            Kind::Trim => Content::Perhaps,
        };
        Change::new(self.at, self.len, content)
    }
}

/// The events, in their order.
#[derive(Default)]
pub(crate) struct Story(Mutex<Vec<Event>>);

impl Story {
    pub(crate) fn note(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for event in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Writing to a string does not fail.
            let _ = match event {
                Event::Begun { id, what } => {
                    let Planned {
                        kind,
                        at,
                        len,
                        seed,
                    } = what;
                    writeln!(text, "begun {id} {kind:?} {at} {len} {seed}")
                }
                Event::Done { id } => writeln!(text, "done {id}"),
                Event::Flushing { number } => writeln!(text, "flushing {number}"),
                Event::Marked { number } => writeln!(text, "marked {number}"),
            };
        }
        std::fs::write(path, text).context("cannot write the story")
    }

    pub(crate) fn load(path: &Path) -> Result<Vec<Event>> {
        let text = std::fs::read_to_string(path).context("cannot read the story")?;
        text.lines()
            .map(|line| event(line).with_context(|| line.to_owned()))
            .collect()
    }
}

fn event(line: &str) -> Result<Event> {
    let words: Vec<&str> = line.split(' ').collect();
    let number =
        |index: usize| -> Result<u64> { Ok(words.get(index).context("too few words")?.parse()?) };
    Ok(match words[0] {
        "begun" => {
            let kind = match words[2] {
                "Write" => Kind::Write,
                "Zero" => Kind::Zero,
                "Trim" => Kind::Trim,
                other => bail!("no kind: {other}"),
            };
            let what = Planned {
                kind,
                at: usize::try_from(number(3)?)?,
                len: usize::try_from(number(4)?)?,
                seed: number(5)?,
            };
            Event::Begun {
                id: number(1)?,
                what,
            }
        }
        "done" => Event::Done { id: number(1)? },
        "flushing" => Event::Flushing { number: number(1)? },
        "marked" => Event::Marked { number: number(1)? },
        other => bail!("no event: {other}"),
    })
}

/// What a device that held `origin` may hold after a cut behind the mark `flushed` and not behind the
/// next one: all that was answered before that flush began, and any of what was asked until then.
pub(crate) fn after_a_cut(origin: &[u8], story: &[Event], flushed: u64) -> Result<Written> {
    let mut written = Written::new(origin.to_vec());
    let mut ids = std::collections::HashMap::new();
    let mut behind = false;
    for event in story {
        match event {
            Event::Begun { id, what } => {
                let number = written.begin(&what.change()).context("two at once")?;
                ids.insert(*id, number);
            }
            Event::Done { id } => {
                let number = ids.remove(id).context("done before it began")?;
                if behind {
                    written.refused(number);
                } else {
                    written.done(number);
                }
            }
            Event::Flushing { number } => behind |= *number == flushed,
            Event::Marked { number } if *number == flushed + 1 => break,
            Event::Marked { .. } => {}
        }
    }
    written.cut_off();
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_makes_certain_what_was_answered_before_it_began() {
        let write = |seed, at| Planned {
            kind: Kind::Write,
            at,
            len: 512,
            seed,
        };
        let story = Story::default();
        let (first, late) = (write(1, 0), write(2, 512));
        for event in [
            Event::Begun { id: 1, what: first },
            Event::Done { id: 1 },
            Event::Begun { id: 2, what: late },
            Event::Flushing { number: 1 },
            Event::Done { id: 2 },
            Event::Marked { number: 1 },
            Event::Flushing { number: 2 },
            Event::Marked { number: 2 },
        ] {
            story.note(event);
        }
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("story");
        story.save(&path).unwrap();
        let story = Story::load(&path).unwrap();

        let origin = [0_u8; 1024];
        let without_late = [Rng::new(1).bytes(512), vec![0; 512]].concat();
        let with_late = [Rng::new(1).bytes(512), Rng::new(2).bytes(512)].concat();
        let first = after_a_cut(&origin, &story, 1).unwrap();
        assert!(first.judge(&without_late).is_empty());
        assert!(first.judge(&with_late).is_empty());
        assert_eq!(first.judge(&origin).len(), 1);
        let second = after_a_cut(&origin, &story, 2).unwrap();
        assert_eq!(second.judge(&without_late).len(), 1);
        assert!(second.judge(&with_late).is_empty());
    }
}
