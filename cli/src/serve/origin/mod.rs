//! The run of `usnap serve-origin`: an origin that is written to, with its snapshots, each an
//! export of its own. They come and go while it is served, one operation at a time.
//!
//! - `spec.rs` is a snapshot as people type it, `request.rs` what other processes ask;
//! - `host.rs` has the origin, its exports and the operations; `member.rs` is one snapshot.

mod host;
mod member;
pub(crate) mod request;
pub(crate) mod spec;

use std::path::PathBuf;
use std::sync::Arc;

use usnap_engine::snapshot_origin::WhenFull;
use usnap_engine::{Discard, JournalMode};

use self::host::OriginHost;
use self::spec::SnapshotSpec;
use super::{CowPlan, Service};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};

/// The origin to be served, with its snapshots.
#[derive(Debug)]
pub(crate) struct OriginPlan {
    pub(crate) origin: PathBuf,
    /// Of the origin's export.
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) snapshots: Vec<SnapshotSpec>,
    pub(crate) when_full: WhenFull,
    pub(crate) keeping: Keeping,
    pub(crate) service: Service,
}

/// What holds for every snapshot, those that are added later included.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) force_origin: bool,
    pub(crate) adopt: bool,
    pub(crate) every_write: bool,
    pub(crate) discard: Discard,
    pub(crate) journal: JournalMode,
}

impl Keeping {
    fn cow_plan(&self, spec: &SnapshotSpec) -> Result<CowPlan> {
        Ok(CowPlan {
            path: spec.cow.clone(),
            size_bytes: spec.cow_size_bytes,
            max_bytes: spec.max_cow_bytes,
            chunk_size: spec.chunk_size().map_err(Failure::usage)?,
            label: spec.label.clone(),
            // Its export may be; what the origin's writes replace is kept in it all the same.
            read_only: false,
            adopt: self.adopt,
            every_write: self.every_write,
            discard: self.discard,
            journal: self.journal,
        })
    }
}

/// Serves until told to end.
pub(crate) fn run(plan: OriginPlan) -> Result<ExitCode> {
    let plan = Arc::new(plan);
    super::host::run(&plan.service, || OriginHost::open(&plan))
}
