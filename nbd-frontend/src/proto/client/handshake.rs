//! The client's side of the handshake: asks for as much as wanted, falls back where the server has
//! less.
//!
//! Order: extended headers, else structured replies, then metadata contexts, then GO, else
//! EXPORT_NAME. A server that refuses one of the first three is taken as it is.

use core::fmt;

use super::super::catalog::{BlockSizes, TransmissionFlags};
use super::super::consts::{
    CLISERV_MAGIC, EXPORT_NAME_ZEROES, FLAG_C_FIXED_NEWSTYLE, FLAG_C_NO_ZEROES,
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, IHAVEOPT, INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT,
    INFO_NAME, INIT_PASSWD, MAX_STRING_BYTES, REP_ACK, REP_FLAG_ERROR, REP_INFO, REP_MAGIC,
    REP_META_CONTEXT,
};
use super::super::option::{OptionCode, OptionError};
use super::super::session::ReplyStyle;
use super::super::wire::{Get, wire_len};
use super::{ClientNegotiated, ClientOptions};

/// The longest reply to an option that is taken, in bytes; the longest that makes sense is a string
/// and a few numbers.
const MAX_REPLY_BYTES: u32 = 64 << 10;
/// How many replies a server may send to one option.
const MAX_REPLIES: u32 = 1024;

/// How far the handshake has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientProgress {
    /// The input holds no whole message any more.
    NeedMore,
    /// Transmission begins; what follows in the input belongs to it.
    Ready(ClientNegotiated),
    /// It will not; the connection is to be closed once the output was sent.
    Failed(HandshakeFailure),
}

/// Why a handshake failed.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// The handshake had ended before.
    AlreadyFinished,
    /// The server sent a number where a magic belongs.
    BadMagic {
        /// The number.
        found: u64,
    },
    /// A reply cannot be understood.
    BadReply {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A name in the options is longer than 4096 bytes.
    NameTooLong,
    /// The server speaks the oldstyle handshake.
    Oldstyle,
    /// The server refused.
    Refused {
        /// What it refused.
        option: OptionCode,
        /// With which error.
        error: OptionError,
        /// What it had to say to people.
        message: String,
    },
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyFinished => f.write_str("handshake is over"),
            Self::BadMagic { found } => write!(f, "server sent {found:#x} instead of a magic"),
            Self::BadReply { reason } => write!(f, "server sent an invalid reply: {reason}"),
            Self::NameTooLong => f.write_str("name is longer than 4096 bytes"),
            Self::Oldstyle => f.write_str("server speaks the oldstyle handshake"),
            Self::Refused {
                option,
                error,
                message,
            } if message.is_empty() => {
                write!(f, "server refused {option}: {error}")
            }
            Self::Refused {
                option,
                error,
                message,
            } => {
                write!(f, "server refused {option}: {error} ({message})")
            }
        }
    }
}

impl core::error::Error for HandshakeFailure {}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Greeting,
    /// A reply to that option is due.
    Option(OptionCode),
    /// What comes after EXPORT_NAME is no option reply.
    ExportName,
    Finished,
}

/// The client's side of one handshake.
#[derive(Debug)]
pub struct ClientHandshake {
    options: ClientOptions,
    state: State,
    /// Replies to the current option so far.
    replies: u32,
    fixed_newstyle: bool,
    no_zeroes: bool,
    reply_style: ReplyStyle,
    contexts: Vec<(u32, String)>,
    /// Size and flags, once the server told.
    export: Option<(u64, TransmissionFlags)>,
    block_sizes: Option<BlockSizes>,
    canonical_name: Option<String>,
    description: Option<String>,
}

/// What one message led to.
enum Step {
    NeedMore,
    Next,
    Ready(ClientNegotiated),
}

type Outcome<T> = Result<T, HandshakeFailure>;

impl ClientHandshake {
    /// Begins a handshake; the server speaks first.
    #[must_use]
    pub const fn new(options: ClientOptions) -> Self {
        Self {
            options,
            state: State::Greeting,
            replies: 0,
            fixed_newstyle: false,
            no_zeroes: false,
            reply_style: ReplyStyle::Simple,
            contexts: Vec::new(),
            export: None,
            block_sizes: None,
            canonical_name: None,
            description: None,
        }
    }

