//! Many histories, three ways: all of each on both sides, through the server, and handed over in
//! the middle.

use anyhow::{Context as _, Result, bail};
use usnap_engine::Durability;
use usnap_test_support::guest::inside_guest;
use usnap_test_support::{Need, missing, say};

use crate::boot::{Part, fast_root, play_on_kernel};
use crate::generate;
use crate::history::History;
use crate::judge::{OursPlayed, Strictness, judge, same_cow};
use crate::knobs;
use crate::model::{Expect, Model, expectations};
use crate::ours::{Files, Ours};
use crate::play::{Played, Side, play, play_and_note};
use crate::served::Served;
use crate::shrink::shrink;

/// What is wrong with each of some histories, if anything is.
type Check = fn(&[History]) -> Result<Vec<Option<String>>>;

/// Runs the histories with the seeds from the first on, and fails with the shortest that can be
/// found of one that differs.
fn run(what: &str, count: u64, generate: fn(u64) -> History, check: Check) -> Result<()> {
    if inside_guest() || missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let begun = std::time::Instant::now();
    let histories: Vec<History> = match knobs::only()? {
        Some(history) => vec![history],
        None => {
            let first = knobs::seed()?;
            (first..first + count).map(generate).collect()
        }
    };
    let steps: usize = histories.iter().map(|history| history.steps.len()).sum();
    let verdicts = check(&histories)?;
    let failed: Vec<_> = histories
        .iter()
        .zip(verdicts)
        .filter_map(|(history, verdict)| Some((history, verdict?)))
        .collect();
    say(&format!(
        "{what}: {} histories of {steps} steps, {} differ, {:.0} s",
        histories.len(),
        failed.len(),
        begun.elapsed().as_secs_f64()
    ))?;
    let Some((history, why)) = failed.first() else {
        return Ok(());
    };
    let fails = |shorter: &[History]| -> Result<Vec<bool>> {
        let verdicts = check(shorter)?;
        Ok(verdicts.iter().map(Option::is_some).collect())
    };
    let shrunk = shrink(history, &fails)?;
    let shrunk_why = check(std::slice::from_ref(&shrunk))?.swap_remove(0);
    let all: Vec<String> = failed
        .iter()
        .map(|(history, why)| format!("{}: {why}", history.shape.seed))
        .collect();
    bail!(
        "{what}: {} of {} differ:\n{}\nthe first (seed {}): {why}\n{history}\n\
         shrunk: {}\nUSNAP_DIFF_HISTORY='{shrunk}'",
        failed.len(),
        histories.len(),
        all.join("\n"),
        history.shape.seed,
        shrunk_why.unwrap_or_default(),
    )
}

/// Plays all of a history on a side of ours.
pub(crate) fn play_ours(history: &History, side: &mut dyn Side) -> Result<OursPlayed> {
    let expected = expectations(history).unwrap_or_default();
    let kinds = expected.iter().map(|(expect, _)| *expect);
    let end = kinds
        .clone()
        .position(|expect| expect == Expect::Invalidates);
    let mut before_end = None;
    let steps = 0..history.steps.len();
    let played = play_and_note(history, steps, side, &mut |index, side| {
        if Some(index) == end {
            before_end = Some(side.cow()?);
        }
        Ok(())
    })?;
    Ok(OursPlayed { played, before_end })
}

pub(crate) fn whole(history: &History, durability: Durability) -> Result<OursPlayed> {
    let files = Files::create(fast_root(), &history.shape)?;
    play_ours(history, &mut Ours::new(files, &history.shape, durability))
}

fn kernel_plays(histories: &[History]) -> Result<Vec<Played>> {
    let parts: Vec<Part> = histories.iter().map(Part::whole).collect();
    play_on_kernel(&parts)
}

/// Also what ends one history alone, an error of ours that no history should meet.
fn told(verdict: Result<Result<(), String>>) -> Option<String> {
    match verdict {
        Ok(verdict) => verdict.err(),
        Err(error) => Some(format!("we fail: {error:#}")),
    }
}

/// The engine, durable at every write and durable at a flush.
fn direct(histories: &[History]) -> Result<Vec<Option<String>>> {
    let kernel = kernel_plays(histories)?;
    let verdict = |(history, kernel): (&History, &Played)| {
        let steps = 0..history.steps.len();
        let each = whole(history, Durability::EveryWrite)?;
        let lazy = whole(history, Durability::Flush)?;
        let each = judge(history, &steps, kernel, &each, Strictness::Bytes);
        let lazy = judge(history, &steps, kernel, &lazy, Strictness::Mappings);
        let lazy = lazy.map_err(|why| format!("durable at a flush: {why}"));
        Ok(each.and(lazy))
    };
    let both = histories.iter().zip(&kernel);
    Ok(both.map(|both| told(verdict(both))).collect())
}

