//! Options and the replies to them: their numbers, the data of those that have some, and how
//! replies are framed.

use core::fmt;

use super::consts::{
    MAX_STRING_BYTES, OPT_ABORT, OPT_EXPORT_NAME, OPT_EXTENDED_HEADERS, OPT_GO, OPT_INFO, OPT_LIST,
    OPT_LIST_META_CONTEXT, OPT_PEEK_EXPORT, OPT_SET_META_CONTEXT, OPT_STARTTLS,
    OPT_STRUCTURED_REPLY, REP_ERR_BLOCK_SIZE_REQD, REP_ERR_EXT_HEADER_REQD, REP_ERR_INVALID,
    REP_ERR_PLATFORM, REP_ERR_POLICY, REP_ERR_SHUTDOWN, REP_ERR_TLS_REQD, REP_ERR_TOO_BIG,
    REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_MAGIC,
};
use super::wire::{Get, wire_len};

/// The option a client sent; unknown ones keep their number, so that the answer can name it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OptionCode {
    /// `NBD_OPT_ABORT`.
    Abort,
    /// `NBD_OPT_EXPORT_NAME`.
    ExportName,
    /// `NBD_OPT_EXTENDED_HEADERS`.
    ExtendedHeaders,
    /// `NBD_OPT_GO`.
    Go,
    /// `NBD_OPT_INFO`.
    Info,
    /// `NBD_OPT_LIST`.
    List,
    /// `NBD_OPT_LIST_META_CONTEXT`.
    ListMetaContext,
    /// `NBD_OPT_PEEK_EXPORT`, withdrawn.
    PeekExport,
    /// `NBD_OPT_SET_META_CONTEXT`.
    SetMetaContext,
    /// `NBD_OPT_STARTTLS`.
    StartTls,
    /// `NBD_OPT_STRUCTURED_REPLY`.
    StructuredReply,
    /// Any other.
    Unknown(u32),
}

impl OptionCode {
    /// Reads the number of an option.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            OPT_EXPORT_NAME => Self::ExportName,
            OPT_ABORT => Self::Abort,
            OPT_LIST => Self::List,
            OPT_PEEK_EXPORT => Self::PeekExport,
            OPT_STARTTLS => Self::StartTls,
            OPT_INFO => Self::Info,
            OPT_GO => Self::Go,
            OPT_STRUCTURED_REPLY => Self::StructuredReply,
            OPT_LIST_META_CONTEXT => Self::ListMetaContext,
            OPT_SET_META_CONTEXT => Self::SetMetaContext,
            OPT_EXTENDED_HEADERS => Self::ExtendedHeaders,
            _ => Self::Unknown(code),
        }
    }

    /// The number of the option.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::ExportName => OPT_EXPORT_NAME,
            Self::Abort => OPT_ABORT,
            Self::List => OPT_LIST,
            Self::PeekExport => OPT_PEEK_EXPORT,
            Self::StartTls => OPT_STARTTLS,
            Self::Info => OPT_INFO,
            Self::Go => OPT_GO,
            Self::StructuredReply => OPT_STRUCTURED_REPLY,
            Self::ListMetaContext => OPT_LIST_META_CONTEXT,
            Self::SetMetaContext => OPT_SET_META_CONTEXT,
            Self::ExtendedHeaders => OPT_EXTENDED_HEADERS,
            Self::Unknown(code) => code,
        }
    }
}

impl fmt::Display for OptionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Abort => "NBD_OPT_ABORT",
            Self::ExportName => "NBD_OPT_EXPORT_NAME",
            Self::ExtendedHeaders => "NBD_OPT_EXTENDED_HEADERS",
            Self::Go => "NBD_OPT_GO",
            Self::Info => "NBD_OPT_INFO",
            Self::List => "NBD_OPT_LIST",
            Self::ListMetaContext => "NBD_OPT_LIST_META_CONTEXT",
            Self::PeekExport => "NBD_OPT_PEEK_EXPORT",
            Self::SetMetaContext => "NBD_OPT_SET_META_CONTEXT",
            Self::StartTls => "NBD_OPT_STARTTLS",
            Self::StructuredReply => "NBD_OPT_STRUCTURED_REPLY",
            Self::Unknown(code) => return write!(f, "option {code}"),
        })
    }
}

