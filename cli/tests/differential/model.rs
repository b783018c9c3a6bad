//! How much room there is, by the format's facts: what the status line must say, and which step the
//! kernel answers otherwise than we do (SPEC.md, section 10). Knows nothing of contents.

use std::collections::BTreeSet;

use crate::history::{History, Mode, Shape, Step};

/// How kernel and usnap compare at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Everything is equal.
    Same,
    /// A write found no room under `PO`: the kernel says EIO and `Overflow`, we say ENOSPC and our
    /// figures. Contents are equal.
    Overflow,
    /// After that, a read or a flush: equal but for the status.
    Overflowed,
    /// A write found no room, or would have destroyed the store: the kernel's is invalid.
    Invalidates,
    /// It stays so: its reads fail, while ours go on.
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Overflowed,
    Invalid,
}

pub(crate) struct Model {
    shape: Shape,
    mapped: BTreeSet<u64>,
    state: State,
}

impl Model {
    pub(crate) fn new(shape: &Shape) -> Self {
        Self {
            shape: shape.clone(),
            mapped: BTreeSet::new(),
            state: State::Active,
        }
    }

    /// What `dmsetup status` would print for our store.
    pub(crate) fn figures(&self) -> String {
        let chunk = self.shape.chunk;
        let (count, areas) = (self.count(), self.count() / self.entries());
        let allocated = (2 + count + areas) * chunk;
        let metadata = (areas + 2) * chunk;
        format!("{allocated}/{} {metadata}", self.shape.cow)
    }

    pub(crate) fn is_active(&self) -> bool {
        self.state == State::Active
    }

    pub(crate) fn is_invalid(&self) -> bool {
        self.state == State::Invalid
    }

    fn count(&self) -> u64 {
        self.mapped.len() as u64
    }

    fn entries(&self) -> u64 {
        32 * self.shape.chunk
    }

    fn device_chunks(&self) -> u64 {
        self.shape.cow / self.shape.chunk
    }

    /// Whether one more exception and the area behind it fit.
    fn fits(&self) -> bool {
        let next = self.count() + 1;
        2 + next + next / self.entries() <= self.device_chunks()
    }

    /// Whether the kernel would take a chunk: it looks at the chunk alone.
    fn kernel_would_take(&self) -> bool {
        let next_free = 2 + self.count() + self.count() / self.entries();
        next_free < self.device_chunks()
    }

    /// Does the step; `None` where it must not come here, because contents would part for good.
    pub(crate) fn step(&mut self, step: &Step) -> Option<Expect> {
        match (step, self.state) {
            (Step::Write { .. } | Step::Discard { .. }, State::Overflowed | State::Invalid) => None,
            (Step::Write { at, len, .. }, State::Active) => Some(self.write(*at, *len)),
            (Step::Reactivate, State::Overflowed) => {
                self.state = State::Active;
                Some(Expect::Same)
            }
            (_, State::Active) => Some(Expect::Same),
            (_, State::Overflowed) => Some(Expect::Overflowed),
            (_, State::Invalid) => Some(Expect::Invalid),
        }
    }

    fn write(&mut self, at: u64, len: u64) -> Expect {
        let chunks = at / self.shape.chunk..=(at + len - 1) / self.shape.chunk;
        for chunk in chunks {
            if self.mapped.contains(&chunk) {
                continue;
            }
            if self.fits() {
                self.mapped.insert(chunk);
                continue;
            }
            if self.shape.mode == Mode::Po && !self.kernel_would_take() {
                self.state = State::Overflowed;
                return Expect::Overflow;
            }
            self.state = State::Invalid;
            return Expect::Invalidates;
        }
        Expect::Same
    }
}

/// What to expect of each step and our figures after it; `None` where the history can't be judged.
pub(crate) fn expectations(history: &History) -> Option<Vec<(Expect, String)>> {
    let mut model = Model::new(&history.shape);
    let steps = history.steps.iter();
    steps
        .map(|step| Some((model.step(step)?, model.figures())))
        .collect()
}

#[test]
fn a_poisoned_size_is_expected_to_kill_the_kernels_store_and_not_ours() {
    let history = |cow, mode: &str| -> History {
        let text = format!("1 1 40 {cow} {mode} plain 0 w0+31#1 w31+1#2 r0+1");
        text.parse().unwrap()
    };
    let kinds = |history: &History| -> Vec<_> {
        let expected = expectations(history).unwrap();
        expected.into_iter().map(|(expect, _)| expect).collect()
    };
    use Expect::{Invalid, Invalidates, Overflow, Overflowed, Same};
    // 34 sectors: 31 exceptions fit, and the kernel takes the 32nd all the same.
    assert_eq!(
        kinds(&history(34, "PO")),
        [Same, Invalidates, Invalid],
        "poisoned"
    );
    assert_eq!(kinds(&history(33, "PO")), [Same, Overflow, Overflowed]);
    assert_eq!(kinds(&history(33, "P")), [Same, Invalidates, Invalid]);
    assert_eq!(kinds(&history(35, "P")), [Same, Same, Same]);
    let figures = expectations(&history(35, "P")).unwrap();
    assert_eq!((&*figures[0].1, &*figures[1].1), ("33/35 2", "35/35 3"));
}
