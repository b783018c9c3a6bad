//! Holds what the kernel showed against what we showed: equal, or different exactly as stated.

use std::ops::Range;

use crate::history::{History, Shape, Step, bytes};
use crate::model::{Expect, expectations};
use crate::play::{Played, Seen};
use crate::store_view::{entries, normalised};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// How much must be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Everything, the COW devices' bytes as well.
    Bytes,
    /// Answers and contents, and at a flush and a deactivation the status and the set of mappings.
    Mappings,
}

/// All of a history as we played it.
#[derive(Clone, Debug)]
pub(crate) struct OursPlayed {
    pub(crate) played: Played,
    /// The COW device before the step that makes the kernel's store invalid, if one does.
    pub(crate) before_end: Option<Vec<u8>>,
}

/// The first difference that is not stated, between what the kernel showed of `steps` and what we
/// showed of the whole history.
pub(crate) fn judge(
    history: &History,
    steps: &Range<usize>,
    kernel: &Played,
    ours: &OursPlayed,
    strictness: Strictness,
) -> Result<(), String> {
    let expected = expectations(history).ok_or("it can't be judged")?;
    for index in steps.clone() {
        let step = &history.steps[index];
        let (expect, figures) = &expected[index];
        let at_rest = matches!(step, Step::Flush | Step::Reactivate);
        let cut = |seen: &Seen| visible(seen, strictness, at_rest);
        let theirs = cut(&kernel.seen[index - steps.start]);
        let ours = cut(&ours.played.seen[index]);
        judge_step(step, *expect, &cut_figures(figures, &ours), &theirs, &ours)
            .map_err(|why| format!("step {index}, {step}: {why}"))?;
    }
    let is_whole = steps.end == history.steps.len();
    let (Some(theirs), Some(mine)) = (kernel.seen.last(), ours.played.seen.last()) else {
        return Err("there is no end".to_owned());
    };
    if !is_whole {
        return Ok(());
    }
    let last = expected.last();
    let figures = last.map_or_else(|| mine.status.clone(), |(_, figures)| figures.clone());
    let (expect, is_invalid) = match last.map(|(expect, _)| *expect) {
        Some(Expect::Overflow | Expect::Overflowed) => (Expect::Overflowed, false),
        Some(Expect::Invalidates | Expect::Invalid) => (Expect::Invalid, true),
        Some(Expect::Same) | None => (Expect::Same, false),
    };
    // Nothing was flushed just before, so of what is lazy the status is not final.
    let cut = |seen: &Seen| visible(seen, strictness, false);
    let all = Step::Read {
        at: 0,
        len: history.shape.origin,
    };
    // The devices' bytes are compared below, where a difference says its place.
    let without_cow = |seen: &Seen| Seen {
        cow: 0,
        ..cut(seen)
    };
    let (theirs, mine) = (without_cow(theirs), without_cow(mine));
    judge_step(&all, expect, &cut_figures(&figures, &mine), &theirs, &mine)
        .map_err(|why| format!("at the end: {why}"))?;
    if strictness == Strictness::Mappings {
        return Ok(());
    }
    if is_invalid {
        let before = ours
            .before_end
            .as_ref()
            .ok_or("nothing was noted before the end")?;
        return judge_invalid(history, &kernel.cow, before, &ours.played.cow);
    }
    same_cow(&history.shape, &kernel.cow, &ours.played.cow)
}

/// What of a step is compared.
fn visible(seen: &Seen, strictness: Strictness, at_rest: bool) -> Seen {
    let mut seen = seen.clone();
    if strictness == Strictness::Mappings {
        seen.cow = 0;
        if !at_rest {
            seen.status.clear();
        }
    }
    seen
}

/// Our figures, where the status is compared at all.
fn cut_figures(figures: &str, ours: &Seen) -> String {
    if ours.status.is_empty() {
        return String::new();
    }
    figures.to_owned()
}

fn judge_step(
    step: &Step,
    expect: Expect,
    figures: &str,
    kernel: &Seen,
    ours: &Seen,
) -> Result<(), String> {
    let refused = matches!(expect, Expect::Overflow | Expect::Invalidates);
    let errno = if refused { ENOSPC } else { 0 };
    if ours.errno != errno || ours.status != figures {
        return Err(format!(
            "we show [{ours}], expected were error {errno} and status {figures}"
        ));
    }
    let shown = |status: &str| {
        // Where ours is not compared, the kernel's is not either.
        if ours.status.is_empty() {
            String::new()
        } else {
            status.to_owned()
        }
    };
    let expected = match expect {
        Expect::Same => ours.clone(),
        Expect::Overflowed => Seen {
            status: shown("Overflow"),
            ..ours.clone()
        },
        Expect::Overflow => Seen {
            errno: EIO,
            status: shown("Overflow"),
            ..Seen::default()
        },
        Expect::Invalidates => Seen {
            errno: EIO,
            status: shown("Invalid"),
            ..Seen::default()
        },
        Expect::Invalid => Seen {
            errno: if matches!(step, Step::Read { .. }) {
                EIO
            } else {
                0
            },
            status: shown("Invalid"),
            // Looked at once, at the end.
            cow: kernel.cow,
            mapped: kernel.mapped,
            content: 0,
        },
    };
    if *kernel != expected {
        return Err(format!(
            "the kernel shows [{kernel}], expected was [{expected}]"
        ));
    }
    Ok(())
}