/// The program and its server.
fn served(histories: &[History]) -> Result<Vec<Option<String>>> {
    let kernel = kernel_plays(histories)?;
    let verdict = |(history, kernel): (&History, &Played)| {
        let mut side = Served::create(fast_root(), &history.shape)?;
        let ours = play_ours(history, &mut side)?;
        let steps = 0..history.steps.len();
        Ok(judge(history, &steps, kernel, &ours, Strictness::Bytes))
    };
    let both = histories.iter().zip(&kernel);
    Ok(both.map(|both| told(verdict(both))).collect())
}

/// The place to hand over: the nearest to the middle at which nothing is known to one side that the
/// store does not say.
fn middle(history: &History) -> usize {
    let mut model = Model::new(&history.shape);
    let mut places = vec![0];
    for (index, step) in history.steps.iter().enumerate() {
        if model.step(step).is_none() || !model.is_active() {
            continue;
        }
        places.push(index + 1);
    }
    let half = history.steps.len() / 2;
    places
        .into_iter()
        .min_by_key(|place| place.abs_diff(half))
        .unwrap_or(0)
}

/// The first half on one side, the rest on the other, both ways: as if it had been one.
fn handed_over(histories: &[History]) -> Result<Vec<Option<String>>> {
    // Half of the histories with the writes of the default kind.
    let durability = |history: &History| match history.shape.seed % 2 {
        0 => (Durability::EveryWrite, Strictness::Bytes),
        _ => (Durability::Flush, Strictness::Mappings),
    };
    let mut parts = Vec::new();
    for history in histories {
        let middle = middle(history);
        let whole = Part::whole(history);
        parts.push(Part {
            steps: 0..middle,
            ..whole.clone()
        });
        let files = Files::create(fast_root(), &history.shape)?;
        let mut side = Ours::new(files, &history.shape, durability(history).0);
        let played = play(history, 0..middle, &mut side);
        let Played { cow, .. } = played.with_context(|| history.to_string())?;
        let steps = middle..history.steps.len();
        parts.push(Part {
            steps,
            cow,
            ..whole
        });
    }
    let kernel = play_on_kernel(&parts)?;
    let mut verdicts = Vec::new();
    for ((history, kernel), parts) in histories.iter().zip(kernel.chunks(2)).zip(parts.chunks(2)) {
        let [first, second] = kernel else { continue };
        let middle = parts[1].steps.start;
        let (when, strictness) = durability(history);
        let ours = whole(history, Durability::EveryWrite);
        let ours = ours.with_context(|| history.to_string())?;
        let from_us = judge(history, &parts[1].steps, second, &ours, strictness);
        let from_us = from_us.map_err(|why| format!("we, then the kernel: {why}"));
        let judged = judge(history, &parts[0].steps, first, &ours, strictness);
        let files = Files::with_store(fast_root(), &history.shape, &first.cow)?;
        let mut side = Ours::new(files, &history.shape, when);
        let continued = play(history, middle..history.steps.len(), &mut side);
        let continued = continued.with_context(|| history.to_string())?;
        let continued =
            judged.and_then(|()| continues(history, middle, &continued, &ours.played, strictness));
        let from_them = continued.map_err(|why| format!("the kernel, then we: {why}"));
        verdicts.push(from_us.and(from_them).err());
    }
    Ok(verdicts)
}

/// Whether we went on where the kernel left off as we do where we began ourselves.
fn continues(
    history: &History,
    middle: usize,
    continued: &Played,
    alone: &Played,
    strictness: Strictness,
) -> Result<(), String> {
    let both = continued.seen.iter().zip(&alone.seen[middle..]);
    for (index, (here, there)) in both.enumerate() {
        let (mut here, mut there) = (here.clone(), there.clone());
        if strictness == Strictness::Mappings {
            for seen in [&mut here, &mut there] {
                (seen.cow, seen.status) = (0, String::new());
            }
        }
        if here != there {
            return Err(format!(
                "step {}: [{here}], alone [{there}]",
                middle + index
            ));
        }
    }
    match strictness {
        Strictness::Bytes => same_cow(&history.shape, &continued.cow, &alone.cow),
        Strictness::Mappings => Ok(()),
    }
}

#[test]
fn histories_leave_the_same_bytes_contents_and_status() -> Result<()> {
    let count = knobs::histories(200, 2000)?;
    run("the engine", count, generate::history, direct)
}

#[test]
fn histories_leave_the_same_bytes_through_the_server() -> Result<()> {
    let count = knobs::histories(20, 200)?;
    run("the server", count, generate::history, served)
}

#[test]
fn histories_handed_over_in_the_middle_leave_the_same_bytes() -> Result<()> {
    let count = knobs::histories(40, 200)?;
    run(
        "handed over both ways",
        count,
        generate::history,
        handed_over,
    )
}

#[test]
fn histories_with_discards_of_whole_chunks_leave_the_same_bytes() -> Result<()> {
    let count = knobs::histories(30, 400)?;
    let generate = generate::history_with_discards;
    run("with discards", count, generate, direct)
}
