//! What all commands that serve have in common: how changes are kept, and where clients connect.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};
use usnap_engine::JournalMode;

use crate::failure::{Failure, Result};
use crate::serve::space::{self, OnSpace};
use crate::serve::{Place, Service, address};

/// How changes are kept.
#[derive(clap::Args, Debug)]
pub(crate) struct KeepingArgs {
    /// Run a shell command when so much of the room for changes is used; may be given several times
    ///
    /// The room is what the COW may hold or what its filesystem has left, whichever is less (with
    /// --transient the memory). The command is run in the background by /bin/sh, once when PERCENT, 1
    /// to 100, is passed, and again only after the share fell more than two points below. It gets
    /// $USNAP_COW, $USNAP_PERCENT (as typed), $USNAP_BYTES_LEFT and $USNAP_SECONDS_LEFT (at the present
    /// rate; empty when nothing is being used up); its output goes to standard error. At 70, 80, 90 and
    /// 95 percent the log has a line in any case.
    #[arg(long, value_name = "PERCENT:COMMAND", value_parser = on_space_parser(),
          help_heading = "Changes")]
    pub(super) on_space: Vec<OnSpace>,
    /// What makes a change durable: the client's flush, or every write as the kernel does
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Durability::Flush,
          help_heading = "Changes")]
    durability: Durability,
    /// What a client's TRIM does to chunks that it covers whole and that were written
    ///
    /// Parts of chunks, and chunks that are not in the COW, it leaves as they are. A TRIM never
    /// makes the origin's content come back and never gives a chunk's number free.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Discard::Punch,
          help_heading = "Changes")]
    pub(super) discard: Discard,
    /// What to do with the journal of a server that was killed, and whether to keep one
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Journal::Auto,
          help_heading = "Changes")]
    pub(super) journal: Journal,
    /// Commit changes that wait for longer than so many seconds, at least 0.01; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = interval,
          help_heading = "Changes")]
    commit_interval: Duration,
}

