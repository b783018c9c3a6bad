//! `usnap serve`: what can be typed, and what it means. The run is in `crate::serve`.

use std::path::PathBuf;

use clap::ArgGroup;
use usnap_format::ChunkSize;

use super::service::{Discard, Journal, KeepingArgs, ServiceArgs, refuse_long_texts};
use crate::args::{chunk_size_parser, size_parser};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::serve::{self, Changes, CowPlan, MergePlan, Plan};

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
#[command(
    after_long_help = "Example: usnap serve disk.img --cow changes.cow --socket /run/disk.sock"
)]
#[command(group = ArgGroup::new("changes").args(["cow", "transient", "read_only"])
    .required(true).multiple(true))]
pub(crate) struct Args {
    /// Image or block device to serve; it is never written to, but with --merge
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
    /// Merge the COW file into ORIGIN while it is served
    ///
    /// ORIGIN is written to: it becomes what the snapshot is, and the COW file empty, as with
    /// `usnap merge` and the kernel's snapshot-merge. Nobody else may be using ORIGIN. Clients read
    /// and write meanwhile, and wait only, for moments, where they write to what is just being merged.
    /// Then ORIGIN itself is served until the server is told to end; `usnap status` tells how far it
    /// is. What interrupts it, kill -9 and a power cut too, loses nothing: the same command goes on,
    /// and so do `usnap merge` and a kernel; until then only both files together show the
    /// snapshot. TRIM does nothing. No journal is needed and none is kept.
    #[arg(long, requires = "cow", conflicts_with_all = ["read_only", "transient", "layers", "max_cow",
          "cow_size", "chunk_size", "label", "adopt"], help_heading = "Changes")]
    merge: bool,
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
    #[command(flatten)]
    keeping: KeepingArgs,

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
    #[command(flatten)]
    service: ServiceArgs,
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
        ("--merge", args.merge),
        ("--journal", args.keeping.journal != Journal::Auto),
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
    let for_writers = [
        ("--on-space", !args.keeping.on_space.is_empty()),
        ("--discard", args.keeping.discard != Discard::default()),
    ];
    if let Some((option, _)) = for_writers
        .iter()
        .find(|(_, typed)| *typed && args.read_only)
    {
        return Err(Failure::usage(format!(
            "cannot use {option} with --read-only: nothing is written"
        )));
    }
    if let Some((option, _)) = for_writers.iter().find(|(_, typed)| *typed && args.merge) {
        return Err(Failure::usage(format!(
            "cannot use {option} with --merge: nothing is added to the COW file"
        )));
    }
    if let (Some(size), Some(max)) = (args.cow_size, args.max_cow)
        && size > max
    {
        return Err(Failure::usage(
            "cannot use a --cow-size larger than --max-cow",
        ));
    }
    refuse_long_texts(&args.name, args.description.as_deref())?;
    let service = args.service.plan(&args.keeping, activated)?;
    let changes = match (args.cow, args.transient) {
        (Some(cow), _) if args.merge => Changes::Merge(MergePlan {
            cow,
            every_write: args.keeping.is_every_write(),
            journal: args.keeping.journal.into(),
        }),
        (Some(path), _) => Changes::Cow(CowPlan {
            path,
            size_bytes: args.cow_size,
            max_bytes: args.max_cow,
            chunk_size: args.chunk_size,
            label: args.label.unwrap_or_default(),
            read_only: args.read_only,
            adopt: args.adopt,
            every_write: args.keeping.is_every_write(),
            discard: args.keeping.discard.into(),
            journal: args.keeping.journal.into(),
        }),
        (None, true) => Changes::Memory {
            chunk_size: args.chunk_size.unwrap_or_default(),
            limit_bytes: args.ram_limit,
            discard: args.keeping.discard.into(),
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
        name: args.name,
        description: args.description,
        service,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::serve::{Place, address};
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
            assert_eq!(
                planned(words, activated).unwrap().service.place,
                place,
                "{words}"
            );
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
            "o --merge",
            "o --merge --transient",
            "o --merge --read-only",
            "o --cow c --merge --read-only",
            "o --cow c --merge --max-cow 1G",
            "o --cow c --merge --layer l",
            "o --cow c --merge --adopt",
            "o --cow c --merge --discard ignore",
            "o --cow c --merge --on-space 80:true",
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
                .service
                .commit_interval,
            None
        );
        let shortest = planned("o -r --commit-interval 0.01", false).unwrap();
        assert_eq!(
            shortest.service.commit_interval,
            Some(Duration::from_millis(10))
        );
        let half = planned("o -r --commit-interval 0.5", false)
            .unwrap()
            .service
            .commit_interval;
        assert_eq!(half, Some(Duration::from_millis(500)));
    }
}
