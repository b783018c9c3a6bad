//! What the environment says about a run.
//!
//! `USNAP_FAULT_ROUNDS` sets the rounds of each test that has rounds, `USNAP_FAULT_SEED` the seed of
//! the first history: each failure names the seed that makes its history again.

use anyhow::{Context as _, Result};
use usnap_test_support::Scale;

/// How many rounds a test does: what the environment says, else the figure of the scale.
///
/// # Errors
/// The environment says what is no number.
pub(crate) fn rounds(ci: u64, full: u64) -> Result<u64> {
    match number("USNAP_FAULT_ROUNDS")? {
        Some(rounds) => Ok(rounds),
        None => Ok(Scale::from_env()?.pick(ci, full)),
    }
}

/// The seed that was asked for, or another one each time.
///
/// # Errors
/// The environment says what is no number.
pub(crate) fn seed() -> Result<u64> {
    if let Some(seed) = number("USNAP_FAULT_SEED")? {
        return Ok(seed);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now.as_secs() << 20 | u64::from(now.subsec_micros()))
}

fn number(variable: &str) -> Result<Option<u64>> {
    std::env::var(variable)
        .ok()
        .map(|text| {
            text.parse()
                .with_context(|| format!("{variable} is no number: {text}"))
        })
        .transpose()
}
