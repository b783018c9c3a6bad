//! NBD URIs (uri.md beside proto.md): how to write down where an export is.
//!
//! `nbd://HOST:PORT/EXPORT` for TCP and `nbd+unix:///EXPORT?socket=PATH` for Unix sockets; `nbds`
//! and `nbds+unix` if TLS is required. Names and paths are percent-encoded (RFC 3986).

use core::fmt;
use core::str::FromStr;

use super::consts::{DEFAULT_PORT, MAX_STRING_BYTES};

/// Where an export is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct NbdUri {
    /// How to reach the server.
    pub address: Address,
    /// The connection must fail unless it is encrypted.
    pub tls: bool,
    /// The export; empty for the default one.
    pub export_name: String,
    /// The user for TLS authentication.
    pub user: Option<String>,
    /// Parameters other than `socket`, decoded, in order (such as `tls-hostname`).
    pub parameters: Vec<(String, String)>,
}

/// How to reach a server.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name or an address; an IPv6 address without brackets.
        host: String,
        /// The port, usually 10809.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path as bytes, because paths need not be UTF-8; a leading NUL means an abstract one.
        socket: Vec<u8>,
    },
}

/// Why a text is no NBD URI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum UriError {
    /// A `%` is not followed by two hexadecimal digits.
    BadEscape,
    /// The port is no number from 1 to 65535.
    BadPort,
    /// The export name is no string an export can have.
    BadExportName,
    /// A name or parameter is not UTF-8 once decoded.
    NotUtf8,
    /// The scheme is not one of NBD's four.
    Scheme,
    /// A Unix socket's URI has no `socket` parameter, or another one has two.
    Socket,
    /// A character stands where it must be percent-encoded, or a bracket is missing.
    Syntax,
    /// A parameter that does not exist (uri.md: "SHOULD be diagnosed by the parser").
    UnknownParameter,
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadEscape => "'%' without two hexadecimal digits in NBD URI",
            Self::BadPort => "invalid port in NBD URI",
            Self::BadExportName => "invalid export name in NBD URI",
            Self::NotUtf8 => "name in NBD URI is not UTF-8",
            Self::Scheme => "NBD URI does not begin with nbd:, nbds:, nbd+unix: or nbds+unix:",
            Self::Socket => "NBD URI needs exactly one 'socket' parameter for a Unix socket",
            Self::Syntax => "malformed NBD URI",
            Self::UnknownParameter => "unknown parameter in NBD URI",
        })
    }
}

impl core::error::Error for UriError {}

impl NbdUri {
    /// An export on a Unix socket.
    #[must_use]
    pub fn unix(socket: impl Into<Vec<u8>>, export_name: impl Into<String>) -> Self {
        Self::new(
            Address::Unix {
                socket: socket.into(),
            },
            export_name.into(),
        )
    }

    /// An export on a TCP port.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16, export_name: impl Into<String>) -> Self {
        Self::new(
            Address::Tcp {
                host: host.into(),
                port,
            },
            export_name.into(),
        )
    }

    const fn new(address: Address, export_name: String) -> Self {
        Self {
            address,
            tls: false,
            export_name,
            user: None,
            parameters: Vec::new(),
        }
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "nbds" } else { "nbd" })?;
        let mut separator = '?';
        match &self.address {
            Address::Tcp { host, port } => {
                f.write_str("://")?;
                self.write_user(f)?;
                if host.contains(':') {
                    // The brackets of RFC 2732; a zone's '%' is encoded.
                    f.write_str("[")?;
                    escape(f, host.as_bytes(), b":")?;
                    f.write_str("]")?;
                } else {
                    escape(f, host.as_bytes(), b"")?;
                }
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                f.write_str("/")?;
                escape(f, self.export_name.as_bytes(), IN_PATH)?;
            }
            Address::Unix { socket } => {
                f.write_str("+unix://")?;
                self.write_user(f)?;
                f.write_str("/")?;
                escape(f, self.export_name.as_bytes(), IN_PATH)?;
                f.write_str("?socket=")?;
                escape(f, socket, IN_QUERY)?;
                separator = '&';
            }
        }
        for (key, value) in &self.parameters {
            write!(f, "{separator}")?;
            escape(f, key.as_bytes(), IN_QUERY)?;
            f.write_str("=")?;
            escape(f, value.as_bytes(), IN_QUERY)?;
            separator = '&';
        }
        Ok(())
    }
}

