//! What the environment says about a run.

use anyhow::{Context as _, Result};
use usnap_test_support::Scale;

use crate::history::History;

/// How many histories: what the environment says, else the figure of the scale.
pub(crate) fn histories(ci: u64, full: u64) -> Result<u64> {
    let asked = number("USNAP_DIFF_HISTORIES")?;
    // A test that does a share of its own does it of what was asked for, too.
    Ok(match asked {
        Some(asked) => asked.min(full),
        None => Scale::from_env()?.pick(ci, full),
    })
}

/// The seed of the first history: the same each time, unless asked for another.
pub(crate) fn seed() -> Result<u64> {
    Ok(number("USNAP_DIFF_SEED")?.unwrap_or(1))
}

/// The one history that is to be played, if one is.
pub(crate) fn only() -> Result<Option<History>> {
    let text = std::env::var("USNAP_DIFF_HISTORY").ok();
    text.map(|text| text.parse()).transpose()
}

fn number(variable: &str) -> Result<Option<u64>> {
    let text = std::env::var(variable).ok();
    let parse = |text: String| {
        let number = text.parse();
        number.with_context(|| format!("{variable} is no number: {text}"))
    };
    text.map(parse).transpose()
}
