//! Every kill of the real code: a short history is played, and for every word that went to the
//! journal and every sector that went to the COW device, what a SIGKILL at that moment would have left
//! is opened again by the real code. What was acknowledged is there, what was not is old or new.
//! Each of those opens, and a little life after it, is killed at every moment too; and killed while
//! it replays it shows the same as if it had not been.
//!
//! Chunks of 512 bytes, two entries before the end of area 0, and segments of two slots, so that runs
//! are split by metadata and writers wait for commits. Every history of up to three operations is
//! played, up to four with `USNAP_TEST_SCALE=full`; the longer they are, the fewer lives follow.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod cached;
mod film;
mod forgotten;
mod latch;
mod play;
mod threads;

#[path = "../support/random.rs"]
mod random;
#[path = "../support/stores.rs"]
mod stores;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use usnap_engine::device::MemDevice;
use usnap_engine::{Snapshot, SnapshotOptions};

use film::{Event, Film, Left};
use play::{Expected, Operation};

pub(crate) const CHUNK_LEN: usize = 512;
/// Chunks of the origin.
pub(crate) const CHUNKS: usize = 42;
const COW_CHUNKS: usize = 66;
/// Entries that the store has already: old chunk n is the n-th data chunk.
const ENTRIES: u64 = 30;
/// Words of a journal with two slots in each segment.
const WORDS: usize = 40 + 6 * 2;
/// The time stamps, which depend on when the test runs. No kill among them makes a difference here,
/// where the device has no time.
const STAMPS: std::ops::Range<usize> = 16..20;

/// What histories are made of.
const ALPHABET: [Operation; 8] = [
    Operation::Whole {
        chunk: 31,
        count: 1,
    },
    Operation::Part { chunk: 32 },
    // Where area 1 lies, if it comes first.
    Operation::Whole {
        chunk: 33,
        count: 4,
    },
    // It was committed before.
    Operation::Whole { chunk: 5, count: 1 },
    Operation::Zero {
        chunk: 30,
        count: 2,
    },
    Operation::Flush,
    Operation::FailingWrite {
        chunk: 36,
        count: 2,
    },
    Operation::FlushWithoutSpace,
];

/// What is done after a kill, until the next.
const NEXT_LIFE: [Operation; 4] = [
    Operation::Whole {
        chunk: 38,
        count: 2,
    },
    Operation::Part { chunk: 31 },
    Operation::Flush,
    Operation::Whole {
        chunk: 41,
        count: 1,
    },
];

fn origin_bytes() -> Vec<u8> {
    let byte = |at: usize| u8::try_from(200 + at / CHUNK_LEN % 50).expect("below 250");
    (0..CHUNKS * CHUNK_LEN).map(byte).collect()
}

fn first_left() -> Left {
    let entries = stores::first_exceptions(CHUNK_LEN, ENTRIES);
    Left {
        image: stores::image(CHUNK_LEN, COW_CHUNKS, &entries),
        words: vec![0; WORDS],
    }
}

fn first_expected() -> Expected {
    let mut bytes = origin_bytes();
    for (old, new) in stores::first_exceptions(CHUNK_LEN, ENTRIES) {
        let at = usize::try_from(old).expect("small") * CHUNK_LEN;
        bytes[at..][..CHUNK_LEN].fill(u8::try_from(new).expect("small"));
    }
    Expected::exactly(&bytes)
}

fn open(film: &Arc<Film>) -> usnap_engine::Result<Snapshot> {
    let origin = Arc::new(MemDevice::from_bytes(&origin_bytes()));
    let options = SnapshotOptions::default();
    Snapshot::on_devices_with_journal(origin, film.device(), &options, film.memory())
}

/// Looks at what kills leave, each state once.
#[derive(Default)]
pub(crate) struct Explorer {
    seen: HashSet<u64>,
    kills: u64,
    opens: u64,
    /// What went on when something was wrong.
    told: Vec<String>,
}

impl Explorer {
    fn is_new(&mut self, left: &Left, expected: &Expected, lives: usize) -> bool {
        let mut hasher = DefaultHasher::new();
        left.image.hash(&mut hasher);
        left.words[..STAMPS.start].hash(&mut hasher);
        left.words[STAMPS.end..].hash(&mut hasher);
        (expected, lives).hash(&mut hasher);
        self.seen.insert(hasher.finish())
    }

    /// Kills at every moment of `log`, which led from `before` on.
    fn kill(&mut self, before: Left, log: &[Event], expected: &Expected, lives: usize) {
        let log: Vec<Event> = log
            .iter()
            .filter(|event| !matches!(event, Event::Word { index, .. } if STAMPS.contains(index)))
            .cloned()
            .collect();
        let mut moment = 0;
        before.after_each(&log, |left| {
            self.kills += 1;
            moment += 1;
            if self.is_new(left, expected, lives) {
                let event = format!("kill {moment} of {}", log.len());
                self.told.push(event);
                self.reopen(left, expected, lives);
                self.told.pop();
            }
        });
    }

