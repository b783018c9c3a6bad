//! Whether what was counted may be taken: not if it grew by more than a tenth.

use crate::job::Count;
use crate::table::grouped;

const RECORD: &str = "cargo xtask counts --record";

/// What the counts so far come to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    grown: Vec<String>,
    unrecorded: Vec<String>,
    fallen: Vec<String>,
}

impl Verdict {
    /// Judges one count, and returns a line for people.
    pub(crate) fn judge(&mut self, count: Count, measured: u64, recorded: Option<u64>) -> String {
        let Some(recorded) = recorded else {
            self.unrecorded.push(count.to_string());
            return format!("{count}: {} (not recorded)", grouped(measured));
        };
        let line = format!(
            "{count}: {}, recorded {} ({:+.1} %)",
            grouped(measured),
            grouped(recorded),
            percent(measured, recorded)
        );
        // In whole numbers: exactly a tenth more is not too much.
        if measured * 10 > recorded * 11 {
            self.grown.push(line.clone());
        } else if measured * 10 < recorded * 9 {
            self.fallen.push(line.clone());
        }
        line
    }

    /// Whether nothing speaks against it.
    pub(crate) fn holds(&self) -> bool {
        self.grown.is_empty() && self.unrecorded.is_empty()
    }

    /// What speaks against it, and what to do.
    pub(crate) fn conclusion(&self) -> String {
        let mut text = String::new();
        let mut say = |lines: &[String], what: &str| {
            for line in lines {
                text += &format!("{what}: {line}\n");
            }
        };
        say(&self.grown, "FAILED, more than a tenth dearer");
        say(&self.unrecorded, "FAILED, not recorded");
        say(&self.fallen, "note, more than a tenth cheaper");
        if !text.is_empty() {
            text +=
                &format!("`{RECORD}` records new counts; say in the commit why they changed.\n");
        }
        text
    }
}

fn percent(measured: u64, recorded: u64) -> f64 {
    let float = |number: u64| u32::try_from(number).map_or(f64::NAN, f64::from);
    (float(measured) / float(recorded) - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Job, Side};

    fn judged(measured: u64, recorded: Option<u64>) -> (bool, String) {
        let mut verdict = Verdict::default();
        let count = Count {
            side: Side::Server,
            job: Job::FirstWrite,
        };
        verdict.judge(count, measured, recorded);
        (verdict.holds(), verdict.conclusion())
    }

    #[test]
    fn a_tenth_more_is_taken_and_the_next_instruction_is_not() {
        assert_eq!(judged(1100, Some(1000)), (true, String::new()));
        let (holds, text) = judged(1101, Some(1000));
        assert!(!holds);
        for part in [
            "server: 4K first write: 1,101, recorded 1,000",
            "+10.1 %",
            RECORD,
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_fall_is_no_failure_but_is_to_be_recorded() {
        assert_eq!(judged(900, Some(1000)), (true, String::new()));
        let (holds, text) = judged(899, Some(1000));
        assert!(holds);
        assert!(text.contains("cheaper") && text.contains(RECORD), "{text}");
    }

    #[test]
    fn what_is_not_recorded_fails() {
        let (holds, text) = judged(5, None);
        assert!(!holds);
        assert!(
            text.contains("not recorded: server: 4K first write"),
            "{text}"
        );
    }
}
