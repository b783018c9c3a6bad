//! Judging a store without changing it: every kind of damage, with area, index and chunk.

mod header;
mod kind;
mod scan;

use std::path::Path;

use usnap_format::{
    AreaIndex, EXCEPTION_LEN, Exception, HEADER_CHUNK, Layout, NewChunk, SECTOR_SIZE,
};

use crate::device::{BlockDevice, FileDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::origin::identity;
use crate::snapshot::{JournalReport, JournalState, count, report_at_rest};
use crate::store::persistent::walk::HeaderSector;

pub use kind::{FindingKind, Severity};

pub(crate) use header::{FoundHeader, HeaderDamage, find_header};
pub(crate) use scan::{Scan, Strictness};

/// So many findings are kept; the rest are only counted.
const FINDINGS_MAX: usize = 1000;

/// One thing that is wrong, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of damage, or of note.
    pub kind: FindingKind,
    /// In which area, where it is in one.
    pub area: Option<AreaIndex>,
    /// In which chunk of the COW device: the area's, or the header.
    pub chunk: Option<NewChunk>,
    /// At which entry of the area.
    pub index: Option<u64>,
    /// Which exception, where it is one.
    pub exception: Option<Exception>,
    /// The finding as a sentence.
    pub message: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The damage, at most a thousand findings.
    pub findings: Vec<Finding>,
    /// How many there were.
    pub finding_count: u64,
    /// What is worth knowing and no damage.
    pub notes: Vec<Finding>,
    /// Entries read.
    pub exceptions: u64,
    /// Areas read.
    pub areas: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0
    }

    fn add(&mut self, finding: Finding) {
        if finding.kind.severity() == Severity::Note {
            self.notes.push(finding);
            return;
        }
        self.finding_count += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    fn add_about_header(&mut self, kind: FindingKind, message: String) {
        self.add(Finding {
            kind,
            area: None,
            chunk: Some(HEADER_CHUNK),
            index: None,
            exception: None,
            message,
        });
    }

    fn add_general(&mut self, kind: FindingKind, message: String) {
        self.add(Finding {
            kind,
            area: None,
            chunk: None,
            index: None,
            exception: None,
            message,
        });
    }

    fn add_area(
        &mut self,
        kind: FindingKind,
        layout: Layout,
        area: AreaIndex,
        index: Option<u64>,
        message: String,
    ) {
        self.add(Finding {
            kind,
            area: Some(area),
            chunk: layout.area_location(area),
            index,
            exception: None,
            message,
        });
    }
}

/// Checks the store at `cow`, and whether `origin` is the one it was made for. Nothing is locked:
/// of a store in use, what is committed is seen, and a commit under way may show as a finding.
///
/// # Errors
/// Where it could not be checked: no store, or the device answers with errors.
pub fn check(cow: &Path, origin: Option<&Path>) -> Result<CheckReport> {
    let device = FileDevice::open_read_only(cow)
        .map_err(|e| e.context(format!("cannot check {}", cow.display())))?;
    let origin = origin.map(Origin::open).transpose()?;
    let mut report = judge(&device, origin.as_ref())?;
    // Of a store that can't be read to its end a journal is nothing to speak of.
    if let Ok(journal) = report_at_rest(cow) {
        check_journal(&journal, &mut report);
    }
    Ok(report)
}

fn check_journal(journal: &JournalReport, report: &mut CheckReport) {
    let pending = count(journal.pending);
    match journal.state {
        JournalState::Absent if !journal.doubts.is_empty() => report.add_general(
            FindingKind::JournalAbsent,
            format!(
                "a server was killed, and {}: put it beside the COW file, or serve and repair want \
                 to be told --journal=discard",
                journal.doubts.join("; ")
            ),
        ),
        JournalState::Absent => report.add_general(
            FindingKind::JournalAbsent,
            "a server was killed, and its journal is not to be found: what was not flushed may be \
             missing"
                .to_owned(),
        ),
        JournalState::Waiting if journal.pending == Some(0) && journal.doubts.is_empty() => report
            .add_general(
            FindingKind::JournalWaiting,
            "a server was killed; all that it wrote is committed, and the next serve, or repair, \
                 removes its journal"
                .to_owned(),
        ),
        JournalState::Waiting | JournalState::Latched => {
            let what_next = if journal.doubts.is_empty() {
                "the next serve, or repair, adds them".to_owned()
            } else {
                format!(
                    "--journal must say what to do: {}",
                    journal.doubts.join("; ")
                )
            };
            let message = format!(
                "a server was killed, and its journal has {pending} not committed; {what_next}"
            );
            report.add_general(FindingKind::JournalWaiting, message);
        }
        _ => {}
    }
}

