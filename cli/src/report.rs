//! The state of a store for people and for programs: from the file, or from the server that has it
//! open.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use usnap_engine::merge::{MergeProgress, MergeState};
use usnap_engine::{Space, SpaceLimit, StatusReport};
use usnap_format::Status;
use usnap_nbd::server::Counts;

use crate::journal_status::JournalStatus;
use crate::printable::one_line;
use crate::serve::space::Outlook;
use crate::size;

/// What `status` prints, and what a server answers on its control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What `dmsetup status` prints behind the target's name.
    pub(crate) status: String,
    /// `active` or the kernel's word for another state.
    pub(crate) state: String,
    /// The server that answered; null where the file was read.
    pub(crate) server: Option<ServerReport>,
    /// What it is of an origin that is served with its snapshots; null otherwise.
    #[serde(default)]
    pub(crate) snapshot: Option<SnapshotPart>,
    /// How far a merge into the origin is that goes on while it is served; null otherwise.
    #[serde(default)]
    pub(crate) merge: Option<MergePart>,
    /// Who has the file locked, where no server answers; null otherwise.
    #[serde(default)]
    pub(crate) in_use_by: Option<String>,
    pub(crate) chunk_size_bytes: u64,
    pub(crate) cow_size_bytes: u64,
    /// How long the server lets the COW file become; null where it does not.
    #[serde(default)]
    pub(crate) cow_limit_bytes: Option<u64>,
    /// Known to a server only.
    pub(crate) snapshot_size_bytes: Option<u64>,
    pub(crate) exceptions_committed: u64,
    /// Written, and lost if the power goes now.
    pub(crate) exceptions_uncommitted: u64,
    /// How many more chunks fit.
    pub(crate) exceptions_free: u64,
    pub(crate) full: bool,
    /// What is used of the room for new chunks; null where an older server answered.
    #[serde(default)]
    pub(crate) space: Option<SpaceReport>,
    /// Why nothing more is written, after a failed flush.
    pub(crate) latched: Option<String>,
    pub(crate) persistent: bool,
    pub(crate) remembers_origin: bool,
    /// A merge, or whoever else writes to the origin and knows of the store, did not come to its end.
    #[serde(default)]
    pub(crate) origin_changing: bool,
    /// What is wrong with the record of origin and label; null where it is whole or not there.
    #[serde(default)]
    pub(crate) identity_damage: Option<String>,
    pub(crate) label: String,
    /// What becomes of uncommitted changes when the server is killed.
    #[serde(default)]
    pub(crate) journal: JournalStatus,
}

/// A snapshot's part in an origin that is served with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotPart {
    pub(crate) name: String,
    pub(crate) origin: String,
    /// `active` or `dropped`.
    pub(crate) state: String,
    /// Why it was dropped.
    pub(crate) why: Option<String>,
}

/// A merge of a store that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MergePart {
    /// `running`, `done` or `failed`.
    pub(crate) state: String,
    pub(crate) chunks_left: u64,
    /// How many there were when this server began.
    pub(crate) chunks_total: u64,
    /// Why it failed.
    pub(crate) why: Option<String>,
}

impl From<&MergeProgress> for MergePart {
    fn from(progress: &MergeProgress) -> Self {
        let (state, why) = match &progress.state {
            MergeState::Running => ("running", None),
            MergeState::Done => ("done", None),
            MergeState::Failed(why) => ("failed", Some(why.clone())),
        };
        Self {
            state: state.to_owned(),
            chunks_left: progress.chunks_left,
            chunks_total: progress.chunks_total,
            why,
        }
    }
}

/// A line.
impl fmt::Display for MergePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = format!("{} of {} chunks left", self.chunks_left, self.chunks_total);
        match (&*self.state, &self.why) {
            ("done", _) => writeln!(f, "merged into the origin, which is served now"),
            ("failed", why) => writeln!(
                f,
                "the merge into the origin failed, {left}; serve it again to go on: {}",
                one_line(why.as_deref().unwrap_or("no reason is known"))
            ),
            _ => writeln!(f, "merging into the origin: {left}"),
        }
    }
}

/// What only a running server knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerReport {
    pub(crate) pid: u32,
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) chunks_written_whole: u64,
    pub(crate) chunks_copied: u64,
    /// Bytes written to the COW for those that no client sent; null of an older server.
    #[serde(default)]
    pub(crate) copied_bytes: Option<u64>,
    /// Bytes of metadata that commits wrote to the COW; null of an older server.
    #[serde(default)]
    pub(crate) metadata_bytes: Option<u64>,
    /// Where clients find it; null of an older server, or of one without an address.
    #[serde(default)]
    pub(crate) uri: Option<String>,
    pub(crate) refused_for_space: u64,
}