/// Whether two COW devices are the same to the byte, but for what is stated.
pub(crate) fn same_cow(shape: &Shape, kernel: &[u8], ours: &[u8]) -> Result<(), String> {
    if kernel.len() != ours.len() {
        return Err(format!("sizes {} and {}", kernel.len(), ours.len()));
    }
    let kernel = normalised(kernel.to_vec(), shape);
    let ours = normalised(ours.to_vec(), shape);
    let Some(at) = (0..kernel.len()).find(|at| kernel[*at] != ours[*at]) else {
        return Ok(());
    };
    let count = (0..kernel.len())
        .filter(|at| kernel[*at] != ours[*at])
        .count();
    let chunk = at / bytes(shape.chunk);
    let around = at / 16 * 16..(at / 16 * 16 + 16).min(kernel.len());
    Err(format!(
        "the COW devices differ in {count} bytes, first at {at} (chunk {chunk}): \
         the kernel's {:02x?}, ours {:02x?}",
        &kernel[around.clone()],
        &ours[around]
    ))
}

/// What the kernel leaves of a store that it gave up, against ours before and after the write that
/// found no room: the header says so, the entries are ours up to some of that write's, and each
/// sector that they refer to has its value from before, or the one that was to be written.
fn judge_invalid(
    history: &History,
    kernel: &[u8],
    before: &[u8],
    after: &[u8],
) -> Result<(), String> {
    let shape = &history.shape;
    let chunk_bytes = bytes(shape.chunk);
    let mut header = vec![0; chunk_bytes];
    header[..4].copy_from_slice(b"SnAp");
    header[8] = 1;
    header[12..16].copy_from_slice(&u32::try_from(shape.chunk).unwrap_or(0).to_le_bytes());
    if kernel[..chunk_bytes] != header {
        return Err("the header of an invalid store is another".to_owned());
    }
    let stated = |cow: &[u8]| normalised(cow.to_vec(), shape);
    let (kernel, before, after) = (&*stated(kernel), &*stated(before), &*stated(after));
    let old = entries(before, shape.chunk);
    let new = entries(after, shape.chunk);
    let theirs = entries(kernel, shape.chunk);
    if !theirs.starts_with(&old) || !new.starts_with(&theirs) {
        return Err(format!(
            "the kernel has {} entries, we had {} and have {}",
            theirs.len(),
            old.len(),
            new.len()
        ));
    }
    let areas = areas_with(shape, before, old.len(), &theirs);
    let per_area = chunk_bytes / 16;
    let is_area = |chunk: usize| chunk % (per_area + 1) == 1;
    let origin = shape.origin_content();
    let refused = Refused::of(history).ok_or("no write was refused")?;
    let taken = old.len() + refused.data.len() / chunk_bytes + 2;
    let untouched_from = 2 + taken + taken / per_area;
    for (chunk, found) in kernel.chunks(chunk_bytes).enumerate().skip(1) {
        let at = chunk * chunk_bytes;
        let here = at..at + found.len();
        if is_area(chunk) && found.len() == chunk_bytes {
            if found != &areas[here] {
                return Err(format!("the area at chunk {chunk} differs"));
            }
            continue;
        }
        let entry = theirs.iter().position(|(_, at)| *at == chunk as u64);
        let Some(entry) = entry else {
            if chunk >= untouched_from && found != &before[here] {
                return Err(format!("chunk {chunk} was touched"));
            }
            continue;
        };
        let (old_chunk, _) = theirs[entry];
        for (index, sector) in found.chunks(512).enumerate() {
            let place = at + index * 512;
            let logical = old_chunk * shape.chunk + index as u64;
            let then = if entry < old.len() {
                before.get(place..place + 512)
            } else {
                // Behind the origin's end anything may be.
                let from = bytes(logical);
                Some(origin.get(from..from + 512).unwrap_or(sector))
            };
            if then != Some(sector) && refused.sector(logical) != Some(sector) {
                return Err(format!(
                    "sector {index} of chunk {chunk} is neither old nor new"
                ));
            }
        }
    }
    Ok(())
}

/// The write that the kernel's store did not survive.
struct Refused {
    at: u64,
    data: Vec<u8>,
}

impl Refused {
    fn of(history: &History) -> Option<Self> {
        let expected = expectations(history)?;
        let mut both = history.steps.iter().zip(expected);
        let (step, _) = both.find(|(_, (expect, _))| *expect == Expect::Invalidates)?;
        match *step {
            Step::Write { at, len, stamp } => Some(Self {
                at,
                data: history.shape.payload(stamp, len),
            }),
            _ => None,
        }
    }

    /// What it would have put there.
    fn sector(&self, logical: u64) -> Option<&[u8]> {
        let from = bytes(logical.checked_sub(self.at)?);
        self.data.get(from..from + 512)
    }
}

/// `before` with the areas as they are once the entries behind the first `old` are in them.
fn areas_with(shape: &Shape, before: &[u8], old: usize, entries: &[(u64, u64)]) -> Vec<u8> {
    let (mut image, chunk_bytes) = (before.to_vec(), bytes(shape.chunk));
    let per_area = chunk_bytes / 16;
    let start = |area: usize| (1 + area * (per_area + 1)) * chunk_bytes;
    for area in old / per_area + 1..=entries.len() / per_area {
        if let Some(bytes) = image.get_mut(start(area)..start(area) + chunk_bytes) {
            bytes.fill(0);
        }
    }
    for (index, (old_chunk, new_chunk)) in entries.iter().enumerate().skip(old) {
        let at = start(index / per_area) + index % per_area * 16;
        image[at..at + 8].copy_from_slice(&old_chunk.to_le_bytes());
        image[at + 8..at + 16].copy_from_slice(&new_chunk.to_le_bytes());
    }
    image
}
