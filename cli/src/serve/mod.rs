//! The run of `usnap serve`, and what all commands that serve have in common: see `host` for the
//! order of things.

mod activation;
pub(crate) mod address;
mod child;
mod commit_timer;
mod device;
mod host;
pub(crate) mod memory;
mod merging;
pub(crate) mod origin;
mod parent;
mod pid_file;
mod ready;
mod shell;
mod signals;
mod single;
pub(crate) mod space;
mod tending;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use usnap_engine::{Discard, JournalMode};
use usnap_format::ChunkSize;

pub(crate) use self::activation::activated;
use self::device::Served;
pub(crate) use self::device::never_full;
pub(crate) use self::merging::MergePlan;
use self::merging::Merging;
use self::space::OnSpace;
use crate::exit_code::ExitCode;
use crate::failure::Result;

/// What is to be served, how and where.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) origin: PathBuf,
    /// COW files between the origin and the changes, the lowest first.
    pub(crate) layers: Vec<PathBuf>,
    /// Serve what was not made for each other.
    pub(crate) force_origin: bool,
    pub(crate) changes: Changes,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) service: Service,
}

/// How and where it is served.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) place: Place,
    pub(crate) run: Option<OsString>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) exit_with_parent: bool,
    /// `None`: only flushes commit.
    pub(crate) commit_interval: Option<Duration>,
    pub(crate) max_connections: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) on_space: Vec<OnSpace>,
}

/// Where changes go.
#[derive(Debug)]
pub(crate) enum Changes {
    /// To a COW file.
    Cow(CowPlan),
    /// To memory: half of what there is, where no limit is given.
    Memory {
        chunk_size: ChunkSize,
        limit_bytes: Option<u64>,
        discard: Discard,
    },
    /// To a COW file that is merged into the origin meanwhile.
    Merge(MergePlan),
    /// Nowhere: the export is read-only.
    Refused,
}

/// The COW file, and what it is to be if it is not there yet.
#[derive(Debug)]
pub(crate) struct CowPlan {
    pub(crate) path: PathBuf,
    /// `None`: what can never be full.
    pub(crate) size_bytes: Option<u64>,
    /// How long it may become by itself; `None`: it does not grow.
    pub(crate) max_bytes: Option<u64>,
    pub(crate) chunk_size: Option<ChunkSize>,
    pub(crate) label: String,
    pub(crate) read_only: bool,
    pub(crate) adopt: bool,
    pub(crate) every_write: bool,
    pub(crate) discard: Discard,
    pub(crate) journal: JournalMode,
}

/// Where clients connect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A unix socket in a folder of its own.
    Private,
    /// A unix socket at this path.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
    /// The sockets that the service manager passed.
    Activated,
    /// Standard input and output, for one client.
    Single,
}

/// Serves until told to end.
pub(crate) fn run(plan: &Plan) -> Result<ExitCode> {
    if let Changes::Merge(merging) = &plan.changes {
        return host::run(&plan.service, || Merging::open(plan, merging).map(Arc::new));
    }
    host::run(&plan.service, || Served::open(plan).map(Arc::new))
}