    /// Opens what a kill left, and looks; then goes on for so many lives.
    fn reopen(&mut self, left: &Left, expected: &Expected, lives: usize) {
        self.opens += 1;
        let film = Film::new(left.clone());
        let opened = open(&film);
        let snapshot = opened.unwrap_or_else(|e| panic!("{}: {e:?}", self.told.join(", ")));
        let read = expected.read(&snapshot);
        let bytes = read.unwrap_or_else(|e| panic!("{}: {e}", self.told.join(", ")));
        if lives == 0 {
            return;
        }
        let mut expected = Expected::exactly(&bytes);
        self.told.push("opening".to_owned());
        self.kill(left.clone(), &film.take_log(), &expected, lives - 1);
        self.told.pop();
        for (step, operation) in NEXT_LIFE.into_iter().enumerate() {
            expected = self.play(
                &film,
                &snapshot,
                operation,
                100 + step,
                &expected,
                |this, filmed| {
                    this.kill(filmed.before, &filmed.log, &filmed.during, lives - 1);
                    this.kill_now(&film, &filmed.after, lives - 1);
                },
            );
        }
    }

    /// A kill between two operations.
    fn kill_now(&mut self, film: &Film, expected: &Expected, lives: usize) {
        let left = film.left();
        self.kills += 1;
        if self.is_new(&left, expected, lives) {
            self.reopen(&left, expected, lives);
        }
    }

    /// Does one operation, shows `look` what happened, and says what may be read then.
    fn play(
        &mut self,
        film: &Arc<Film>,
        snapshot: &Snapshot,
        operation: Operation,
        step: usize,
        expected: &Expected,
        look: impl FnOnce(&mut Self, Filmed),
    ) -> Expected {
        let before = film.left();
        film.take_log();
        film.fail(operation.fault());
        let result = operation.carry_out(snapshot, step);
        let was_met = operation.fault().is_some() && !film.has_fault();
        film.fail(None);
        let during = expected.while_in(operation, step);
        let after = match &result {
            Ok(()) => expected.after(operation, step),
            Err(e) if !was_met => panic!("{}: {operation:?}: {e:?}", self.told.join(", ")),
            Err(_) => during.clone(),
        };
        let log = film.take_log();
        self.told.push(format!("{operation:?}"));
        let filmed = Filmed {
            before,
            log,
            during,
            after: after.clone(),
        };
        look(self, filmed);
        self.told.pop();
        after
    }

    /// Plays a history and kills its last operation at every moment; earlier ones are the shorter
    /// histories'.
    fn history(&mut self, history: &[Operation], lives: usize) {
        let film = Film::new(first_left());
        let snapshot = open(&film).expect("nothing was wrong yet");
        let mut expected = first_expected();
        self.told = vec![format!("{history:?}")];
        for (step, operation) in history.iter().enumerate() {
            let is_last = step + 1 == history.len();
            expected = self.play(
                &film,
                &snapshot,
                *operation,
                step,
                &expected,
                |this, filmed| {
                    if is_last {
                        this.kill(filmed.before, &filmed.log, &filmed.during, lives);
                        this.kill_now(&film, &filmed.after, lives);
                    }
                },
            );
        }
    }

    /// Plays all histories of so many operations.
    fn histories(&mut self, len: u32, lives: usize) {
        let count = ALPHABET.len().pow(len);
        for number in 0..count {
            let digits = (0..len).map(|place| number / ALPHABET.len().pow(place) % ALPHABET.len());
            let history: Vec<Operation> = digits.map(|digit| ALPHABET[digit]).collect();
            self.history(&history, lives);
        }
        println!(
            "{count} histories of {len} and {lives} more lives: {} kills, {} opens so far",
            self.kills, self.opens
        );
    }
}

/// One operation, on film.
struct Filmed {
    before: Left,
    log: Vec<Event>,
    during: Expected,
    after: Expected,
}

fn is_full() -> bool {
    std::env::var("USNAP_TEST_SCALE").is_ok_and(|scale| scale == "full")
}

#[test]
fn the_first_open_may_be_killed_at_any_moment() {
    let mut explorer = Explorer::default();
    explorer.reopen(&first_left(), &first_expected(), 2);
    assert!(explorer.opens > 100, "{}", explorer.opens);
}

#[test]
fn whatever_moment_a_history_is_killed_at_nothing_acknowledged_is_lost() {
    let mut explorer = Explorer::default();
    let plan: &[(u32, usize)] = if is_full() {
        &[(1, 2), (2, 2), (3, 1), (4, 0)]
    } else {
        &[(1, 2), (2, 1), (3, 0)]
    };
    for &(len, lives) in plan {
        explorer.histories(len, lives);
    }
    assert!(explorer.opens > 10_000, "{}", explorer.opens);
}
