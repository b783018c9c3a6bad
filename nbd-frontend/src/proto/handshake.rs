//! The server's side of the handshake: fixed newstyle, from the greeting to transmission.
//!
//! | state | waits for | goes to |
//! |---|---|---|
//! | `ClientFlags` | the client's 4 bytes of flags | `Options`; `Finished` on an unknown flag |
//! | `Options` | an option that is not too long | itself; `Finished` by EXPORT_NAME, GO, ABORT |
//! | | the header of one that is | `Drain`; `Finished` if it is too long even for that |
//! | `Drain` | the rest of a long option, thrown away | `Options`; `Finished` if it was ABORT |
//! | `Finished` | nothing | itself |
//!
//! Invariants:
//! - every option but EXPORT_NAME gets exactly one final reply, and the state after a failed option
//!   is `Options` again;
//! - nothing is stored of what a peer sends but the name in its last SET_META_CONTEXT, and nothing
//!   is allocated before its size was checked against [`HandshakeLimits`];
//! - the output depends on the bytes received, not on how they were split, as long as the client
//!   keeps to one option at a time ("The client MUST NOT send any option until it has received a
//!   final reply to any option it has sent").

use core::fmt;

use super::catalog::Catalog;
use super::consts::{
    FLAG_C_FIXED_NEWSTYLE, FLAG_C_NO_ZEROES, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, IHAVEOPT,
    INIT_PASSWD, MAX_STRING_BYTES, REP_ACK,
};
use super::haggle::Agreement;
use super::option::{OptionCode, OptionError, reply, reply_error};
use super::session::Negotiated;
use super::wire::Get;

/// Options longer than this end the session, because reading them to throw them away would be a
/// service to attackers.
const MAX_DRAINED_OPTION_BYTES: u32 = 32 << 20;
/// Once the answers of one call to [`Handshake::receive`] are longer than this, no further option
/// may be in its input: that client sends options without waiting for replies, and asks for a list
/// in each.
const MAX_PIPELINED_REPLY_BYTES: usize = 1 << 20;

/// Bounds on what a client may make the server do before transmission.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HandshakeLimits {
    /// The longest data of an option that is looked at, in bytes; the caller's buffer has to hold
    /// it and 16 bytes more.
    pub max_option_bytes: u32,
    /// How many options a session may take.
    pub max_options: u32,
    /// The longest name of an export, in bytes; 4096 at most.
    pub max_name: u32,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            max_option_bytes: 64 << 10,
            max_options: 1024,
            max_name: 4096,
        }
    }
}

/// What the server owns up to; what is false is answered as by a server that never heard of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Features {
    /// `NBD_OPT_STRUCTURED_REPLY`.
    pub structured_replies: bool,
    /// `NBD_OPT_EXTENDED_HEADERS`.
    pub extended_headers: bool,
    /// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
    pub meta_contexts: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            structured_replies: true,
            extended_headers: true,
            meta_contexts: true,
        }
    }
}

/// How far the handshake has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress {
    /// The input holds no whole message any more.
    NeedMore,
    /// The client chose an export; what follows in the input is its first request.
    Transmission(Negotiated),
    /// The connection is to be closed once the output was sent.
    Closed(CloseReason),
}

/// Why a handshake ended without transmission.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client sent `NBD_OPT_ABORT`, and was told that this is fine.
    Aborted,
    /// The handshake had ended before.
    AlreadyFinished,
    /// The client set flags that do not exist.
    BadClientFlags {
        /// Its flags.
        found: u32,
    },
    /// An option does not begin with the magic.
    BadOptionMagic {
        /// What it begins with.
        found: u64,
    },
    /// The client used `NBD_OPT_EXPORT_NAME` after it had negotiated extended headers.
    ExportNameAfterExtendedHeaders,
    /// The name in `NBD_OPT_EXPORT_NAME` is too long or is not a string.
    ExportNameInvalid,
    /// An option is too long to read and throw away, or is a too long `NBD_OPT_EXPORT_NAME`, which
    /// has no error reply.
    OptionTooLong {
        /// The option.
        option: OptionCode,
        /// The length of its data in bytes.
        len: u32,
    },
    /// The client used `NBD_OPT_EXPORT_NAME` while the server goes down.
    ShuttingDown,
    /// The client sent more options than [`HandshakeLimits::max_options`].
    TooManyOptions,
    /// The client sent options without waiting for the replies, and these grew too long.
    TooMuchPipelined,
    /// No export has the name in `NBD_OPT_EXPORT_NAME`.
    UnknownExport,
}

