//! `usnap info`: all that can be said of a COW file by looking at it.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use usnap_engine::info::{Compared, InfoReport, info};
use usnap_format::{IdentityRecord, VERSION};

use crate::exit_code::ExitCode;
use crate::failure::Result;
use crate::journal_status::JournalStatus;
use crate::output;
use crate::printable;
use crate::progress::Progress;
use crate::size;

/// What libblkid says of such a file.
const BLKID_TYPE: &str = "DM_snapshot_cow";
const BLKID_USAGE: &str = "other";

/// Show what a COW file is and how its chunks lie
///
/// What libblkid says of it, header and record of the origin, what is used of it and how: holes
/// between its chunks, runs of chunks that follow each other, whether they lie in the snapshot's
/// order. With --origin, how many chunks hold what the origin holds, and how many zeros: what `usnap
/// compact` would leave out. Nothing is changed or locked.
#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// COW file
    #[arg(value_name = "COW")]
    cow: PathBuf,
    /// Image that the COW file belongs to; all data is read and compared
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Example: usnap info changes.cow --origin disk.img";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let what = format!("looking at {}", args.cow.display());
    let mut progress = Progress::new(what, "exceptions", None);
    let report = info(&args.cow, args.origin.as_deref(), &mut |done| {
        progress.set(done);
    });
    drop(progress);
    let document = Document::new(&report?);
    if args.json {
        output::print_json(&document)?;
    } else {
        output::print(&document.text(&printable::path(&args.cow)))?;
    }
    Ok(ExitCode::Success)
}

/// The JSON form; a contract.
#[derive(Serialize)]
struct Document {
    /// As libblkid names it.
    r#type: &'static str,
    usage: &'static str,
    version: u32,
    valid: u32,
    label: Option<String>,
    chunk_size_bytes: u64,
    cow_size_bytes: u64,
    /// Bytes behind the last whole chunk, which nobody uses.
    cut_chunk_bytes: u64,
    /// From this size on it can never be full; null where the origin's size is not known.
    never_full_bytes: Option<u64>,
    /// How much longer it is than that; 0 where it is not.
    overlong_bytes: u64,
    exceptions: u64,
    exceptions_free: u64,
    areas: u64,
    data_bytes: u64,
    metadata_bytes: u64,
    /// Data chunks below the last one in use that no entry names.
    holes: u64,
    sorted: bool,
    /// Runs of chunks that follow each other, on both devices.
    runs: u64,
    average_run_chunks: f64,
    damaged_entries: u64,
    area_missing: bool,
    identity: Option<IdentityDocument>,
    identity_damage: Option<String>,
    journal: JournalStatus,
    compared: Option<ComparedDocument>,
    /// Why the origin is not the one on record.
    origin_differs: Option<String>,
}

#[derive(Serialize)]
struct IdentityDocument {
    origin_size_bytes: Option<u64>,
    origin_mtime_s: Option<i64>,
    origin_mtime_ns: Option<u32>,
    origin_sample_scheme: Option<u32>,
    origin_sample_crc32: Option<u32>,
    clean: bool,
    journal: bool,
    origin_changing: bool,
    /// Null where none ever was.
    session: Option<String>,
}

#[derive(Serialize)]
struct ComparedDocument {
    chunks: u64,
    equal: u64,
    zero: u64,
    beyond_origin: u64,
}

impl Document {
    fn new(report: &InfoReport) -> Self {
        let (status, shape) = (&report.status, &report.shape);
        let chunk_bytes = status.chunk_size.bytes();
        let exceptions = status.exceptions.committed;
        let over = |bytes| status.cow_size_bytes.saturating_sub(bytes);
        Self {
            r#type: BLKID_TYPE,
            usage: BLKID_USAGE,
            version: VERSION,
            valid: report.valid,
            label: Some(status.label.clone()).filter(|label| !label.is_empty()),
            chunk_size_bytes: chunk_bytes,
            cow_size_bytes: status.cow_size_bytes,
            cut_chunk_bytes: status.cow_size_bytes % chunk_bytes,
            never_full_bytes: report.never_full_bytes,
            overlong_bytes: report.never_full_bytes.map_or(0, over),
            exceptions,
            exceptions_free: status.exceptions.free,
            areas: shape.areas,
            data_bytes: exceptions.saturating_mul(chunk_bytes),
            metadata_bytes: (shape.areas + 1).saturating_mul(chunk_bytes),
            holes: shape.holes,
            sorted: shape.is_sorted,
            runs: shape.runs,
            average_run_chunks: average(exceptions.saturating_sub(shape.damaged), shape.runs),
            damaged_entries: shape.damaged,
            area_missing: shape.has_missing_area,
            identity: report.record.as_ref().map(IdentityDocument::new),
            identity_damage: status.identity_damage.clone(),
            journal: JournalStatus::from(&status.journal),
            compared: report.compared.as_ref().map(ComparedDocument::new),
            origin_differs: report.origin_differs.clone(),
        }
    }

