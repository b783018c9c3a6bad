//! What can go wrong for a blocking client.

use core::fmt;
use std::io;

use super::super::errno::Errno;
use super::super::request::RequestKind;
use super::reassembly::Incoherent;
use super::reply::BadReply;
use super::{HandshakeFailure, LengthTooLong};

/// Why a call failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The server broke the protocol; the client is of no more use.
    BadReply(BadReply),
    /// The server closed the connection, or it was given up after an earlier error.
    Closed,
    /// The server refused the handshake.
    Handshake(HandshakeFailure),
    /// The server's answer to a read does not add up; the client is of no more use.
    Incoherent(Incoherent),
    /// The stream failed; the client is of no more use.
    Io(io::Error),
    /// The request does not fit what was negotiated, and was not sent.
    LengthTooLong(LengthTooLong),
    /// [`Client::reap`](super::blocking::Client::reap) was called with nothing in flight.
    NothingInFlight,
    /// The request was answered with an error.
    Refused(Refusal),
    /// The server did not advertise what the request needs; it was not sent.
    Unsupported(RequestKind),
    /// The payload is not as long as the request says; it was not sent.
    WrongPayload,
}

/// The server's answer to a request it did not carry out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The error.
    pub errno: Errno,
    /// What it had to say to people; may be empty.
    pub message: String,
    /// Where in the export it failed, if it told.
    pub offset: Option<u64>,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadReply(_) => f.write_str("server broke the protocol"),
            Self::Closed => f.write_str("connection is closed"),
            Self::Handshake(_) => f.write_str("handshake failed"),
            Self::Incoherent(_) => f.write_str("server broke the protocol"),
            Self::Io(_) => f.write_str("connection failed"),
            Self::LengthTooLong(_) => f.write_str("request was not sent"),
            Self::NothingInFlight => f.write_str("no request is in flight"),
            Self::Refused(refusal) => write!(f, "server answered: {refusal}"),
            Self::Unsupported(kind) => {
                write!(
                    f,
                    "server did not advertise what command {} needs",
                    kind.command()
                )
            }
            Self::WrongPayload => f.write_str("payload does not have the length of the request"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.errno, self.errno.name())?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        self.offset
            .map_or(Ok(()), |offset| write!(f, " at offset {offset}"))
    }
}

impl core::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::BadReply(source) => Some(source),
            Self::Handshake(source) => Some(source),
            Self::Incoherent(source) => Some(source),
            Self::Io(source) => Some(source),
            Self::LengthTooLong(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(source),
        }
    }
}

impl From<BadReply> for ClientError {
    fn from(source: BadReply) -> Self {
        Self::BadReply(source)
    }
}
