//! The server's own errors: what could not be done, on what, why, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// A result whose error is the server's.
pub type Result<T> = std::result::Result<T, ServerError>;

/// Why the server can't listen or go on. `Display` never repeats the cause.
#[derive(Debug)]
pub struct ServerError {
    context: String,
    hint: Option<String>,
    source: Option<io::Error>,
}

impl ServerError {
    /// An error without a cause below it; `context` says what was tried and on what.
    #[must_use]
    pub fn new(context: impl Into<String>) -> Self {
        Self {
            context: context.into(),
            hint: None,
            source: None,
        }
    }

    /// A system error.
    #[must_use]
    pub fn io(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            context: context.into(),
            hint: None,
            source: Some(source.into()),
        }
    }

    /// The same error with advice: what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for ServerError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_ref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}