    fn text(&self, cow: &str) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}: {}", printable::one_line(&value));
        };
        line("file", cow.to_owned());
        line("type", format!("{} (usage {})", self.r#type, self.usage));
        let state = match self.valid {
            0 => " (invalidated)",
            _ => "",
        };
        line("version", self.version.to_string());
        line("valid", format!("{}{state}", self.valid));
        if let Some(label) = &self.label {
            line("label", label.clone());
        }
        line("origin", self.origin_text());
        if let Some(identity) = &self.identity {
            line("flags", identity.flags_text());
            line(
                "session",
                identity.session.clone().unwrap_or_else(|| "none".into()),
            );
        }
        line("journal", self.journal.state.clone());
        line("chunk size", size::human(self.chunk_size_bytes));
        line("size", self.size_text());
        line("data", size::human(self.data_bytes));
        line(
            "metadata",
            format!(
                "{}, areas: {}",
                size::human(self.metadata_bytes),
                self.areas
            ),
        );
        line(
            "exceptions",
            format!(
                "{}, room for {} more",
                self.exceptions, self.exceptions_free
            ),
        );
        line("holes", self.holes.to_string());
        line("sorted", if self.sorted { "yes" } else { "no" }.to_owned());
        let average = self.average_run_chunks;
        line(
            "runs",
            format!("{}, of {average:.1} chunks on average", self.runs),
        );
        if self.damaged_entries > 0 {
            line(
                "damaged",
                format!("{} entries; see `usnap check`", self.damaged_entries),
            );
        }
        if self.area_missing {
            line(
                "missing",
                "the area behind the last entry; see `usnap check`".to_owned(),
            );
        }
        if let Some(compared) = &self.compared {
            line(
                "equal to the origin",
                share(compared.equal, compared.chunks),
            );
            line("zeros", share(compared.zero, compared.chunks));
            if compared.beyond_origin > 0 {
                line(
                    "behind the origin's end",
                    compared.beyond_origin.to_string(),
                );
            }
        }
        if let Some(why) = &self.origin_differs {
            line("note", why.clone());
        }
        text
    }

    fn origin_text(&self) -> String {
        if let Some(why) = &self.identity_damage {
            return format!("record damaged: {why}");
        }
        let identity = self.identity.as_ref();
        let Some(bytes) = identity.and_then(|identity| identity.origin_size_bytes) else {
            return "not remembered".to_owned();
        };
        let crc32 = identity
            .and_then(|identity| identity.origin_sample_crc32)
            .unwrap_or(0);
        let mtime = identity
            .and_then(|identity| identity.origin_mtime_s)
            .unwrap_or(0);
        format!(
            "{} ({bytes} bytes), sample {crc32:#010x}, mtime {mtime}",
            size::human(bytes)
        )
    }

    fn size_text(&self) -> String {
        let mut text = size::human(self.cow_size_bytes);
        if self.cut_chunk_bytes > 0 {
            let _ = write!(
                text,
                ", the last {} bytes no whole chunk",
                self.cut_chunk_bytes
            );
        }
        if self.overlong_bytes > 0 {
            let _ = write!(
                text,
                ", {} more than it can ever need",
                size::human(self.overlong_bytes)
            );
        }
        text
    }
}

impl IdentityDocument {
    fn new(record: &IdentityRecord) -> Self {
        let session: String = record
            .session
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            origin_size_bytes: record.origin.map(|origin| origin.size_bytes),
            origin_mtime_s: record.origin.map(|origin| origin.mtime_s),
            origin_mtime_ns: record.origin.map(|origin| origin.mtime_ns),
            origin_sample_scheme: record.origin.map(|origin| origin.sample_scheme),
            origin_sample_crc32: record.origin.map(|origin| origin.sample_crc32),
            clean: record.clean,
            journal: record.has_journal,
            origin_changing: record.origin_changing,
            session: Some(session).filter(|_| record.session != [0; 16]),
        }
    }

    fn flags_text(&self) -> String {
        let flags = [
            (self.origin_size_bytes.is_some(), "origin"),
            (self.clean, "clean"),
            (self.journal, "journal"),
            (self.origin_changing, "origin changing"),
        ];
        let set = flags.iter().filter(|(is_set, _)| *is_set);
        let set: Vec<&str> = set.map(|(_, name)| *name).collect();
        match set.len() {
            0 => "none".to_owned(),
            _ => set.join(", "),
        }
    }
}

impl ComparedDocument {
    fn new(compared: &Compared) -> Self {
        Self {
            chunks: compared.chunks,
            equal: compared.equal,
            zero: compared.zero,
            beyond_origin: compared.beyond_origin,
        }
    }
}

/// To a tenth; 0 of nothing.
fn average(count: u64, of: u64) -> f64 {
    let tenths = count.saturating_mul(10).checked_div(of).unwrap_or(0);
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}

fn share(part: u64, all: u64) -> String {
    let percent = (u128::from(part) * 100).checked_div(u128::from(all));
    format!("{part} of {all} chunks ({} %)", percent.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{average, share};

    #[test]
    fn nothing_has_an_average_and_a_share() {
        assert_eq!(format!("{:.1}", average(0, 0)), "0.0");
        assert_eq!(format!("{:.1}", average(7, 2)), "3.5");
        assert_eq!(share(0, 0), "0 of 0 chunks (0 %)");
        assert_eq!(share(1, 3), "1 of 3 chunks (33 %)");
    }
}