/// How much of the room for new chunks is used: the smaller of what the COW may hold and what its
/// filesystem has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpaceReport {
    pub(crate) percent_used: u64,
    pub(crate) bytes_left: u64,
    /// What ends first: `cow`, `filesystem` or `memory`.
    pub(crate) limited_by: String,
    /// How long it lasts at the present rate; null where nothing is being used up, or not known.
    pub(crate) seconds_left: Option<u64>,
    /// Whether the rate is known at all: to a server only.
    #[serde(default)]
    pub(crate) is_live: bool,
}

impl SpaceReport {
    fn at_rest(space: &Space) -> Self {
        let limited_by = match space.limit {
            SpaceLimit::Cow => "cow",
            SpaceLimit::Filesystem => "filesystem",
            SpaceLimit::Memory => "memory",
        };
        Self {
            percent_used: space.percent_used(),
            bytes_left: space.left_bytes,
            limited_by: limited_by.to_owned(),
            seconds_left: None,
            is_live: false,
        }
    }

    /// As `at_rest`, by somebody who watches it.
    pub(crate) fn live(space: &Space, seconds_left: Option<u64>) -> Self {
        Self {
            seconds_left,
            is_live: true,
            ..Self::at_rest(space)
        }
    }
}

impl fmt::Display for SpaceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &*self.limited_by {
            "filesystem" => "on its filesystem",
            "memory" => "in memory",
            _ => "in the COW",
        };
        write!(
            f,
            "{} % of the room is used, {} left {place}",
            self.percent_used,
            size::human(self.bytes_left)
        )?;
        match self.seconds_left {
            _ if self.bytes_left == 0 => Ok(()),
            Some(seconds) => write!(f, ", for {} at this rate", duration(seconds)),
            None if self.is_live => write!(f, ", no end in sight"),
            None => Ok(()),
        }
    }
}