/// The error with which an option was answered; unknown ones keep their number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OptionError {
    /// `NBD_REP_ERR_BLOCK_SIZE_REQD`.
    BlockSizeRequired,
    /// `NBD_REP_ERR_EXT_HEADER_REQD`.
    ExtendedHeadersRequired,
    /// `NBD_REP_ERR_INVALID`.
    Invalid,
    /// `NBD_REP_ERR_PLATFORM`.
    Platform,
    /// `NBD_REP_ERR_POLICY`.
    Policy,
    /// `NBD_REP_ERR_SHUTDOWN`.
    Shutdown,
    /// `NBD_REP_ERR_TLS_REQD`.
    TlsRequired,
    /// `NBD_REP_ERR_TOO_BIG`.
    TooBig,
    /// `NBD_REP_ERR_UNKNOWN`: no such export.
    UnknownExport,
    /// `NBD_REP_ERR_UNSUP`.
    Unsupported,
    /// Any other.
    Unknown(u32),
}

impl OptionError {
    /// Reads the type of a reply that has the error bit.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            REP_ERR_UNSUP => Self::Unsupported,
            REP_ERR_POLICY => Self::Policy,
            REP_ERR_INVALID => Self::Invalid,
            REP_ERR_PLATFORM => Self::Platform,
            REP_ERR_TLS_REQD => Self::TlsRequired,
            REP_ERR_UNKNOWN => Self::UnknownExport,
            REP_ERR_SHUTDOWN => Self::Shutdown,
            REP_ERR_BLOCK_SIZE_REQD => Self::BlockSizeRequired,
            REP_ERR_TOO_BIG => Self::TooBig,
            REP_ERR_EXT_HEADER_REQD => Self::ExtendedHeadersRequired,
            _ => Self::Unknown(code),
        }
    }

    /// The type of the reply.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Unsupported => REP_ERR_UNSUP,
            Self::Policy => REP_ERR_POLICY,
            Self::Invalid => REP_ERR_INVALID,
            Self::Platform => REP_ERR_PLATFORM,
            Self::TlsRequired => REP_ERR_TLS_REQD,
            Self::UnknownExport => REP_ERR_UNKNOWN,
            Self::Shutdown => REP_ERR_SHUTDOWN,
            Self::BlockSizeRequired => REP_ERR_BLOCK_SIZE_REQD,
            Self::TooBig => REP_ERR_TOO_BIG,
            Self::ExtendedHeadersRequired => REP_ERR_EXT_HEADER_REQD,
            Self::Unknown(code) => code,
        }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BlockSizeRequired => "block sizes must be asked for",
            Self::ExtendedHeadersRequired => "extended headers are required",
            Self::Invalid => "the option is invalid",
            Self::Platform => "not supported on the server's platform",
            Self::Policy => "forbidden by the server's policy",
            Self::Shutdown => "the server is shutting down",
            Self::TlsRequired => "TLS is required",
            Self::TooBig => "the option or its answer is too large",
            Self::UnknownExport => "no such export",
            Self::Unsupported => "the option is not supported",
            Self::Unknown(code) => return write!(f, "option error {code:#x}"),
        })
    }
}

/// Why an option's data cannot be used, and the error that says so.
pub(super) type Malformed = (OptionError, &'static str);

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Copy, Debug)]
pub(super) struct InfoQuery<'a> {
    /// The export.
    pub(super) name: &'a str,
    /// The information requests, two bytes each.
    requests: Get<'a>,
}