    /// Takes as many whole messages as `input` holds and appends what to send to `out`.
    ///
    /// Returns how many bytes of `input` were used; the rest has to come again, with more behind
    /// it. The output has to be sent whatever the progress is.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, ClientProgress) {
        let mut get = Get::new(input);
        let progress = loop {
            let mut ahead = get;
            match self.step(&mut ahead, out) {
                Ok(Step::NeedMore) => break ClientProgress::NeedMore,
                Ok(Step::Next) => get = ahead,
                Ok(Step::Ready(negotiated)) => {
                    get = ahead;
                    self.state = State::Finished;
                    break ClientProgress::Ready(negotiated);
                }
                Err(failure) => {
                    self.state = State::Finished;
                    break ClientProgress::Failed(failure);
                }
            }
        };
        (input.len().saturating_sub(get.rest().len()), progress)
    }

    /// Takes one message; if it is not whole, nothing has changed.
    fn step(&mut self, get: &mut Get<'_>, out: &mut Vec<u8>) -> Outcome<Step> {
        match self.state {
            State::Greeting => self.greeting(get, out),
            State::Option(option) => self.reply(option, get, out),
            State::ExportName => self.export_name_reply(get),
            State::Finished => Err(HandshakeFailure::AlreadyFinished),
        }
    }

    fn greeting(&mut self, get: &mut Get<'_>, out: &mut Vec<u8>) -> Outcome<Step> {
        let Some(magic) = get.u64() else {
            return Ok(Step::NeedMore);
        };
        if magic != INIT_PASSWD {
            return Err(HandshakeFailure::BadMagic { found: magic });
        }
        let Some(magic) = get.u64() else {
            return Ok(Step::NeedMore);
        };
        match magic {
            IHAVEOPT => {}
            CLISERV_MAGIC => return Err(HandshakeFailure::Oldstyle),
            found => return Err(HandshakeFailure::BadMagic { found }),
        }
        let Some(flags) = get.u16() else {
            return Ok(Step::NeedMore);
        };
        // "The client SHOULD ignore any handshake flags it does not recognize" and must not set one
        // that the server did not (proto.md, "Newstyle negotiation", "Client flags").
        self.fixed_newstyle = flags & FLAG_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & FLAG_NO_ZEROES != 0;
        let mut client_flags = 0;
        if self.fixed_newstyle {
            client_flags |= FLAG_C_FIXED_NEWSTYLE;
        }
        if self.no_zeroes {
            client_flags |= FLAG_C_NO_ZEROES;
        }
        let names = self
            .options
            .contexts
            .iter()
            .chain([&self.options.export_name]);
        if names.into_iter().any(|name| name.len() > MAX_STRING_BYTES) {
            return Err(HandshakeFailure::NameTooLong);
        }
        out.extend_from_slice(&client_flags.to_be_bytes());
        self.advance(None, out);
        Ok(Step::Next)
    }

    /// Sends the option that comes after `done`.
    fn advance(&mut self, done: Option<OptionCode>, out: &mut Vec<u8>) {
        self.replies = 0;
        let next = self.next_option(done);
        let data = match next {
            OptionCode::ExportName => self.options.export_name.as_bytes().to_vec(),
            OptionCode::Go => go_data(&self.options.export_name),
            OptionCode::SetMetaContext => {
                meta_context_data(&self.options.export_name, &self.options.contexts)
            }
            _ => Vec::new(),
        };
        self.state = match next {
            OptionCode::ExportName => State::ExportName,
            _ => State::Option(next),
        };
        option(out, next, &data);
    }

    fn next_option(&self, done: Option<OptionCode>) -> OptionCode {
        let steps: [(OptionCode, bool); 4] = [
            (OptionCode::ExtendedHeaders, self.options.extended),
            (
                OptionCode::StructuredReply,
                self.options.structured && self.reply_style == ReplyStyle::Simple,
            ),
            (
                OptionCode::SetMetaContext,
                self.reply_style.has_chunks() && !self.options.contexts.is_empty(),
            ),
            // Extended headers exclude EXPORT_NAME.
            (
                OptionCode::Go,
                self.options.use_go || self.reply_style == ReplyStyle::Extended,
            ),
        ];
        let already = match done {
            None => 0,
            Some(done) => steps
                .iter()
                .position(|&(step, _)| step == done)
                .map_or(steps.len(), |at| at + 1),
        };
        // Without fixed newstyle EXPORT_NAME "is the only valid option".
        steps
            .into_iter()
            .skip(already)
            .find(|&(_, wanted)| wanted && self.fixed_newstyle)
            .map_or(OptionCode::ExportName, |(step, _)| step)
    }

    fn reply(&mut self, option: OptionCode, get: &mut Get<'_>, out: &mut Vec<u8>) -> Outcome<Step> {
        let Some(magic) = get.u64() else {
            return Ok(Step::NeedMore);
        };
        if magic != REP_MAGIC {
            return Err(HandshakeFailure::BadMagic { found: magic });
        }
        let (Some(code), Some(reply_type), Some(len)) = (get.u32(), get.u32(), get.u32()) else {
            return Ok(Step::NeedMore);
        };
        if code != option.code() {
            return Err(bad("it answers another option"));
        }
        if len > MAX_REPLY_BYTES {
            return Err(bad("it is too long"));
        }
        let Some(data) = get.bytes(len) else {
            return Ok(Step::NeedMore);
        };
        self.replies = self.replies.saturating_add(1);
        if self.replies > MAX_REPLIES {
            return Err(bad("there are too many"));
        }
        if reply_type & REP_FLAG_ERROR != 0 {
            self.refused(option, OptionError::from_code(reply_type), data, out)?;
            return Ok(Step::Next);
        }
        match (option, reply_type) {
            (_, REP_ACK) if !data.is_empty() => return Err(bad("an acknowledgement has data")),
            (OptionCode::Go, REP_ACK) => return self.negotiated().map(Step::Ready),
            (_, REP_ACK) => self.acknowledged(option, out),
            (OptionCode::Go, REP_INFO) => self.info(data)?,
            (OptionCode::SetMetaContext, REP_META_CONTEXT) => self.context(data)?,
            _ => return Err(bad("its type does not belong to the option")),
        }
        Ok(Step::Next)
    }

    fn acknowledged(&mut self, option: OptionCode, out: &mut Vec<u8>) {
        match option {
            OptionCode::ExtendedHeaders => self.reply_style = ReplyStyle::Extended,
            OptionCode::StructuredReply => self.reply_style = ReplyStyle::Structured,
            _ => {}
        }
        self.advance(Some(option), out);
    }

    /// Goes on without the option, or gives up.
    fn refused(
        &mut self,
        option: OptionCode,
        error: OptionError,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Outcome<()> {
        let can_do_without = match option {
            // "clients SHOULD be prepared to also handle `NBD_REP_ERR_UNSUP` by falling back to
            // using `NBD_OPT_EXPORT_NAME`", which extended headers exclude.
            OptionCode::Go => {
                error == OptionError::Unsupported && self.reply_style != ReplyStyle::Extended
            }
            // "If the client receives `NBD_REP_ERR_SHUTDOWN` it MUST initiate a soft disconnect";
            // and where TLS is required, no other option will do better.
            _ => !matches!(error, OptionError::Shutdown | OptionError::TlsRequired),
        };
        if can_do_without {
            if option == OptionCode::SetMetaContext {
                // "If an error is returned, the client MUST disregard any context replies".
                self.contexts.clear();
            }
            self.advance(Some(option), out);
            return Ok(());
        }
        self::option(out, OptionCode::Abort, &[]);
        let message = data
            .get(..data.len().min(MAX_STRING_BYTES))
            .unwrap_or_default();
        let message = String::from_utf8_lossy(message).into_owned();
        Err(HandshakeFailure::Refused {
            option,
            error,
            message,
        })
    }

    fn info(&mut self, data: &[u8]) -> Outcome<()> {
        let mut get = Get::new(data);
        let kind = get.u16().ok_or_else(|| bad("an information has no type"))?;
        match kind {
            INFO_EXPORT => {
                let size = get.u64().zip(get.u16()).filter(|_| get.is_empty());
                let (size, flags) = size.ok_or_else(|| bad("NBD_INFO_EXPORT is not 12 bytes"))?;
                self.export = Some((size, TransmissionFlags(flags)));
            }
            INFO_NAME => self.canonical_name = Some(text(get.rest())?),
            INFO_DESCRIPTION => self.description = Some(text(get.rest())?),
            INFO_BLOCK_SIZE => {
                let (Some(minimum), Some(preferred), Some(max_payload), true) =
                    (get.u32(), get.u32(), get.u32(), get.is_empty())
                else {
                    return Err(bad("NBD_INFO_BLOCK_SIZE is not 14 bytes"));
                };
                self.block_sizes = BlockSizes {
                    minimum,
                    preferred,
                    max_payload,
                }
                .checked();
            }
            // "The client MUST ignore information replies it does not understand".
            _ => {}
        }
        Ok(())
    }

    fn context(&mut self, data: &[u8]) -> Outcome<()> {
        let mut get = Get::new(data);
        let id = get
            .u32()
            .ok_or_else(|| bad("a metadata context has no id"))?;
        if self.contexts.iter().any(|&(known, _)| known == id) {
            return Err(bad("two metadata contexts have the same id"));
        }
        self.contexts.push((id, text(get.rest())?));
        Ok(())
    }

    fn export_name_reply(&mut self, get: &mut Get<'_>) -> Outcome<Step> {
        let Some((size, flags)) = get.u64().zip(get.u16()) else {
            return Ok(Step::NeedMore);
        };
        if !self.no_zeroes && get.array::<EXPORT_NAME_ZEROES>().is_none() {
            return Ok(Step::NeedMore);
        }
        self.export = Some((size, TransmissionFlags(flags)));
        self.negotiated().map(Step::Ready)
    }

    fn negotiated(&mut self) -> Outcome<ClientNegotiated> {
        // "The server MUST send an `NBD_INFO_EXPORT` information type at some point before sending
        // an `NBD_REP_ACK`".
        let (size_bytes, flags) = self
            .export
            .ok_or_else(|| bad("NBD_INFO_EXPORT is missing"))?;
        Ok(ClientNegotiated {
            size_bytes,
            flags,
            block_sizes: self.block_sizes,
            reply_style: self.reply_style,
            contexts: core::mem::take(&mut self.contexts),
            canonical_name: self.canonical_name.take(),
            description: self.description.take(),
        })
    }
}

