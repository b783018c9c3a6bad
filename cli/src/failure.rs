//! A command that failed: the exit code, the error line and what to do next.

use std::fmt;

use usnap_nbd::server::ServerError;

use crate::exit_code::ExitCode;
use crate::output;
use crate::printable::one_line;

/// What a command returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command ended early.
pub(crate) struct Failure {
    code: ExitCode,
    /// The chain of what was tried, outermost first; empty for an end that says nothing.
    error: Option<anyhow::Error>,
    hint: Option<String>,
}

impl Failure {
    /// A failure that is described by `message`: `cannot ...`.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::from(anyhow::Error::msg(message.into()))
    }

    /// What was typed makes no sense, beyond what the parser can see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: ExitCode::Usage,
            ..Self::new(message)
        }
    }

    /// An end without a word: whoever read our output has gone.
    pub(crate) fn quiet() -> Self {
        Self {
            code: ExitCode::Success,
            error: None,
            hint: None,
        }
    }

    /// What is told on the error line behind the program's name.
    pub(crate) fn message(&self) -> String {
        self.error
            .as_ref()
            .map(|error| one_line(&format!("{error:#}")))
            .unwrap_or_default()
    }

    /// The advice.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether there is nothing to be said.
    pub(crate) fn is_quiet(&self) -> bool {
        self.error.is_none()
    }

    /// The failure of an operation on nothing but values that were typed: a usage error where the
    /// engine says that they make no sense.
    pub(crate) fn of_typed(error: usnap_engine::Error) -> Self {
        let code = match error.kind() {
            usnap_engine::ErrorKind::Usage => ExitCode::Usage,
            _ => ExitCode::Failed,
        };
        Self {
            code,
            ..Self::from(error)
        }
    }

    /// The same failure with advice.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with another exit code.
    pub(crate) fn with_code(mut self, code: ExitCode) -> Self {
        self.code = code;
        self
    }

    /// Says what was tried, unless the failure says that of itself already.
    pub(crate) fn context(mut self, tried: impl FnOnce() -> String) -> Self {
        let says = |error: &anyhow::Error| error.to_string().starts_with("cannot ");
        self.error = self
            .error
            .map(|e| if says(&e) { e } else { e.context(tried()) });
        self
    }

    /// Prints the error line and the hint, and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let text = self.to_string();
        if !text.is_empty() {
            output::say(text);
        }
        self.code
    }

    /// The code that the process will end with.
    #[cfg(test)]
    pub(crate) fn code(&self) -> ExitCode {
        self.code
    }
}

/// `usnap: cannot ...: cause: cause`, then `hint: ...` on a line of its own.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_quiet() {
            return Ok(());
        }
        write!(f, "usnap: {}", self.message())?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.code)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let hint = error.chain().find_map(hint_of);
        Self {
            code: ExitCode::Failed,
            error: Some(error),
            hint,
        }
    }
}

/// The advice that an error of ours brings along.
fn hint_of(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    let engine = cause
        .downcast_ref::<usnap_engine::Error>()
        .and_then(|error| error.hint());
    let server = || {
        cause
            .downcast_ref::<ServerError>()
            .and_then(|error| error.hint())
    };
    engine.or_else(server).map(str::to_owned)
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::from(anyhow::Error::new(error))
    }
}

impl From<usnap_engine::Error> for Failure {
    fn from(error: usnap_engine::Error) -> Self {
        Self::from(anyhow::Error::new(error))
    }
}

/// The parser's own message is several lines with usage; the contract is one line and a hint.
impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        use clap::error::ErrorKind as K;
        if matches!(error.kind(), K::DisplayHelp | K::DisplayVersion) {
            // Asked for, so it is the result; a reader that has gone is no failure.
            let _ = error.print();
            return Self::quiet();
        }
        if error.kind() == K::DisplayHelpOnMissingArgumentOrSubcommand {
            let _ = error.print();
            return Self {
                code: ExitCode::Usage,
                error: None,
                hint: None,
            };
        }
        let text = error.to_string();
        let mut words = Vec::new();
        let mut hint = None;
        for line in text.lines().map(str::trim) {
            if let Some(usage) = line.strip_prefix("Usage: ") {
                // The words before the first argument.
                let words = usage
                    .split(' ')
                    .take_while(|w| !w.starts_with(['-', '<', '[']));
                let command = words.collect::<Vec<_>>().join(" ");
                hint.get_or_insert_with(|| format!("{command} --help"));
                break;
            }
            if line.starts_with("For more information") {
                break;
            }
            if let Some(tip) = line.strip_prefix("tip: ") {
                hint.get_or_insert_with(|| tip.to_owned());
            } else if !line.is_empty() {
                words.push(line.strip_prefix("error: ").unwrap_or(line));
            }
        }
        let message = format!("cannot understand the command line: {}", words.join(" "));
        Self {
            hint,
            ..Self::usage(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use usnap_engine::{Error, ErrorKind};

    #[test]
    fn the_error_line_has_every_cause_once_and_the_hint_below() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::io("cannot read area 7 of COW device c.cow", io);
        let failure = Failure::from(error.context("cannot open it").with_hint("put it out"));
        assert_eq!(
            failure.to_string(),
            "usnap: cannot open it: cannot read area 7 of COW device c.cow: disk on fire\n\
             hint: put it out"
        );
        assert_eq!(failure.code(), ExitCode::Failed);
    }

    #[test]
    fn context_is_added_only_where_the_error_does_not_say_what_was_tried() {
        let bare = Failure::new("no such thing").context(|| "cannot serve x".into());
        assert_eq!(bare.to_string(), "usnap: cannot serve x: no such thing");
        let full = Failure::new("cannot open x").context(|| "cannot serve x".into());
        assert_eq!(full.to_string(), "usnap: cannot open x");
    }

    #[test]
    fn values_that_make_no_sense_are_a_usage_error_and_files_that_do_not_are_a_failure() {
        let error = || Error::new(ErrorKind::Usage, "cannot use it: it is empty");
        assert_eq!(Failure::of_typed(error()).code(), ExitCode::Usage);
        assert_eq!(Failure::from(error()).code(), ExitCode::Failed);
        let full = Failure::of_typed(Error::new(ErrorKind::NoSpace, "cannot write"));
        assert_eq!(full.code(), ExitCode::Failed);
    }

    #[test]
    fn a_usage_error_of_the_parser_is_one_line_with_the_help_to_read() {
        use clap::Parser;
        let typed = |words: &str| {
            let error = crate::args::Cli::try_parse_from(words.split(' ')).unwrap_err();
            let failure = Failure::from(error);
            assert_eq!(failure.code(), ExitCode::Usage);
            failure.to_string()
        };
        let line = typed("usnap create c");
        assert!(
            line.starts_with("usnap: cannot understand the command line: "),
            "{line}"
        );
        assert!(line.contains("--size <SIZE>"), "{line}");
        assert!(line.ends_with("\nhint: usnap create --help"), "{line}");
        assert!(typed("usnap crate").contains("\nhint: a similar subcommand exists: 'create'"));
        let line = typed("usnap create c --size 4KB");
        assert!(line.ends_with("write 4K"), "{line}");
    }

    #[test]
    fn a_name_with_control_characters_stays_on_one_line() {
        let failure = Failure::new("cannot open a\nb\u{1b}[2J");
        assert_eq!(failure.to_string(), "usnap: cannot open a\\nb\\u{1b}[2J");
    }
}
