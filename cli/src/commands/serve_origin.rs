//! `usnap serve-origin`: what can be typed, and what it means. The run is in
//! `crate::serve::origin`.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::service::{KeepingArgs, ServiceArgs, refuse_long_texts};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::serve;
use crate::serve::origin::spec::{self, SnapshotSpec};
use crate::serve::origin::{self, Keeping, OriginPlan};

/// Serve an image over NBD to be written to, together with snapshots of it
///
/// ORIGIN is a disk image or a block device that is written to by this server and by nobody else. A
/// snapshot shows it as it was when the snapshot was made: before anything of the origin changes,
/// what was there goes to the COW file of every snapshot, durably. So each snapshot costs a first
/// write to a part of the origin a copy, and survives kill -9 and a power cut as the origin's flushed
/// writes do. A snapshot can be written to as well; the origin does not see that.
///
/// The origin is the default export; each snapshot is an export under its name. One line is printed
/// on standard output when clients can connect: the origin's URI. `usnap snapshot list ORIGIN` shows
/// those of the snapshots, `usnap snapshot add` makes one of that moment while the origin is served,
/// `usnap snapshot drop` takes one away, `usnap status COW` says how full one is. They ask through a
/// socket that only this user can connect to.
///
/// A COW file that is absent is created, and its snapshot is of the moment of the start. One that is
/// there goes on from its own moment. Start with all snapshots each time: one that is left out while
/// the origin is written to is no snapshot any more and cannot know it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = EXAMPLE)]
pub(crate) struct Args {
    /// Image or block device to serve; it is written to
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,

    /// Serve a snapshot under NAME, kept in this COW file; may be given several times
    ///
    /// Behind the path may stand, after commas: chunk-size=SIZE, cow-size=SIZE and label=TEXT for a COW
    /// file that is created (else 4K, what can never be full, and none), max-cow=SIZE up to which it
    /// may grow by itself, and read-only for clients that must not write to it. A comma of the path is
    /// written as two.
    #[arg(long = "snapshot", value_name = "NAME=COW[,OPTION...]", value_parser = spec_parser(),
          help_heading = "Snapshots")]
    snapshots: Vec<SnapshotSpec>,
    /// What happens when a snapshot's COW has no room for what the origin's write replaces
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = WhenFull::Drop,
          help_heading = "Snapshots")]
    when_full: WhenFull,
    /// Serve although the origin is not the one that a COW was made for
    #[arg(long, help_heading = "Snapshots")]
    force_origin: bool,
    /// Remember this origin in COWs that remember none, or with --force-origin
    #[arg(long, help_heading = "Snapshots")]
    adopt: bool,
    #[command(flatten)]
    keeping: KeepingArgs,

    /// Name of the origin's export; clients that ask for none get it too
    #[arg(
        long,
        value_name = "EXPORT",
        default_value = "",
        hide_default_value = true
    )]
    name: String,
    /// Description of the origin's export, shown to clients that list exports
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

const EXAMPLE: &str = "\
Example: serve disk.img with a snapshot of now, and add one of a later moment.

    usnap serve-origin disk.img --snapshot monday=monday.cow --socket /tmp/disk.sock &
    usnap snapshot add disk.img tuesday=tuesday.cow,chunk-size=16K
    nbdcopy 'nbd+unix:///tuesday?socket=/tmp/disk.sock' tuesday.img";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhenFull {
    /// That snapshot is given up, says so, and answers errors; the origin goes on
    Drop,
    /// The origin's write fails with "no space left"; all snapshots stay
    Refuse,
}

impl From<WhenFull> for usnap_engine::snapshot_origin::WhenFull {
    fn from(when_full: WhenFull) -> Self {
        match when_full {
            WhenFull::Drop => Self::Drop,
            WhenFull::Refuse => Self::Refuse,
        }
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let origin = args.origin.display().to_string();
    let plan = plan(args, serve::activated())?;
    origin::run(plan).map_err(|failure| failure.context(|| format!("cannot serve {origin}")))
}

fn plan(args: Args, activated: bool) -> Result<OriginPlan> {
    refuse_long_texts(&args.name, args.description.as_deref())?;
    for (index, spec) in args.snapshots.iter().enumerate() {
        let before = args.snapshots.get(..index).unwrap_or_default();
        if spec.name == args.name || before.iter().any(|other| other.name == spec.name) {
            return Err(Failure::usage(format!(
                "cannot use the name {:?} twice: it is an export's already",
                spec.name
            )));
        }
        if let Some(other) = before.iter().find(|other| other.cow == spec.cow) {
            return Err(Failure::usage(format!(
                "cannot keep the snapshots {:?} and {:?} in one COW: {}",
                other.name,
                spec.name,
                spec.cow.display()
            )));
        }
    }
    let keeping = Keeping {
        force_origin: args.force_origin,
        adopt: args.adopt,
        every_write: args.keeping.is_every_write(),
        discard: args.keeping.discard.into(),
        journal: args.keeping.journal.into(),
    };
    Ok(OriginPlan {
        origin: args.origin,
        name: args.name,
        description: args.description,
        snapshots: args.snapshots,
        when_full: args.when_full.into(),
        service: args.service.plan(&args.keeping, activated)?,
        keeping,
    })
}

/// The parser of a snapshot to be served.
pub(super) fn spec_parser() -> impl TypedValueParser<Value = SnapshotSpec> {
    OsStringValueParser::new().try_map(|text| spec::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn planned(words: &str) -> std::result::Result<OriginPlan, ExitCode> {
        let words = ["usnap", "serve-origin"]
            .into_iter()
            .chain(words.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|e| Failure::from(e).code())?;
        let Command::ServeOrigin(args) = cli.command else {
            panic!("not serve-origin")
        };
        plan(*args, false).map_err(|failure| failure.code())
    }

    #[test]
    fn what_was_typed_is_what_is_served() {
        let plain = planned("o").unwrap();
        assert!(plain.snapshots.is_empty() && plain.name.is_empty());
        let words = "o --snapshot a=1 --snapshot b=2,read-only --when-full refuse --name o";
        let full = planned(words).unwrap();
        let names: Vec<_> = full
            .snapshots
            .iter()
            .map(|s| (&*s.name, s.read_only))
            .collect();
        assert_eq!(names, [("a", false), ("b", true)]);
        let refuse = usnap_engine::snapshot_origin::WhenFull::Refuse;
        assert_eq!(full.when_full, refuse);
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for words in [
            "",
            "o --snapshot a",
            "o --snapshot =c",
            "o --snapshot a=",
            "o --snapshot a=1 --snapshot a=2",
            "o --snapshot a=1 --snapshot b=1",
            "o --name a --snapshot a=1",
            "o --snapshot a=1,chunk-size=5K",
            "o --when-full never",
            "o --single --socket s",
            "o --cow c",
        ] {
            assert_eq!(planned(words).err(), Some(ExitCode::Usage), "{words}");
        }
    }
}