impl<'a> InfoQuery<'a> {
    /// Reads "32 bits, length of name (unsigned); MUST be no larger than the option data length -
    /// 6", the name, "16 bits, number of information requests" and "16 bits x n" (proto.md, "Option
    /// types").
    pub(super) fn decode(data: &'a [u8], max_name_bytes: usize) -> Result<Self, Malformed> {
        const SHORT: Malformed = (
            OptionError::Invalid,
            "the option is shorter than its name says",
        );
        let mut get = Get::new(data);
        let name_len = get.u32().ok_or(SHORT)?;
        let name = string(get.bytes(name_len).ok_or(SHORT)?, max_name_bytes)?;
        let count = get.u16().ok_or(SHORT)?;
        if get.rest().len() != usize::from(count) * 2 {
            return Err((
                OptionError::Invalid,
                "the number of information requests is wrong",
            ));
        }
        Ok(Self {
            name,
            requests: get,
        })
    }

    /// Whether that information was requested.
    pub(super) fn requests(&self, info: u16) -> bool {
        let mut get = self.requests;
        core::iter::from_fn(|| get.u16()).any(|request| request == info)
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Copy, Debug)]
pub(super) struct MetaQuery<'a> {
    /// The export.
    pub(super) name: &'a str,
    /// How many queries follow.
    pub(super) count: u32,
    queries: Get<'a>,
}

impl<'a> MetaQuery<'a> {
    /// Reads length and name of the export and the number of queries; the queries are read by
    /// [`Self::queries`].
    pub(super) fn decode(data: &'a [u8], max_name_bytes: usize) -> Result<Self, Malformed> {
        let mut get = Get::new(data);
        let name_len = get.u32().ok_or(SHORT_QUERY)?;
        let name = string(get.bytes(name_len).ok_or(SHORT_QUERY)?, max_name_bytes)?;
        let count = get.u32().ok_or(SHORT_QUERY)?;
        Ok(Self {
            name,
            count,
            queries: get,
        })
    }

    /// Hands each query to `each`; an error as soon as one is malformed, or if bytes are left over.
    ///
    /// A count of billions ends with the data, that is, soon: each query takes at least 4 bytes of
    /// it.
    pub(super) fn queries(
        &self,
        mut each: impl FnMut(&'a str) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut get = self.queries;
        for _ in 0..self.count {
            let len = get.u32().ok_or(SHORT_QUERY)?;
            each(string(
                get.bytes(len).ok_or(SHORT_QUERY)?,
                MAX_STRING_BYTES,
            )?)?;
        }
        if get.is_empty() {
            Ok(())
        } else {
            Err((OptionError::Invalid, "bytes after the last query"))
        }
    }
}

/// "If the option request is syntactically invalid (such as a query length that would require
/// reading beyond the original length given in the option header), the server MUST fail the request
/// with `NBD_REP_ERR_INVALID`".
const SHORT_QUERY: Malformed = (
    OptionError::Invalid,
    "the option is shorter than its lengths say",
);

/// Reads a string: "a sequence of UTF-8 code points, which is not `NUL` terminated, MUST NOT
/// contain `NUL` characters, ... and MUST be no longer than 4096 bytes" (proto.md, "Conventions").
pub(super) fn string(bytes: &[u8], max_bytes: usize) -> Result<&str, Malformed> {
    if bytes.len() > max_bytes {
        return Err((OptionError::TooBig, "a name is too long"));
    }
    if bytes.contains(&0) {
        return Err((OptionError::Invalid, "a name contains a NUL"));
    }
    core::str::from_utf8(bytes).map_err(|_| (OptionError::Invalid, "a name is not UTF-8"))
}

/// Appends a reply to `option` whose data is `parts`, one after the other.
pub(super) fn reply(out: &mut Vec<u8>, option: OptionCode, reply_type: u32, parts: &[&[u8]]) {
    let len = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&REP_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.code().to_be_bytes());
    out.extend_from_slice(&reply_type.to_be_bytes());
    out.extend_from_slice(&wire_len(len).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends an error reply: "All error replies MAY have some data set, in which case that data is an
/// error message string suitable for display to the user" (proto.md, "Option reply types").
pub(super) fn reply_error(out: &mut Vec<u8>, option: OptionCode, error: OptionError, text: &str) {
    reply(out, option, error.code(), &[text.as_bytes()]);
}