/// Checks the store on any device.
///
/// # Errors
/// As `check`.
pub fn check_device(device: &dyn BlockDevice) -> Result<CheckReport> {
    judge(device, None)
}

fn judge(device: &dyn BlockDevice, origin: Option<&Origin>) -> Result<CheckReport> {
    let found = find_header(device, None)?;
    let mut report = CheckReport::default();
    check_header(&found, &mut report);
    if let Some(origin) = origin {
        check_origin(origin, &found.sector, &mut report)?;
    }
    let chunk_size = found.sector.header.chunk_size;
    let layout = Layout::new(chunk_size);
    if let Some(scan) = Scan::run(device, layout, Strictness::Everything)? {
        let origin_chunks = origin.map(|origin| chunk_size.chunks_to_hold(origin.size_bytes()));
        check_entries(&scan, origin_chunks, &mut report);
        check_areas(&scan, device, &mut report);
    }
    Ok(report)
}

fn check_header(found: &FoundHeader, report: &mut CheckReport) {
    if let Some(damage) = &found.damage {
        report.add_about_header(FindingKind::HeaderDamaged, describe(found, damage));
    }
    let is_valid = found.sector.header.is_valid();
    let is_changing = matches!(found.sector.identity, Ok(Some(record)) if record.origin_changing);
    if !is_valid {
        let message = if is_changing {
            "the store was invalidated (valid = 0): the server of its origin dropped it, and the \
             origin went on without it"
        } else {
            "the store was invalidated (valid = 0); a kernel refuses to serve it"
        };
        report.add_about_header(FindingKind::Invalidated, message.to_owned());
    }
    match found.sector.identity {
        Err(error) => {
            let message = format!("the identity record: {error}");
            report.add_about_header(FindingKind::Identity, message);
        }
        Ok(_) if is_changing && is_valid => {
            let message = "the origin is written to as well (a merge, or its own server), and that \
                           did not end: what it holds is not compared, only its size";
            report.add_about_header(FindingKind::OriginChanging, message.to_owned());
        }
        Ok(_) => {}
    }
}

/// A damaged header in one sentence.
pub(crate) fn describe(found: &FoundHeader, damage: &HeaderDamage) -> String {
    let chunk_bytes = found.sector.header.chunk_size.bytes();
    let evidence = damage.evidence.join("; ");
    let doubt = damage.doubt.map(|doubt| format!(" (but {doubt})"));
    format!(
        "the header: {}; behind it lies a store with chunks of {chunk_bytes} bytes: {evidence}{}",
        damage.why,
        doubt.unwrap_or_default()
    )
}

fn check_entries(scan: &Scan, origin_chunks: Option<u64>, report: &mut CheckReport) {
    report.areas = scan.areas;
    let old_twice = scan.repeated(|entry| entry.old_chunk.0);
    let new_twice = scan.repeated(|entry| entry.new_chunk.0);
    let (mut old_twice, mut new_twice) = (old_twice.into_iter(), new_twice.into_iter());
    let (mut next_old, mut next_new) = (old_twice.next(), new_twice.next());
    for (n, exception) in scan.entries() {
        report.exceptions += 1;
        let mut add = |kind, why: &str| report.add(entry_finding(scan, n, exception, kind, why));
        if let Some(why) = scan.why_refused(exception) {
            add(kind_of(scan.layout, exception), why);
        }
        if origin_chunks.is_some_and(|count| exception.old_chunk.0 >= count) {
            let why = "the origin ends before that chunk";
            add(FindingKind::OutsideOrigin, why);
        }
        if let Some((_, first)) = next_old.filter(|(later, _)| *later == n) {
            let (area, index) = scan.layout.entry_position(first);
            let is_same = scan.entry(first) == Some(exception);
            let why = if is_same {
                format!("repeats area {area}, entry {index}")
            } else {
                format!("area {area}, entry {index} is for the same old chunk")
            };
            add(FindingKind::OldChunkTwice, &why);
            next_old = old_twice.next();
        }
        if let Some((_, first)) = next_new.filter(|(later, _)| *later == n) {
            let (area, index) = scan.layout.entry_position(first);
            let why = format!("area {area}, entry {index} has the same new chunk");
            add(FindingKind::NewChunkTwice, &why);
            next_new = new_twice.next();
        }
    }
}

