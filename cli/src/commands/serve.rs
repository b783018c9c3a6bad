//! `usnap serve`: what can be typed, and what it means. The run is in `crate::serve`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, ValueEnum};
use usnap_engine::JournalMode;
use usnap_format::ChunkSize;

use crate::args::{chunk_size_parser, size_parser};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::serve::space::{self, OnSpace};
use crate::serve::{self, Changes, CowPlan, Place, Plan, address};

/// Serve an image over NBD, writable, keeping the changes aside
///
/// Serves ORIGIN, a disk image or a block device that is only ever read. Changes go to the COW file
/// (--cow, created when absent), to memory (--transient), or are refused (--read-only).
///
/// When clients can connect, one line is printed on standard output: the URI to connect to.
/// Everything else goes to standard error. SIGTERM or SIGINT stops accepting, finishes what is in
/// flight, commits and exits; a second one exits at once.
///
/// A write is acknowledged when the system has the data; what was flushed (or written with FUA)
/// survives a power cut. What was only acknowledged survives the end of the server, kill -9
/// included: it is noted in a journal beside the COW file, and the next serve adds it. If
/// anything speaks against that journal, serve refuses and says what (see --journal). Move a COW
/// file after a clean exit, or together with its journal (.usnap-*.journal).
#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("changes").args(["cow", "transient", "read_only"])
    .required(true).multiple(true))]
pub(crate) struct Args {
    /// Image or block device to serve; it is never written to
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,

