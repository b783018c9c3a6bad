//! Makes a history that fails shorter: many shorter ones are tried in one boot.

use anyhow::Result;

use crate::history::History;
use crate::model::expectations;

/// So many boots are worth it.
const ROUNDS: usize = 10;

/// Whether each of some histories fails.
pub(crate) type Fails<'a> = dyn Fn(&[History]) -> Result<Vec<bool>> + 'a;

/// The shortest history found that fails, too.
pub(crate) fn shrink(history: &History, fails: &Fails<'_>) -> Result<History> {
    let mut shortest = history.clone();
    for _ in 0..ROUNDS {
        let shorter = without_some(&shortest);
        let verdicts = fails(&shorter)?;
        let failed = shorter
            .into_iter()
            .zip(verdicts)
            .filter(|(_, failed)| *failed);
        match failed
            .map(|(history, _)| history)
            .min_by_key(|history| history.steps.len())
        {
            Some(found) => shortest = found,
            None => break,
        }
    }
    Ok(shortest)
}

/// The history without each run of steps of a few lengths, as far as it can be judged then.
fn without_some(history: &History) -> Vec<History> {
    let count = history.steps.len();
    let mut shorter = Vec::new();
    let mut len = count / 2;
    while len > 0 {
        for start in (0..count).step_by(len) {
            let mut steps = history.steps.clone();
            steps.drain(start..(start + len).min(count));
            let shape = history.shape.clone();
            shorter.push(History { shape, steps });
        }
        len /= 2;
    }
    shorter.retain(|history| expectations(history).is_some());
    shorter
}

#[test]
fn what_is_left_is_what_fails() {
    let text = "1 8 100 400 PO plain 0 w0+8#1 r0+9 f w9+1#2 a r3+4 w40+8#3 f";
    let history: History = text.parse().unwrap();
    let fails = |histories: &[History]| {
        let needs = |history: &History, what: &str| history.to_string().contains(what);
        let both = |h: &History| needs(h, "w9+1#2") && needs(h, "w40+8#3");
        Ok(histories.iter().map(both).collect())
    };
    let shrunk = shrink(&history, &fails).unwrap();
    assert_eq!(shrunk.to_string(), "1 8 100 400 PO plain 0 w9+1#2 w40+8#3");
}