/// A finding about entry `n`.
pub(crate) fn entry_finding(
    scan: &Scan,
    n: u64,
    exception: Exception,
    kind: FindingKind,
    why: &str,
) -> Finding {
    let (area, index) = scan.layout.entry_position(n);
    let Exception {
        old_chunk,
        new_chunk,
    } = exception;
    Finding {
        kind,
        area: Some(area),
        chunk: scan.layout.area_location(area),
        index: Some(index),
        exception: Some(exception),
        message: format!(
            "area {area}, entry {index}: old chunk {old_chunk}, new chunk {new_chunk}: {why}"
        ),
    }
}

fn check_areas(scan: &Scan, device: &dyn BlockDevice, report: &mut CheckReport) {
    let layout = scan.layout;
    let location = |area| layout.area_location(area).unwrap_or_default();
    if let Some((area, offset)) = scan.junk {
        let message = format!(
            "area {area} (chunk {}): bytes that are not zero behind the last entry, from byte \
             {offset} on{}",
            location(area),
            scan.leftover.describe()
        );
        let index = offset / EXCEPTION_LEN as u64;
        let kind = FindingKind::JunkBehindTerminator;
        report.add_area(kind, layout, area, Some(index), message);
    }
    for unreadable in &scan.unreadable {
        let area = unreadable.area;
        let message = format!(
            "area {area} (chunk {}), entry {} and on: {}",
            location(area),
            unreadable.index,
            unreadable.cause
        );
        let index = Some(unreadable.index);
        report.add_area(FindingKind::AreaUnreadable, layout, area, index, message);
    }
    if let Some(area) = scan.missing {
        let message = format!(
            "area {area} is missing: the areas before it are full, and it would lie at chunk {} \
             of {} (the file was cut off, or filled by a kernel)",
            location(area),
            scan.device_chunks
        );
        report.add_area(FindingKind::AreaMissing, layout, area, None, message);
    }
    if scan.is_hole {
        let area = AreaIndex(scan.areas.saturating_sub(1));
        let message = format!(
            "area {area} (chunk {}) is a hole of the file: a full filesystem would be noticed late",
            location(area)
        );
        report.add_area(FindingKind::AreaHole, layout, area, None, message);
    }
    if layout.kernel_poisoned(scan.device_chunks) {
        let message = format!(
            "a kernel that fills these {} chunks ({} sectors) invalidates the store; one chunk \
             more is safe",
            scan.device_chunks,
            device.size_bytes() / SECTOR_SIZE
        );
        report.add_general(FindingKind::PoisonedSize, message);
    }
}

/// What kind of entry that can't be.
pub(crate) fn kind_of(layout: Layout, exception: Exception) -> FindingKind {
    if exception.high_bits_set() {
        FindingKind::EntryHighBits
    } else if layout.is_metadata(exception.new_chunk) {
        FindingKind::EntryPointsAtMetadata
    } else {
        FindingKind::EntryOutOfRange
    }
}

pub(crate) fn check_origin(
    origin: &Origin,
    sector: &HeaderSector,
    report: &mut CheckReport,
) -> Result<()> {
    let Ok(Some(record)) = sector.identity else {
        return Ok(());
    };
    let Some(wanted) = record.origin else {
        return Ok(());
    };
    let size_bytes = origin.size_bytes();
    if wanted.size_bytes != size_bytes {
        let message = format!(
            "origin {} has {size_bytes} bytes; the one the store was made for had {}",
            origin.name(),
            wanted.size_bytes
        );
        report.add_about_header(FindingKind::OriginDiffers, message);
    } else if record.origin_changing {
        return Ok(());
    } else if wanted.sample_scheme == identity::LAYERED_SCHEME {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "cannot compare the origin: the store was made for an origin with layers",
        )
        .with_hint("check each file by itself; `serve` with all layers compares them"));
    } else if wanted.sample_scheme != identity::SAMPLE_SCHEME {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "cannot compare the origin: the store's sample is of another version",
        ));
    } else if wanted.sample_crc32 != origin.identity()?.sample_crc32 {
        let message = format!(
            "origin {}: its content changed since the store was made",
            origin.name()
        );
        report.add_about_header(FindingKind::OriginDiffers, message);
    }
    Ok(())
}
