//! What is asked of the server of an origin, and what it answers: a line of JSON each.

use std::fmt;

use serde::{Deserialize, Serialize};
use usnap_engine::snapshot_origin::{MemberState, SnapshotState};

use super::spec::SnapshotSpec;
use crate::failure::Failure;
use crate::printable::one_line;
use crate::report::SpaceReport;
use crate::size;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request")]
pub(crate) enum Request {
    /// Add a snapshot: the origin as it is now.
    #[serde(rename = "snapshot-add")]
    Add(SnapshotSpec),
    /// Take a snapshot away.
    #[serde(rename = "snapshot-drop")]
    Drop {
        /// Its name.
        name: String,
    },
    /// Say which there are.
    #[serde(rename = "snapshot-list")]
    List,
}

/// An answer. `error` tells whether anything was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Why it was not done: `cannot ...`.
    #[serde(default)]
    pub(crate) error: Option<String>,
    /// What to do about that.
    #[serde(default)]
    pub(crate) hint: Option<String>,
    /// What a person should know, a sentence each.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
    /// The snapshot that was added, or all of them.
    #[serde(default)]
    pub(crate) list: Option<List>,
}

impl Answer {
    pub(super) fn of_failure(failure: &Failure) -> Self {
        Self {
            error: Some(failure.message()),
            hint: failure.hint().map(str::to_owned),
            ..Self::default()
        }
    }

    /// One line of JSON.
    pub(crate) fn to_line(&self) -> String {
        // Only maps with odd keys and failing writers can't be written; there are none here.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// An origin and its snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct List {
    pub(crate) pid: u32,
    pub(crate) origin: String,
    /// Under which clients reach the origin; null on a socket that no URI leads to.
    pub(crate) uri: Option<String>,
    pub(crate) snapshots: Vec<Listed>,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// Under which clients reach it.
    pub(crate) uri: Option<String>,
    pub(crate) cow: String,
    /// `active` or `dropped`.
    pub(crate) state: String,
    /// Why it was dropped.
    pub(crate) why: Option<String>,
    pub(crate) chunk_size_bytes: u64,
    /// Chunks that are saved or written.
    pub(crate) exceptions: u64,
    pub(crate) exceptions_free: u64,
    pub(crate) space: SpaceReport,
}

impl Listed {
    pub(super) fn new(state: &SnapshotState, uri: Option<String>, space: SpaceReport) -> Self {
        let (word, why) = words(&state.state);
        let count = &state.report.exceptions;
        Self {
            name: state.name.clone(),
            uri,
            cow: std::path::absolute(&state.cow)
                .unwrap_or_else(|_| state.cow.clone())
                .display()
                .to_string(),
            state: word.to_owned(),
            why,
            chunk_size_bytes: state.chunk_size.bytes(),
            exceptions: count.committed + count.uncommitted,
            exceptions_free: count.free,
            space,
        }
    }
}

/// A snapshot's state in words.
pub(super) fn words(state: &MemberState) -> (&'static str, Option<String>) {
    match state {
        MemberState::Active => ("active", None),
        MemberState::Dropped { why } => ("dropped", Some(why.clone())),
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a server answered is no more to be believed than a file.
        let line = |f: &mut fmt::Formatter<'_>, text: String| writeln!(f, "{}", one_line(&text));
        let uri = |uri: &Option<String>| uri.clone().unwrap_or_else(|| "no URI".to_owned());
        line(
            f,
            format!("origin {}, served by process {}", self.origin, self.pid),
        )?;
        line(f, format!("  {}", uri(&self.uri)))?;
        if self.snapshots.is_empty() {
            writeln!(f, "no snapshots")?;
        }
        for one in &self.snapshots {
            line(
                f,
                format!(
                    "snapshot {}, {}: {} {} of {} on {}",
                    one.name,
                    one.state,
                    one.exceptions,
                    if one.exceptions == 1 {
                        "chunk"
                    } else {
                        "chunks"
                    },
                    size::human(one.chunk_size_bytes),
                    one.cow
                ),
            )?;
            line(f, format!("  {}", uri(&one.uri)))?;
            line(
                f,
                match &one.why {
                    Some(why) => format!("  {why}"),
                    None => format!("  {}", one.space),
                },
            )?;
        }
        Ok(())
    }
}
