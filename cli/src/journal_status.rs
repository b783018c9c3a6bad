//! What `status` says of a store's journal.

use std::fmt;

use serde::{Deserialize, Serialize};
use usnap_engine::{JournalReport, JournalState};

use crate::printable::one_line;

/// What becomes of uncommitted changes when the server is killed, or became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JournalStatus {
    /// `active`, `waiting`, `latched`, `absent`, `none`, or `unknown`.
    pub(crate) state: String,
    /// Where it lies, if there is one.
    pub(crate) path: Option<String>,
    /// Exceptions that are in it and not in the store; null where nobody knows how many.
    pub(crate) pending: Option<u64>,
    /// Why the next serve does not add them unless told to.
    pub(crate) doubts: Vec<String>,
    /// Why a server keeps none.
    pub(crate) why_none: Option<String>,
}

impl From<&JournalReport> for JournalStatus {
    fn from(report: &JournalReport) -> Self {
        let state = match report.state {
            JournalState::None => "none",
            JournalState::Active => "active",
            JournalState::Waiting => "waiting",
            JournalState::Latched => "latched",
            JournalState::Absent => "absent",
            _ => "unknown",
        };
        Self {
            state: state.to_owned(),
            path: report.path.as_ref().map(|path| path.display().to_string()),
            pending: report.pending,
            doubts: report.doubts.clone(),
            why_none: report.why_none.clone(),
        }
    }
}

/// A line, or none where there is nothing to say.
impl fmt::Display for JournalStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = match self.pending {
            None => "an unknown number of exceptions".to_owned(),
            Some(1) => "1 exception".to_owned(),
            Some(n) => format!("{n} exceptions"),
        };
        match self.state.as_str() {
            "active" => match &self.path {
                Some(path) => writeln!(f, "kill -9 loses nothing: journal {}", one_line(path)),
                None => Ok(()),
            },
            "none" => match &self.why_none {
                Some(why) => writeln!(
                    f,
                    "no journal, so kill -9 loses what is not flushed: {}",
                    one_line(why)
                ),
                None => Ok(()),
            },
            "waiting" if self.doubts.is_empty() && self.pending == Some(0) => {
                writeln!(f, "a server was killed; all that it wrote is committed")
            }
            "waiting" if self.doubts.is_empty() => writeln!(
                f,
                "a server was killed: {pending} not committed wait in its journal, and the next \
                 serve adds them"
            ),
            "waiting" | "latched" => writeln!(
                f,
                "a server was killed: {pending} not committed wait in its journal, and serve \
                 refuses until --journal says what to do: {}",
                one_line(&self.doubts.join("; "))
            ),
            "absent" if !self.doubts.is_empty() => writeln!(
                f,
                "a server was killed, and {}: serve refuses until it is put beside the COW file, \
                 or --journal=discard is given",
                one_line(&self.doubts.join("; "))
            ),
            "absent" => writeln!(
                f,
                "a server was killed and its journal is not to be found: what was not flushed may \
                 be missing"
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::JournalStatus;

    fn line(state: &str, doubts: &[&str], why_none: Option<&str>) -> String {
        JournalStatus {
            state: state.to_owned(),
            path: Some("/d/j".to_owned()),
            pending: Some(3),
            doubts: doubts.iter().map(|doubt| (*doubt).to_owned()).collect(),
            why_none: why_none.map(str::to_owned),
        }
        .to_string()
    }

    #[test]
    fn each_state_is_one_line_or_none() {
        assert_eq!(line("none", &[], None), "");
        assert_eq!(line("unknown", &[], None), "");
        assert!(line("active", &[], None).ends_with("journal /d/j\n"));
        assert!(line("none", &[], Some("no room")).ends_with("not flushed: no room\n"));
        assert!(line("waiting", &[], None).contains("3 exceptions not committed"));
        let doubt = line("waiting", &["it rains", "it pours"], None);
        assert!(doubt.contains("refuses") && doubt.ends_with("it rains; it pours\n"));
        assert!(line("latched", &["a flush failed"], None).ends_with("a flush failed\n"));
        assert!(line("absent", &[], None).contains("may be missing"));
        let moved = line("absent", &["its journal j is not to be found"], None);
        assert!(moved.contains("and its journal j is not to be found: serve refuses"));
    }
}