/// A time to be read, in its largest whole unit.
fn duration(seconds: u64) -> String {
    match seconds {
        0 => "less than a second".to_owned(),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl Report {
    /// The report of a store at rest.
    pub(crate) fn at_rest(report: &StatusReport) -> Self {
        Self {
            status: report.status.to_string(),
            state: match report.status {
                Status::Active(_) => "active".to_owned(),
                other => other.to_string().to_lowercase(),
            },
            server: None,
            snapshot: None,
            merge: None,
            in_use_by: None,
            chunk_size_bytes: report.chunk_size.bytes(),
            cow_size_bytes: report.cow_size_bytes,
            cow_limit_bytes: None,
            snapshot_size_bytes: report.snapshot_size_bytes,
            exceptions_committed: report.exceptions.committed,
            exceptions_uncommitted: report.exceptions.uncommitted,
            exceptions_free: report.exceptions.free,
            full: report.is_full,
            space: Some(SpaceReport::at_rest(&report.space)),
            latched: report.latched.clone(),
            persistent: report.is_persistent,
            remembers_origin: report.has_identity,
            origin_changing: report.origin_changing,
            identity_damage: report.identity_damage.clone(),
            label: report.label.clone(),
            journal: JournalStatus::from(&report.journal),
        }
    }

    /// The report of a store that this process serves.
    pub(crate) fn live(report: &StatusReport, counts: Counts) -> Self {
        let server = ServerReport {
            pid: std::process::id(),
            connections: counts.connected,
            requests: counts.requests,
            errors: counts.errors,
            read_bytes: counts.read_bytes,
            written_bytes: counts.written_bytes,
            chunks_written_whole: report.counters.chunks_written_whole,
            chunks_copied: report.counters.chunks_copied,
            copied_bytes: Some(report.counters.copied_bytes),
            metadata_bytes: Some(report.counters.metadata_bytes),
            uri: None,
            refused_for_space: report.counters.refused_for_space,
        };
        Self {
            server: Some(server),
            ..Self::at_rest(report)
        }
    }

    /// The same with what its server alone knows: how long the COW may become, how long the room
    /// lasts.
    pub(crate) fn served(
        status: &StatusReport,
        counts: Counts,
        max_bytes: Option<u64>,
        outlook: Option<&Outlook>,
    ) -> Self {
        let mut report = Self::live(status, counts);
        report.cow_limit_bytes = max_bytes.filter(|max| *max > status.cow_size_bytes);
        if let Some(outlook) = outlook {
            report.space = Some(outlook.report(&status.space));
        }
        report
    }

    /// The same of a server that clients find there.
    pub(crate) fn at(mut self, uri: Option<String>) -> Self {
        if let Some(server) = &mut self.server {
            server.uri = uri;
        }
        self
    }

    /// Whether the server of its origin gave it up.
    fn is_dropped(&self) -> bool {
        let part = self.snapshot.as_ref();
        part.is_some_and(|part| part.state != "active")
    }

    /// One line of JSON.
    pub(crate) fn to_line(&self) -> String {
        // Only maps with odd keys and failing writers can't be written; there are none here.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The state of a store that a kernel gave up.
const INVALID: &str = "invalid";

/// The kernel's line first, then a few lines for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a server answered is no more to be believed than a file.
        writeln!(f, "{}", one_line(&self.status))?;
        match (&self.server, &self.in_use_by) {
            (Some(server), _) => writeln!(
                f,
                "served by process {}: {}, {}, {} read, {} written",
                server.pid,
                count(server.connections, "client"),
                count(server.requests, "request"),
                size::human(server.read_bytes),
                size::human(server.written_bytes),
            )?,
            (None, Some(who)) => writeln!(
                f,
                "in use by {}, which does not answer: as committed in the file",
                one_line(who)
            )?,
            (None, None) => writeln!(f, "no server answers: as committed in the file")?,
        }
        if let Some(part) = &self.snapshot {
            let line = format!(
                "snapshot {:?} of {}, served with it: {}",
                part.name, part.origin, part.state
            );
            writeln!(f, "{}", one_line(&line))?;
            if let Some(why) = &part.why {
                writeln!(f, "{}", one_line(why))?;
            }
        }
        if let Some(part) = &self.merge {
            part.fmt(f)?;
        }
        let mut line = count(self.exceptions_committed, "exception");
        if self.exceptions_uncommitted > 0 {
            write!(
                line,
                " and {} not yet committed",
                self.exceptions_uncommitted
            )?;
        }
        if self.state != INVALID {
            write!(line, ", room for {} more", self.exceptions_free)?;
        }
        writeln!(
            f,
            "{line}; chunk size {}",
            size::human(self.chunk_size_bytes)
        )?;
        write!(
            f,
            "{} of {}",
            if self.persistent { "COW" } else { "memory" },
            size::human(self.cow_size_bytes)
        )?;
        if let Some(bytes) = self.cow_limit_bytes {
            write!(f, ", growing up to {}", size::human(bytes))?;
        }
        if let Some(bytes) = self.snapshot_size_bytes {
            write!(f, ", snapshot of {}", size::human(bytes))?;
        }
        if self.persistent {
            let origin = match (self.remembers_origin, &self.identity_damage) {
                (true, _) if self.merge.is_some() => "remembered, and changing",
                (true, _) if self.origin_changing => {
                    "remembered, and changing: a merge into it, or its own server, did not end"
                }
                (true, _) => "remembered",
                (false, Some(_)) => "unknown",
                (false, None) => "not remembered",
            };
            write!(f, ", origin {origin}")?;
        }
        if !self.label.is_empty() {
            write!(f, ", label {:?}", self.label)?;
        }
        writeln!(f)?;
        if let (Some(space), true) = (&self.space, self.state != INVALID) {
            writeln!(f, "{space}")?;
        }
        if self.is_dropped() {
            // Its header says so, and its journal is gone: there is no more to be said of it.
            return writeln!(
                f,
                "dropped: what the origin's writes replace is not kept for it"
            );
        }
        if self.state == INVALID {
            writeln!(f, "invalid: a kernel gave it up when it was full or failed")?;
        } else if self.full {
            writeln!(
                f,
                "full: writes that need a new chunk get \"no space left\""
            )?;
        }
        if let Some(why) = &self.identity_damage {
            writeln!(
                f,
                "the identity record is damaged, origin and label are lost: {}",
                one_line(why)
            )?;
        }
        self.journal.fmt(f)?;
        match &self.latched {
            Some(why) => writeln!(
                f,
                "nothing more is written after a failed flush: {}",
                one_line(why)
            ),
            None => Ok(()),
        }
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        Report {
            status: "40/2048 16".into(),
            state: "active".into(),
            server: None,
            snapshot: None,
            merge: None,
            in_use_by: None,
            chunk_size_bytes: 4096,
            cow_size_bytes: 1 << 20,
            cow_limit_bytes: None,
            snapshot_size_bytes: None,
            exceptions_committed: 3,
            exceptions_uncommitted: 0,
            exceptions_free: 250,
            full: false,
            space: None,
            latched: None,
            persistent: true,
            remembers_origin: true,
            origin_changing: false,
            identity_damage: None,
            label: String::new(),
            journal: JournalStatus::default(),
        }
    }

    #[test]
    fn the_first_line_is_the_kernels() {
        let text = sample().to_string();
        assert_eq!(text.lines().next(), Some("40/2048 16"));
        assert!(text.contains("no server answers"), "{text}");
        assert!(
            text.contains("3 exceptions, room for 250 more; chunk size 4 KiB"),
            "{text}"
        );
        assert!(text.contains("COW of 1 MiB, origin remembered\n"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let full = Report {
            full: true,
            exceptions_uncommitted: 2,
            ..sample()
        }
        .to_string();
        assert!(full.contains("and 2 not yet committed"), "{full}");
        assert!(full.contains("\nfull: "), "{full}");
        let latched = Report {
            latched: Some("EIO".into()),
            ..sample()
        }
        .to_string();
        assert!(latched.contains("after a failed flush: EIO"), "{latched}");
        let changing = Report {
            origin_changing: true,
            ..sample()
        }
        .to_string();
        assert!(
            changing.contains("origin remembered, and changing: a merge"),
            "{changing}"
        );
        let invalid = Report {
            state: "invalid".into(),
            full: true,
            ..sample()
        }
        .to_string();
        assert!(
            invalid.contains("\ninvalid: ") && !invalid.contains("\nfull: "),
            "{invalid}"
        );
    }

    #[test]
    fn a_merge_that_is_served_is_told_with_what_is_left() {
        let told = |state, left| {
            let (chunks_left, chunks_total) = (left, 456);
            let progress = MergeProgress {
                state,
                chunks_left,
                chunks_total,
            };
            let report = Report {
                merge: Some(MergePart::from(&progress)),
                origin_changing: true,
                ..sample()
            };
            report.to_string()
        };
        let running = told(MergeState::Running, 123);
        let line = "\nmerging into the origin: 123 of 456 chunks left\n";
        assert!(running.contains(line), "{running}");
        assert!(running.contains("origin remembered, and changing\n"));
        let done = told(MergeState::Done, 0);
        assert!(
            done.contains("\nmerged into the origin, which is"),
            "{done}"
        );
        let failed = told(MergeState::Failed("EIO".to_owned()), 7);
        assert!(
            failed.contains("failed, 7 of 456 chunks left; "),
            "{failed}"
        );
        assert!(failed.contains("to go on: EIO\n"), "{failed}");
    }

    #[test]
    fn the_room_is_told_with_its_limit_and_the_time_left() {
        let space = Space {
            used_bytes: 71 << 20,
            left_bytes: 29 << 20,
            limit: SpaceLimit::Filesystem,
        };
        let at_rest = SpaceReport::at_rest(&space);
        let said = "71 % of the room is used, 29 MiB left on its filesystem";
        assert_eq!(at_rest.to_string(), said);
        let live = |seconds| SpaceReport::live(&space, seconds).to_string();
        assert_eq!(live(None), format!("{said}, no end in sight"));
        let soon = format!("{said}, for less than a second at this rate");
        assert_eq!(live(Some(0)), soon);
        assert_eq!(live(Some(119)), format!("{said}, for 119 s at this rate"));
        assert_eq!(live(Some(121)), format!("{said}, for 2 min at this rate"));
        assert_eq!(live(Some(7200)), format!("{said}, for 2 h at this rate"));
        assert_eq!(
            live(Some(1 << 20)),
            format!("{said}, for 12 days at this rate")
        );
        let nothing = Space {
            left_bytes: 0,
            limit: SpaceLimit::Memory,
            ..space
        };
        let said_of_nothing = "100 % of the room is used, 0 B left in memory";
        assert_eq!(
            SpaceReport::live(&nothing, Some(0)).to_string(),
            said_of_nothing
        );
        let growing = Report {
            cow_limit_bytes: Some(1 << 30),
            space: Some(at_rest),
            ..sample()
        };
        let text = growing.to_string();
        let lines = format!("COW of 1 MiB, growing up to 1 GiB, origin remembered\n{said}\n");
        assert!(text.contains(&lines), "{text}");
    }

    #[test]
    fn a_report_survives_the_control_socket() {
        let report = sample();
        assert_eq!(
            serde_json::from_str::<Report>(&report.to_line()).unwrap(),
            report
        );
    }
}
