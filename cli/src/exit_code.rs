//! The exit codes: a contract that scripts rely on.

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Done.
    Success,
    /// Not done; the error line says why.
    Failed,
    /// What was typed makes no sense.
    Usage,
    /// `check` did its work and found damage.
    Damage,
    /// A signal ended it: 128 and the signal's number, as shells have it.
    Interrupted(u8),
    /// The exit status of a command that we ran for the user, passed on.
    Child(u8),
}

impl ExitCode {
    /// The number that the system is told.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Damage => 3,
            Self::Interrupted(signal) => signal.saturating_add(128),
            Self::Child(code) => code,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode;

    #[test]
    fn the_numbers_are_the_documented_ones() {
        let table = [
            (ExitCode::Success, 0),
            (ExitCode::Failed, 1),
            (ExitCode::Usage, 2),
            (ExitCode::Damage, 3),
            (ExitCode::Interrupted(2), 130),
            (ExitCode::Interrupted(15), 143),
            (ExitCode::Child(0), 0),
            (ExitCode::Child(42), 42),
        ];
        for (code, number) in table {
            assert_eq!(code.code(), number, "{code:?}");
        }
    }
}