/// Where clients connect, and how long the server lives.
#[derive(clap::Args, Debug)]
pub(crate) struct ServiceArgs {
    /// Listen on a unix socket; - for a private one with a random name, the default
    #[arg(long, short = 'U', value_name = "PATH", help_heading = "Where")]
    socket: Option<PathBuf>,
    /// Listen on TCP; without an address on 127.0.0.1, without a port on 10809
    #[arg(long, value_name = "ADDR:PORT", value_parser = address::parse,
          conflicts_with = "socket", help_heading = "Where")]
    listen: Option<SocketAddr>,
    /// Serve one client on standard input and output, then exit
    #[arg(long, short, conflicts_with_all = ["socket", "listen"], help_heading = "Where")]
    single: bool,
    /// Close connections beyond this number
    #[arg(long, value_name = "N", default_value = "128",
          value_parser = clap::value_parser!(u32).range(1..), help_heading = "Where")]
    max_connections: u32,
    /// Close connections that take longer to negotiate, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = positive_seconds,
          help_heading = "Where")]
    handshake_timeout: Duration,
    /// Run a shell command once ready, then exit with its status
    ///
    /// The command is run by /bin/sh with $uri, $unixsocket and $exportname set. The server ends
    /// when the command does, and exits with its status. Nothing is printed on standard output:
    /// that is the command's.
    #[arg(
        long,
        value_name = "CMD",
        conflicts_with = "single",
        verbatim_doc_comment
    )]
    run: Option<OsString>,
    /// Write the process id to this file, once ready; nothing but a pid file is replaced
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// End, as by SIGTERM, when the parent process ends
    #[arg(long)]
    exit_with_parent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Durability {
    /// A flush, FUA, the commit interval
    Flush,
    /// Every write waits until it is durable
    EveryWrite,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Discard {
    /// Zeros, their space kept: the kernel's discard_zeroes_cow
    Zeroes,
    /// Nothing
    Ignore,
    /// Zeros, their space given back to the COW's filesystem
    #[default]
    Punch,
}

impl From<Discard> for usnap_engine::Discard {
    fn from(discard: Discard) -> Self {
        match discard {
            Discard::Zeroes => Self::Zeroes,
            Discard::Ignore => Self::Ignore,
            Discard::Punch => Self::Punch,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Journal {
    /// Add what it has if nothing speaks against it, else refuse; keep one
    Auto,
    /// Add what it has although something speaks against it; keep one
    Replay,
    /// Serve without what it has, which is lost; keep one
    Discard,
    /// As auto, but keep none: what is not flushed does not survive kill -9
    Off,
}

impl From<Journal> for JournalMode {
    fn from(journal: Journal) -> Self {
        match journal {
            Journal::Auto => Self::Auto,
            Journal::Replay => Self::Replay,
            Journal::Discard => Self::Discard,
            Journal::Off => Self::Off,
        }
    }
}

impl KeepingArgs {
    /// Whether each write waits until it is durable.
    pub(super) fn is_every_write(&self) -> bool {
        self.durability == Durability::EveryWrite
    }
}

impl ServiceArgs {
    /// What was typed means; `activated` tells whether a service manager passed us sockets.
    pub(super) fn plan(self, keeping: &KeepingArgs, activated: bool) -> Result<Service> {
        let place = match (self.socket, self.listen, self.single, activated) {
            (Some(_), _, _, true) | (_, Some(_), _, true) | (_, _, true, true) => {
                return Err(Failure::usage(
                    "cannot listen elsewhere when sockets were passed by the service manager",
                )
                .with_hint("leave out --socket, --listen and --single, or unset LISTEN_FDS"));
            }
            (None, None, false, true) => Place::Activated,
            (_, _, true, _) => Place::Single,
            (_, Some(address), _, _) => Place::Tcp(address),
            (Some(path), _, _, _) if path.as_os_str() != "-" => Place::Unix(path),
            _ => Place::Private,
        };
        Ok(Service {
            place,
            run: self.run,
            pid_file: self.pid_file,
            exit_with_parent: self.exit_with_parent,
            commit_interval: Some(keeping.commit_interval).filter(|interval| !interval.is_zero()),
            max_connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            handshake_timeout: self.handshake_timeout,
            on_space: keeping.on_space.clone(),
        })
    }
}

fn on_space_parser() -> impl TypedValueParser<Value = OnSpace> {
    OsStringValueParser::new().try_map(|text| space::parse(&text))
}

/// The most seconds that an interval may have: a year, to stay clear of the clock's end.
const MAX_SECONDS: f64 = 365.0 * 24.0 * 3600.0;

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|s| (0.0..=MAX_SECONDS).contains(s));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "not a number of seconds".to_owned())
}

/// The shortest interval, in seconds: a timer without a pause would do nothing but commit.
const MIN_INTERVAL_SECONDS: f64 = 0.01;

fn interval(text: &str) -> std::result::Result<Duration, String> {
    let interval = seconds(text)?;
    // What is typed as 0 is; a number too small for the clock is not.
    let is_none = text.parse::<f64>().is_ok_and(|number| number == 0.0);
    if interval < Duration::from_secs_f64(MIN_INTERVAL_SECONDS) && !is_none {
        return Err(format!(
            "less than {MIN_INTERVAL_SECONDS} seconds; 0 is for never"
        ));
    }
    Ok(interval)
}

fn positive_seconds(text: &str) -> std::result::Result<Duration, String> {
    seconds(text).and_then(|s| {
        if s.is_zero() {
            Err("must be more than 0".into())
        } else {
            Ok(s)
        }
    })
}

/// The longest name or description that a client can be told (proto.md, "Conventions").
const MAX_STRING_BYTES: usize = 4096;

/// Refuses a name and a description that no client can be told.
pub(super) fn refuse_long_texts(name: &str, description: Option<&str>) -> Result<()> {
    let description = description.unwrap_or_default();
    for (option, text) in [("--name", name), ("--description", description)] {
        if text.len() > MAX_STRING_BYTES {
            return Err(Failure::usage(format!(
                "cannot use {option}: it has {} bytes, and NBD allows {MAX_STRING_BYTES}",
                text.len()
            )));
        }
    }
    Ok(())
}