impl NbdUri {
    fn write_user(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => {
                escape(f, user.as_bytes(), b"")?;
                f.write_str("@")
            }
            None => Ok(()),
        }
    }
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text
            .chars()
            .any(|c| !c.is_ascii() || c.is_ascii_control() || " \"<>\\^`{|}#".contains(c))
        {
            return Err(UriError::Syntax);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        let (tls, unix) = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(UriError::Scheme),
        };
        let rest = rest.strip_prefix("//").ok_or(UriError::Syntax)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // "the path part of the URI except for the leading `/` character MUST be passed to the
        // server as the export name"
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export_name = decode_text(path)?;
        if export_name.len() > MAX_STRING_BYTES || export_name.contains('\0') {
            return Err(UriError::BadExportName);
        }
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host_port)) => (Some(decode_text(user)?), host_port),
            None => (None, authority),
        };
        let (socket, parameters) = decode_query(query)?;
        let address = match (unix, socket) {
            // "SHOULD NOT be used for Unix domain socket connections" (of the authority).
            (true, Some(socket)) if host_port.is_empty() && !socket.is_empty() => {
                Address::Unix { socket }
            }
            (true, Some(socket)) if !socket.is_empty() => return Err(UriError::Syntax),
            (true, _) | (false, Some(_)) => return Err(UriError::Socket),
            (false, None) => decode_host_port(host_port)?,
        };
        Ok(Self {
            address,
            tls,
            export_name,
            user,
            parameters,
        })
    }
}

/// What uri.md defines, and `x-` for experiments.
fn is_known_parameter(key: &str) -> bool {
    matches!(key, "tls-type" | "tls-hostname" | "tls-verify-peer")
        // libnbd's, widely used.
        || matches!(key, "tls-certificates" | "tls-psk-file")
        || key.starts_with("x-")
}

type Query = (Option<Vec<u8>>, Vec<(String, String)>);

fn decode_query(query: &str) -> Result<Query, UriError> {
    let mut socket = None;
    let mut parameters = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match decode_text(key)?.as_str() {
            "socket" if socket.is_some() => return Err(UriError::Socket),
            "socket" => socket = Some(decode(value)?),
            key if is_known_parameter(key) => {
                parameters.push((key.to_owned(), decode_text(value)?))
            }
            _ => return Err(UriError::UnknownParameter),
        }
    }
    Ok((socket, parameters))
}

fn decode_host_port(text: &str) -> Result<Address, UriError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(UriError::Syntax)?;
            (
                host,
                if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':').ok_or(UriError::Syntax)?)
                },
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(UriError::Syntax);
    }
    let port = match port {
        // RFC 3986 allows the colon without a port.
        None | Some("") => DEFAULT_PORT,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or(UriError::BadPort)?,
        Some(_) => return Err(UriError::BadPort),
    };
    Ok(Address::Tcp {
        host: decode_text(host)?,
        port,
    })
}

/// Characters besides RFC 3986's unreserved ones that a path may hold as they are.
const IN_PATH: &[u8] = b"/:@!$&'()*+,;=";
/// Characters besides the unreserved ones that a value may hold as they are; neither `&`, which
/// separates, nor `+`, which some readers take for a blank.
const IN_QUERY: &[u8] = b"/:@,";

fn escape(f: &mut fmt::Formatter<'_>, bytes: &[u8], plain: &[u8]) -> fmt::Result {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || plain.contains(&byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

fn decode_text(text: &str) -> Result<String, UriError> {
    String::from_utf8(decode(text)?).map_err(|_| UriError::NotUtf8)
}

fn decode(text: &str) -> Result<Vec<u8>, UriError> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = digit(bytes.next())
            .zip(digit(bytes.next()))
            .ok_or(UriError::BadEscape)?;
        decoded.push(u8::try_from(high * 16 + low).map_err(|_| UriError::BadEscape)?);
    }
    Ok(decoded)
}
