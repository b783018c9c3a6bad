//! Histories from seeds.

use usnap_test_support::Rng;

use crate::history::{History, Mode, Shape, Step, Store};
use crate::model::Model;

/// The longest write, in sectors: one request of the kernel's block layer.
const LONGEST: u64 = 512;

/// The history of a seed.
pub(crate) fn history(seed: u64) -> History {
    generate(seed, false)
}

/// The same with discards of whole chunks, for a kernel's table that zeroes them.
pub(crate) fn history_with_discards(seed: u64) -> History {
    generate(seed, true)
}

fn generate(seed: u64, discards: bool) -> History {
    let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ u64::from(discards));
    let shape = shape(&mut rng, seed, discards);
    let mut writer = Writer {
        // Swarm: some kinds of writes are left out of some histories.
        kinds: 1 + rng.below(31),
        next: 0,
        stamp: 0,
        shape: &shape,
    };
    let mut model = Model::new(&shape);
    let mut steps = Vec::new();
    let wanted = 6 + rng.below(22);
    let mut behind_the_end = 2;
    while (steps.len() as u64) < wanted && behind_the_end > 0 {
        let step = if model.is_active() {
            match rng.below(20) {
                0..=1 => Step::Reactivate,
                2 => Step::Flush,
                3..=5 => read(&mut rng, &shape),
                6..=8 if discards => discard(&mut rng, &shape),
                _ => writer.write(&mut rng),
            }
        } else if model.is_invalid() {
            behind_the_end -= 1;
            [read(&mut rng, &shape), Step::Reactivate, Step::Flush][draw(&mut rng, 3)]
        } else {
            [read(&mut rng, &shape), Step::Reactivate, Step::Flush][draw(&mut rng, 3)]
        };
        if model.step(&step).is_some() {
            steps.push(step);
        }
    }
    History { shape, steps }
}

fn draw(rng: &mut Rng, bound: u64) -> usize {
    usize::try_from(rng.below(bound)).unwrap_or(0)
}

fn shape(rng: &mut Rng, seed: u64, discards: bool) -> Shape {
    let chunk = [1, 1, 1, 1, 2, 2, 4, 8, 8, 8, 16, 32, 64, 128][draw(rng, 14)];
    // Chunks of the origin: often more than two areas hold, as long as that is not much.
    let most = match chunk {
        1 => 150,
        2 => 200,
        4 => 300,
        8 if rng.below(3) == 0 => 560,
        8 | 16 => 60,
        _ => 24,
    };
    let chunks = 1 + rng.below(most);
    let cut = if rng.below(3) == 0 {
        0
    } else {
        rng.below(chunk)
    };
    let entries = 32 * chunk;
    let never_full = 2 + chunks + chunks / entries;
    let cow_chunks = match rng.below(6) {
        0 | 1 => never_full + rng.below(3),
        2 => never_full - rng.below(2).min(never_full - 2),
        // The kernel destroys a store that fills one of these.
        3 if chunks >= entries => 1 + (1 + rng.below(chunks / entries)) * (entries + 1),
        3 | 4 => 2 + rng.below(chunks.min(12)),
        _ => 2 + rng.below(never_full),
    };
    Shape {
        seed,
        chunk,
        origin: chunks * chunk - cut,
        cow: cow_chunks * chunk + rng.below(2) * rng.below(chunk),
        mode: if rng.below(3) == 0 { Mode::P } else { Mode::Po },
        store: [
            Store::Plain,
            Store::Plain,
            Store::Identity,
            Store::OverGarbage,
        ][draw(rng, 4)],
        discards,
    }
}

fn read(rng: &mut Rng, shape: &Shape) -> Step {
    let at = rng.below(shape.origin);
    let len = 1 + rng.below((shape.origin - at).min(LONGEST));
    Step::Read { at, len }
}

/// Of whole chunks: what the kernel does with parts of chunks is stated as a difference.
fn discard(rng: &mut Rng, shape: &Shape) -> Step {
    let whole = shape.origin / shape.chunk;
    if whole == 0 {
        return Step::Flush;
    }
    let first = rng.below(whole);
    let count = 1 + rng.below((whole - first).min(4));
    Step::Discard {
        at: first * shape.chunk,
        len: count * shape.chunk,
    }
}

struct Writer<'a> {
    kinds: u64,
    /// Where the last write ended.
    next: u64,
    stamp: u64,
    shape: &'a Shape,
}

impl Writer<'_> {
    fn write(&mut self, rng: &mut Rng) -> Step {
        let (chunk, size) = (self.shape.chunk, self.shape.origin);
        let kind = loop {
            let kind = rng.below(5);
            if self.kinds >> kind & 1 == 1 {
                break kind;
            }
        };
        let chunks = size.div_ceil(chunk);
        let first = rng.below(chunks) * chunk;
        let many = 1 + rng.below((LONGEST / chunk).clamp(1, 40));
        let (at, len) = match kind {
            // A whole chunk.
            0 => (first, chunk),
            // Part of one.
            1 => {
                let within = rng.below(chunk);
                (first + within, 1 + rng.below(chunk - within))
            }
            // Several whole ones.
            2 => (first, many * chunk),
            // Several, cut at both ends.
            3 => (first + rng.below(chunk), many * chunk + rng.below(chunk)),
            // On from the last one, so that the device fills up in order.
            _ => (self.next % size, many * chunk),
        };
        let at = at.min(size - 1);
        let len = len.min(size - at).min(LONGEST);
        (self.next, self.stamp) = (at + len, self.stamp + 1);
        let stamp = self.stamp;
        Step::Write { at, len, stamp }
    }
}

#[test]
fn the_histories_reach_what_they_are_for() {
    use crate::model::{Expect, expectations};
    let histories: Vec<_> = (0..4000).map(history).collect();
    let count = |is: &dyn Fn(&History) -> bool| histories.iter().filter(|h| is(h)).count();
    let has = |expect| {
        move |history: &History| {
            let expected = expectations(history).unwrap();
            expected.iter().any(|(found, _)| *found == expect)
        }
    };
    for chunk in [1, 2, 4, 8, 16, 32, 64, 128] {
        assert!(count(&|h| h.shape.chunk == chunk) > 5, "{chunk}");
    }
    assert!(count(&has(Expect::Overflow)) > 40);
    assert!(count(&has(Expect::Invalidates)) > 40);
    let poisoned = |h: &History| h.shape.mode == Mode::Po && has(Expect::Invalidates)(h);
    assert!(count(&poisoned) > 3, "the kernel's poisoned sizes");
    assert!(count(&|h| h.shape.cut_tail().is_some()) > 100);
    assert!(count(&|h| h.shape.origin < h.shape.chunk) > 3);
    assert!(count(&|h| h.shape.cow % h.shape.chunk != 0) > 50);
    let areas = |h: &History| {
        let last = expectations(h).unwrap().pop().unwrap().1;
        let metadata: u64 = last.split(' ').nth(1).unwrap().parse().unwrap();
        metadata / h.shape.chunk - 1
    };
    assert!(count(&|h| areas(h) >= 2) > 40);
    assert!(count(&|h| areas(h) >= 3) > 10);
    for history in &histories {
        assert_eq!(&history.to_string().parse::<History>().unwrap(), history);
    }
}