    /// Put this COW file between the origin and the changes, read-only; may be given several times
    ///
    /// The first lies directly on the origin, each next one on the one before: a snapshot of a
    /// snapshot. Nobody may write to a layer meanwhile; several servers may share it. The COW on top
    /// remembers all of them, so that a layer that is missing, changed or in another place is refused.
    #[arg(long = "layer", value_name = "COW", help_heading = "Changes")]
    layers: Vec<PathBuf>,
    /// Keep the changes in this COW file, created when absent
    #[arg(long, value_name = "FILE", help_heading = "Changes")]
    cow: Option<PathBuf>,
    /// Keep the changes in memory; they are gone at exit
    #[arg(long, conflicts_with_all = ["cow", "read_only"], help_heading = "Changes")]
    transient: bool,
    /// Refuse writes; with --cow, serve the changes that are there
    #[arg(long, short, help_heading = "Changes")]
    read_only: bool,
    /// Size of a COW file that is created; it is sparse [default: what can never be full]
    #[arg(long, value_name = "SIZE", value_parser = size_parser(), requires = "cow",
          help_heading = "Changes")]
    cow_size: Option<u64>,
    /// Let the COW file grow by itself up to this size
    ///
    /// When it is full it becomes longer by its own size, by 64M at least and 1G at the most. One that
    /// is created begins with --cow-size, or with 64M.
    #[arg(long, value_name = "SIZE", value_parser = size_parser(), requires = "cow",
          conflicts_with = "read_only", help_heading = "Changes")]
    max_cow: Option<u64>,
    /// Unit of copying of a COW that is created, a power of two [default: 4K]
    #[arg(long, value_name = "SIZE", value_parser = chunk_size_parser(), help_heading = "Changes")]
    chunk_size: Option<ChunkSize>,
    /// Text of at most 64 bytes for a COW file that is created; status shows it
    #[arg(long, value_name = "TEXT", requires = "cow", help_heading = "Changes")]
    label: Option<String>,
    /// Memory that changes may take with --transient [default: half of what there is]
    #[arg(long, value_name = "SIZE", value_parser = size_parser(), requires = "transient",
          help_heading = "Changes")]
    ram_limit: Option<u64>,
    /// Run a shell command when so much of the room for changes is used; may be given several times
    ///
    /// The room is what the COW may hold or what its filesystem has left, whichever is less (with
    /// --transient the memory). The command is run in the background by /bin/sh, once when PERCENT, 1
    /// to 100, is passed, and again only after the share fell more than two points below. It gets
    /// $USNAP_COW, $USNAP_PERCENT (as typed), $USNAP_BYTES_LEFT and $USNAP_SECONDS_LEFT (at the present
    /// rate; empty when nothing is being used up); its output goes to standard error. At 70, 80, 90 and
    /// 95 percent the log has a line in any case.
    #[arg(long, value_name = "PERCENT:COMMAND", value_parser = on_space_parser(),
          conflicts_with = "read_only", help_heading = "Changes")]
    on_space: Vec<OnSpace>,
    /// Serve although the origin (or a layer) is not the one that the COW was made for
    #[arg(long, help_heading = "Changes")]
    force_origin: bool,
    /// Remember this origin in the COW, if it remembers none or with --force-origin
    #[arg(
        long,
        requires = "cow",
        conflicts_with = "read_only",
        help_heading = "Changes"
    )]
    adopt: bool,
    /// What makes a change durable: the client's flush, or every write as the kernel does
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Durability::Flush,
          help_heading = "Changes")]
    durability: Durability,
    /// What a client's TRIM does to chunks that it covers whole and that were written
    ///
    /// Parts of chunks, and chunks that are not in the COW, it leaves as they are. A TRIM never
    /// makes the origin's content come back and never gives a chunk's number free.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Discard::Punch,
          conflicts_with = "read_only", help_heading = "Changes")]
    discard: Discard,
    /// What to do with the journal of a server that was killed, and whether to keep one
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Journal::Auto,
          help_heading = "Changes")]
    journal: Journal,
    /// Commit changes that wait for longer than so many seconds, at least 0.01; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = interval,
          help_heading = "Changes")]
    commit_interval: Duration,

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

    /// Name of the export; clients that ask for none get it too
    #[arg(
        long,
        value_name = "EXPORT",
        default_value = "",
        hide_default_value = true
    )]
    name: String,
    /// Description of the export, shown to clients that list exports
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Discard {
    /// Zeros, their space kept: the kernel's discard_zeroes_cow
    Zeroes,
    /// Nothing
    Ignore,
    /// Zeros, their space given back to the COW's filesystem
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
enum Journal {
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

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let origin = args.origin.display().to_string();
    let plan = plan(args, serve::activated())?;
    serve::run(&plan).map_err(|failure| failure.context(|| format!("cannot serve {origin}")))
}

/// What was typed means; `activated` tells whether a service manager passed us sockets.
fn plan(args: Args, activated: bool) -> Result<Plan> {
    // The parser lets an option pass whose requirement conflicts with what was typed.
    let for_cow = [
        ("--cow-size", args.cow_size.is_some()),
        ("--max-cow", args.max_cow.is_some()),
        ("--label", args.label.is_some()),
        (
            "--force-origin",
            args.force_origin && args.layers.is_empty(),
        ),
        ("--adopt", args.adopt),
        ("--journal", args.journal != Journal::Auto),
    ];
    if let Some((option, _)) = for_cow
        .iter()
        .find(|(_, typed)| *typed && args.cow.is_none())
    {
        return Err(Failure::usage(format!("cannot use {option} without --cow")));
    }
    if args.ram_limit.is_some() && !args.transient {
        return Err(Failure::usage("cannot use --ram-limit without --transient"));
    }
    if let (Some(size), Some(max)) = (args.cow_size, args.max_cow)
        && size > max
    {
        return Err(Failure::usage(
            "cannot use a --cow-size larger than --max-cow",
        ));
    }
    let description = args.description.as_deref().unwrap_or_default();
    for (option, text) in [("--name", &*args.name), ("--description", description)] {
        if text.len() > MAX_STRING_BYTES {
            return Err(Failure::usage(format!(
                "cannot use {option}: it has {} bytes, and NBD allows {MAX_STRING_BYTES}",
                text.len()
            )));
        }
    }
    let place = match (args.socket, args.listen, args.single, activated) {
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
    let changes = match (args.cow, args.transient) {
        (Some(path), _) => Changes::Cow(CowPlan {
            path,
            size_bytes: args.cow_size,
            max_bytes: args.max_cow,
            chunk_size: args.chunk_size,
            label: args.label.unwrap_or_default(),
            read_only: args.read_only,
            adopt: args.adopt,
            every_write: args.durability == Durability::EveryWrite,
            discard: args.discard.into(),
            journal: args.journal.into(),
        }),
        (None, true) => Changes::Memory {
            chunk_size: args.chunk_size.unwrap_or_default(),
            limit_bytes: args.ram_limit,
            discard: args.discard.into(),
        },
        (None, false) if args.chunk_size.is_some() => {
            return Err(Failure::usage(
                "cannot use --chunk-size without --cow or --transient",
            ));
        }
        (None, false) => Changes::Refused,
    };
    Ok(Plan {
        origin: args.origin,
        layers: args.layers,
        force_origin: args.force_origin,
        changes,
        place,
        name: args.name,
        description: args.description,
        run: args.run,
        pid_file: args.pid_file,
        exit_with_parent: args.exit_with_parent,
        commit_interval: Some(args.commit_interval).filter(|interval| !interval.is_zero()),
        max_connections: usize::try_from(args.max_connections).unwrap_or(usize::MAX),
        handshake_timeout: args.handshake_timeout,
        on_space: args.on_space,
    })
}

fn on_space_parser() -> impl TypedValueParser<Value = OnSpace> {
    OsStringValueParser::new().try_map(|text| space::parse(&text))
}

/// The longest name or description that a client can be told (proto.md, "Conventions").
const MAX_STRING_BYTES: usize = 4096;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn planned(words: &str, activated: bool) -> std::result::Result<Plan, ExitCode> {
        let words = ["usnap", "serve"]
            .into_iter()
            .chain(words.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|e| Failure::from(e).code())?;
        let Command::Serve(args) = cli.command else {
            panic!("not serve")
        };
        plan(*args, activated).map_err(|failure| failure.code())
    }

    #[test]
    fn where_to_listen_follows_from_what_was_typed() {
        let tcp = |text| Place::Tcp(address::parse(text).unwrap());
        let table = [
            ("o -r", false, Place::Private),
            ("o -r -U -", false, Place::Private),
            ("o -r --socket - ", false, Place::Private),
            ("o -r --socket s", false, Place::Unix("s".into())),
            ("o -r -U ./-", false, Place::Unix("./-".into())),
            ("o -r --listen [::1]:1", false, tcp("[::1]:1")),
            ("o -r --single", false, Place::Single),
            ("o -r", true, Place::Activated),
        ];
        for (words, activated, place) in table {
            assert_eq!(planned(words, activated).unwrap().place, place, "{words}");
        }
    }

    #[test]
    fn where_the_changes_go_follows_from_what_was_typed() {
        assert!(matches!(
            planned("o -r", false).unwrap().changes,
            Changes::Refused
        ));
        let memory = planned("o --transient --ram-limit 1G --chunk-size 64K", false).unwrap();
        let Changes::Memory {
            chunk_size,
            limit_bytes,
            ..
        } = memory.changes
        else {
            panic!()
        };
        assert_eq!((chunk_size.bytes(), limit_bytes), (1 << 16, Some(1 << 30)));
        let words = "o --layer a --layer b --transient --force-origin";
        let layered = planned(words, false).unwrap();
        let layers: [PathBuf; 2] = ["a".into(), "b".into()];
        assert!(layered.layers == layers && layered.force_origin);
        let cow = planned("o --cow c --read-only", false).unwrap();
        assert!(matches!(
            cow.changes,
            Changes::Cow(CowPlan {
                read_only: true,
                ..
            })
        ));
    }

    #[test]
    fn contradictions_are_usage_errors() {
        let table = [
            "o",
            "--transient",
            "o --transient --cow c",
            "o --transient --journal off",
            "o --cow c --journal never",
            "o --transient --read-only",
            "o --cow-size 1M --transient",
            "o --label x --read-only",
            "o --force-origin --read-only",
            "o --layer l",
            "o --cow c --layer",
            "o --adopt --transient",
            "o --read-only --ram-limit 1M",
            "o --transient --max-cow 1G",
            "o --cow c --read-only --max-cow 1G",
            "o --cow c --cow-size 2M --max-cow 1M",
            "o --read-only --on-space 80:true",
            "o --read-only --discard ignore",
            "o --cow c --discard never",
            "o --cow c --on-space 80",
            "o --cow c --on-space 101:true",
            "o --read-only --chunk-size 4K",
            "o --cow c --chunk-size 5K",
            "o --cow c --adopt --read-only",
            "o -r --socket s --listen 127.0.0.1:1",
            "o -r --single --run true",
            "o -r --single --socket s",
            "o -r --commit-interval -1",
            "o -r --commit-interval nan",
            "o -r --commit-interval 1e-9",
            "o -r --commit-interval 1e-30",
            "o -r --commit-interval 0.009",
            "o -r --handshake-timeout 0",
            "o -r --max-connections 0",
            "o -r --listen example.org:1",
        ];
        for words in table {
            assert_eq!(
                planned(words, false).err(),
                Some(ExitCode::Usage),
                "{words}"
            );
        }
        for words in ["o -r --socket s", "o -r --single", "o -r --listen :0"] {
            assert_eq!(
                planned(words, true).err(),
                Some(ExitCode::Usage),
                "activated: {words}"
            );
        }
    }

    #[test]
    fn names_that_no_client_can_be_told_are_usage_errors() {
        for option in ["--name", "--description"] {
            let typed = |len| planned(&format!("o -r {option} {}", "x".repeat(len)), false);
            assert!(typed(4096).is_ok(), "{option}");
            assert_eq!(typed(4097).err(), Some(ExitCode::Usage), "{option}");
        }
    }

    #[test]
    fn no_interval_means_no_timer() {
        assert_eq!(
            planned("o -r --commit-interval 0", false)
                .unwrap()
                .commit_interval,
            None
        );
        let shortest = planned("o -r --commit-interval 0.01", false).unwrap();
        assert_eq!(shortest.commit_interval, Some(Duration::from_millis(10)));
        let half = planned("o -r --commit-interval 0.5", false)
            .unwrap()
            .commit_interval;
        assert_eq!(half, Some(Duration::from_millis(500)));
    }
}
