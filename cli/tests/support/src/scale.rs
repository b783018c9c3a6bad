//! How much a suite does: `USNAP_TEST_SCALE=ci` (the default) or `full`.

use anyhow::{Result, bail};

/// The environment variable that chooses.
pub const SCALE_VARIABLE: &str = "USNAP_TEST_SCALE";

/// The amount of work that the large and slow tests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Minutes on two processors: what every change pays for.
    Ci,
    /// The sizes that people really use.
    Full,
}

impl Scale {
    /// What the environment asks for; `Ci` where it is silent.
    ///
    /// # Errors
    /// A value that is neither `ci` nor `full`.
    pub fn from_env() -> Result<Self> {
        match std::env::var(SCALE_VARIABLE).as_deref() {
            Err(_) | Ok("" | "ci") => Ok(Self::Ci),
            Ok("full") => Ok(Self::Full),
            Ok(other) => bail!("{SCALE_VARIABLE} is `{other}`; it can be `ci` or `full`"),
        }
    }

    /// The figure for this scale.
    pub fn pick<T>(self, ci: T, full: T) -> T {
        match self {
            Self::Ci => ci,
            Self::Full => full,
        }
    }
}
