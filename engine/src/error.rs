//! One error type for the engine: a small stable kind to match on, what was tried and where, and
//! the cause. `Display` never repeats the cause; whoever prints the chain does.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// A result whose error is the engine's.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as far as a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file to be created is there already.
    Exists,
    /// The store's metadata contradicts itself or its device.
    Corrupt,
    /// The file is not a COW device of this format.
    Foreign,
    /// Somebody else uses the device.
    InUse,
    /// It was told to stop before it was done.
    Interrupted,
    /// The store was invalidated (`valid` = 0), by a kernel that ran full.
    InvalidStore,
    /// The device answered a read, write or flush with an error.
    Io,
    /// A journal that a killed server left can't be believed without being told so.
    JournalInDoubt,
    /// An earlier flush failed: nothing more is promised.
    Latched,
    /// No room: the COW device is full, or the filesystem below it.
    NoSpace,
    /// The device or file is not there.
    NotFound,
    /// This device can't do it (fast), and nothing was changed.
    NotSupported,
    /// The origin is not the one that the COW device was made for.
    OriginMismatch,
    /// The range does not lie inside the device.
    OutOfRange,
    /// The system does not allow it.
    PermissionDenied,
    /// The device is read-only.
    ReadOnly,
    /// What was asked for makes no sense (a size, a chunk size).
    Usage,
}

impl ErrorKind {
    /// The kind of a system error: running out of room, quota or file size is `NoSpace`.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => Self::NoSpace,
            K::NotFound => Self::NotFound,
            K::PermissionDenied => Self::PermissionDenied,
            K::ReadOnlyFilesystem => Self::ReadOnly,
            K::Unsupported => Self::NotSupported,
            K::AlreadyExists => Self::Exists,
            _ => Self::Io,
        }
    }
}

/// An engine error: its kind, what was tried on what, and the cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    context: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `context` says what was tried, on which device, at which chunk.
    #[cold]
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            context: context.into(),
            hint: None,
            source: None,
        }))
    }

    /// A system error; its kind follows from the cause.
    #[cold]
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = ErrorKind::of_io(&source);
        Self(Box::new(Inner {
            kind,
            context: context.into(),
            hint: None,
            source: Some(Box::new(source)),
        }))
    }

    /// The same error below a new context, its kind and hint kept.
    #[cold]
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        let kind = self.0.kind;
        let hint = self.0.hint.clone();
        Self(Box::new(Inner {
            kind,
            context: context.into(),
            hint,
            source: Some(Box::new(self)),
        }))
    }

    /// The same error with advice: what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error as another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.context)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<usnap_format::FormatError> for Error {
    fn from(error: usnap_format::FormatError) -> Self {
        use usnap_format::FormatError as F;
        let kind = match error {
            F::BadMagic { .. } | F::UnsupportedVersion { .. } => ErrorKind::Foreign,
            _ => ErrorKind::Corrupt,
        };
        Self::new(kind, error.to_string())
    }
}