impl CloseReason {
    /// Whether the client ended the session as it should.
    #[must_use]
    pub const fn is_orderly(self) -> bool {
        matches!(self, Self::Aborted)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted => f.write_str("client aborted the handshake"),
            Self::AlreadyFinished => f.write_str("handshake is over"),
            Self::BadClientFlags { found } => write!(f, "client set unknown flags ({found:#x})"),
            Self::BadOptionMagic { found } => {
                write!(f, "option begins with {found:#018x}, not the magic")
            }
            Self::ExportNameAfterExtendedHeaders => {
                f.write_str("client used NBD_OPT_EXPORT_NAME after extended headers")
            }
            Self::ExportNameInvalid => f.write_str("NBD_OPT_EXPORT_NAME has an invalid name"),
            Self::OptionTooLong { option, len } => write!(f, "{option} has {len} bytes of data"),
            Self::ShuttingDown => f.write_str("server is shutting down"),
            Self::TooManyOptions => f.write_str("client sent too many options"),
            Self::TooMuchPipelined => f.write_str("client sent options without awaiting replies"),
            Self::UnknownExport => f.write_str("NBD_OPT_EXPORT_NAME asked for an unknown export"),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    ClientFlags,
    Options,
    Drain { option: OptionCode, remaining: u32 },
    Finished,
}

/// What one message led to.
pub(super) enum Step {
    NeedMore,
    /// Go on with the next message.
    Next,
    Finished(Progress),
}

/// The server's side of one client's handshake.
#[derive(Debug)]
pub struct Handshake {
    limits: HandshakeLimits,
    state: State,
    /// Options taken so far.
    options: u32,
    shutting_down: bool,
    /// Whether the client speaks fixed newstyle.
    fixed_newstyle: bool,
    agreement: Agreement,
}

impl Handshake {
    /// Begins a handshake.
    #[must_use]
    pub fn new(limits: HandshakeLimits, features: Features) -> Self {
        let max_name = usize::try_from(limits.max_name).unwrap_or(MAX_STRING_BYTES);
        Self {
            limits,
            state: State::ClientFlags,
            options: 0,
            shutting_down: false,
            fixed_newstyle: false,
            agreement: Agreement::new(features, max_name.min(MAX_STRING_BYTES)),
        }
    }

    /// Appends what the server sends first.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&INIT_PASSWD.to_be_bytes());
        out.extend_from_slice(&IHAVEOPT.to_be_bytes());
        out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    }

    /// From now on every option but ABORT is answered with `NBD_REP_ERR_SHUTDOWN`.
    pub const fn set_shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// Takes as many whole messages as `input` holds and appends the replies to `out`.
    ///
    /// Returns how many bytes of `input` were used; the rest has to come again, with more behind
    /// it. The output has to be sent whatever the progress is. An error of the client's that can be
    /// answered is an answer, not an end.
    pub fn receive(
        &mut self,
        catalog: &dyn Catalog,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Progress) {
        let mut get = Get::new(input);
        let max_out = out.len().saturating_add(MAX_PIPELINED_REPLY_BYTES);
        let progress = loop {
            if out.len() > max_out && !get.is_empty() {
                break self.close(CloseReason::TooMuchPipelined);
            }
            match self.step(catalog, &mut get, out) {
                Step::Next => {}
                Step::NeedMore => return (used(input, get), Progress::NeedMore),
                Step::Finished(progress) => break progress,
            }
        };
        self.state = State::Finished;
        (used(input, get), progress)
    }

    fn step(&mut self, catalog: &dyn Catalog, get: &mut Get<'_>, out: &mut Vec<u8>) -> Step {
        match self.state {
            State::ClientFlags => self.client_flags(get),
            State::Options => self.option(catalog, get, out),
            State::Drain { option, remaining } => self.drain(option, remaining, get, out),
            State::Finished => Step::Finished(Progress::Closed(CloseReason::AlreadyFinished)),
        }
    }

    /// "the server MUST drop the TCP connection if the client sets an unknown flag, or a flag that
    /// does not match something advertised by the server" (proto.md, "Client flags").
    fn client_flags(&mut self, get: &mut Get<'_>) -> Step {
        let Some(flags) = get.u32() else {
            return Step::NeedMore;
        };
        if flags & !(FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES) != 0 {
            return Step::Finished(self.close(CloseReason::BadClientFlags { found: flags }));
        }
        self.fixed_newstyle = flags & FLAG_C_FIXED_NEWSTYLE != 0;
        self.agreement.no_zeroes = flags & FLAG_C_NO_ZEROES != 0;
        self.state = State::Options;
        Step::Next
    }

