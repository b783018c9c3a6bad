//! The errors a reply may carry. Nothing outside this enum goes on the wire.

use core::fmt;

/// An error value of the protocol (proto.md, "Error values").
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u32)]
pub enum Errno {
    /// `NBD_EPERM`: a write to a read-only export.
    Perm = 1,
    /// `NBD_EIO`: the device failed.
    Io = 5,
    /// `NBD_ENOMEM`: "The server SHOULD NOT return `NBD_ENOMEM` if at all possible".
    NoMem = 12,
    /// `NBD_EINVAL`: the request is wrong.
    Inval = 22,
    /// `NBD_ENOSPC`: no space left, or a write past the end.
    NoSpc = 28,
    /// `NBD_EOVERFLOW`: only for requests without payload whose length is too large, and long
    /// reads that may not be split.
    Overflow = 75,
    /// `NBD_ENOTSUP`: only for a fast zero that would not be fast.
    NotSup = 95,
    /// `NBD_ESHUTDOWN`: the server is going down.
    Shutdown = 108,
}

impl Errno {
    /// Every error of the protocol, in the order of their codes.
    pub const ALL: [Self; 8] = [
        Self::Perm,
        Self::Io,
        Self::NoMem,
        Self::Inval,
        Self::NoSpc,
        Self::Overflow,
        Self::NotSup,
        Self::Shutdown,
    ];

    /// The number that goes on the wire.
    #[inline]
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Reads an error a server sent; 0 (no error) is the caller's to handle before.
    ///
    /// "The client SHOULD treat an unexpected error value as if it had been `NBD_EINVAL`"
    /// (proto.md, "Error values").
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Perm,
            5 => Self::Io,
            12 => Self::NoMem,
            28 => Self::NoSpc,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Inval,
        }
    }

    /// The protocol's name for it, such as `NBD_EIO`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Perm => "NBD_EPERM",
            Self::Io => "NBD_EIO",
            Self::NoMem => "NBD_ENOMEM",
            Self::Inval => "NBD_EINVAL",
            Self::NoSpc => "NBD_ENOSPC",
            Self::Overflow => "NBD_EOVERFLOW",
            Self::NotSup => "NBD_ENOTSUP",
            Self::Shutdown => "NBD_ESHUTDOWN",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "cannot allocate memory",
            Self::Inval => "invalid argument",
            Self::NoSpc => "no space left on device",
            Self::Overflow => "value too large",
            Self::NotSup => "operation not supported",
            Self::Shutdown => "server is shutting down",
        })
    }
}

impl core::error::Error for Errno {}