const fn bad(reason: &'static str) -> HandshakeFailure {
    HandshakeFailure::BadReply { reason }
}

fn text(bytes: &[u8]) -> Outcome<String> {
    if bytes.len() > MAX_STRING_BYTES {
        return Err(bad("a string is too long"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| bad("a string is not UTF-8"))
}

/// Appends an option.
fn option(out: &mut Vec<u8>, option: OptionCode, data: &[u8]) {
    out.extend_from_slice(&IHAVEOPT.to_be_bytes());
    out.extend_from_slice(&option.code().to_be_bytes());
    out.extend_from_slice(&wire_len(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

fn append_string(data: &mut Vec<u8>, text: &str) {
    data.extend_from_slice(&wire_len(text.len()).to_be_bytes());
    data.extend_from_slice(text.as_bytes());
}

fn go_data(name: &str) -> Vec<u8> {
    const REQUESTS: [u16; 3] = [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE];
    let mut data = Vec::new();
    append_string(&mut data, name);
    data.extend_from_slice(&3_u16.to_be_bytes());
    for request in REQUESTS {
        data.extend_from_slice(&request.to_be_bytes());
    }
    data
}

fn meta_context_data(name: &str, contexts: &[String]) -> Vec<u8> {
    let mut data = Vec::new();
    append_string(&mut data, name);
    data.extend_from_slice(&wire_len(contexts.len()).to_be_bytes());
    for context in contexts {
        append_string(&mut data, context);
    }
    data
}