    fn option(&mut self, catalog: &dyn Catalog, get: &mut Get<'_>, out: &mut Vec<u8>) -> Step {
        let mut ahead = *get;
        let Some(magic) = ahead.u64() else {
            return Step::NeedMore;
        };
        if magic != IHAVEOPT {
            return Step::Finished(self.close(CloseReason::BadOptionMagic { found: magic }));
        }
        let (Some(code), Some(len)) = (ahead.u32(), ahead.u32()) else {
            return Step::NeedMore;
        };
        let option = OptionCode::from_code(code);
        if len > self.limits.max_option_bytes {
            *get = ahead;
            return self.long_option(option, len);
        }
        let Some(data) = ahead.bytes(len) else {
            return Step::NeedMore;
        };
        *get = ahead;
        if let Err(reason) = self.count_option() {
            return Step::Finished(self.close(reason));
        }
        self.answer(catalog, option, data, out)
    }

    fn count_option(&mut self) -> Result<(), CloseReason> {
        self.options = self.options.saturating_add(1);
        if self.options > self.limits.max_options {
            // "if a server believes a client's behaviour constitutes a denial of service, it MAY
            // initiate a hard disconnect" (proto.md, "Termination of the session during option
            // haggling").
            return Err(CloseReason::TooManyOptions);
        }
        Ok(())
    }

    /// Prepares to skip an option that will not be looked at, unless that, too, is asked too much.
    fn long_option(&mut self, option: OptionCode, len: u32) -> Step {
        let reason = match option {
            // It has no error reply, and no export has so long a name.
            OptionCode::ExportName => Some(CloseReason::OptionTooLong { option, len }),
            _ if len > MAX_DRAINED_OPTION_BYTES => Some(CloseReason::OptionTooLong { option, len }),
            _ => self.count_option().err(),
        };
        if let Some(reason) = reason {
            return Step::Finished(self.close(reason));
        }
        self.state = State::Drain {
            option,
            remaining: len,
        };
        Step::Next
    }

    /// Throws away what there is of a long option, and answers it when it is through.
    fn drain(
        &mut self,
        option: OptionCode,
        remaining: u32,
        get: &mut Get<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        let here = u32::try_from(get.rest().len())
            .unwrap_or(u32::MAX)
            .min(remaining);
        // Cannot fail: `here` is at most what is there.
        let _ = get.bytes(here);
        let remaining = remaining.saturating_sub(here);
        if remaining > 0 {
            self.state = State::Drain { option, remaining };
            return Step::NeedMore;
        }
        self.state = State::Options;
        if let Some(step) = self.answer_before_data(option, out) {
            return step;
        }
        self.agreement.too_big(option, out);
        Step::Next
    }

    /// Answers a whole option.
    fn answer(
        &mut self,
        catalog: &dyn Catalog,
        option: OptionCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Step {
        match self.answer_before_data(option, out) {
            Some(step) => step,
            None => self.agreement.option(catalog, option, data, out),
        }
    }

    /// Answers an option whose data plays no part.
    fn answer_before_data(&mut self, option: OptionCode, out: &mut Vec<u8>) -> Option<Step> {
        if option == OptionCode::SetMetaContext {
            // "Issuing this command replaces all previously-set metadata contexts (including when
            // this command fails)" (proto.md, "Option types").
            self.agreement.forget_contexts();
        }
        match option {
            OptionCode::Abort => {
                // "The server MUST reply with `NBD_REP_ACK`" and "SHOULD ignore any data sent by
                // the client".
                reply(out, option, REP_ACK, &[]);
                Some(Step::Finished(self.close(CloseReason::Aborted)))
            }
            OptionCode::ExportName if self.shutting_down => {
                Some(Step::Finished(self.close(CloseReason::ShuttingDown)))
            }
            _ if self.shutting_down => {
                // "SHOULD error further options received (other than an `NBD_OPT_ABORT`) with
                // `NBD_REP_ERR_SHUTDOWN`".
                reply_error(
                    out,
                    option,
                    OptionError::Shutdown,
                    "the server is shutting down",
                );
                Some(Step::Next)
            }
            OptionCode::ExportName => None,
            _ if !self.fixed_newstyle => {
                // "This is the only valid option in nonfixed newstyle negotiation" (of
                // EXPORT_NAME). A client that sends others understands replies to them.
                let text = "client did not negotiate fixed newstyle";
                reply_error(out, option, OptionError::Invalid, text);
                Some(Step::Next)
            }
            _ => None,
        }
    }

    const fn close(&mut self, reason: CloseReason) -> Progress {
        self.state = State::Finished;
        Progress::Closed(reason)
    }
}

/// How much of `input` is in front of `rest`.
fn used(input: &[u8], rest: Get<'_>) -> usize {
    input.len().saturating_sub(rest.rest().len())
}
