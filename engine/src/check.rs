//! Judging a store without changing it: every kind of damage, with area, index and chunk.

use std::collections::HashMap;
use std::path::Path;

use usnap_format::{AreaIndex, Exception, Layout, NewChunk, OldChunk};

use crate::device::{BlockDevice, FileDevice};
use crate::error::{Error, Result};
use crate::origin::Origin;
use crate::origin::identity;
use crate::store::persistent::open::why_refused;
use crate::store::persistent::walk::{AreaWalk, HeaderSector, read_header};

/// So many findings are kept; the rest are only counted.
const FINDINGS_MAX: usize = 1000;

/// What kind of damage a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The area behind a full one does not lie inside the device.
    AreaMissing,
    /// An entry has bits set that the kernel uses as a run length.
    EntryHighBits,
    /// An entry points behind the end of the COW device.
    EntryOutOfRange,
    /// An entry points at the header or at an area.
    EntryPointsAtMetadata,
    /// The identity record is damaged.
    Identity,
    /// The store was invalidated (`valid` = 0).
    Invalidated,
    /// Bytes behind the terminator are not zero: an interrupted commit's, or junk. A kernel may
    /// bring them alive; a writable open here clears them.
    JunkBehindTerminator,
    /// Two entries share a new chunk.
    NewChunkTwice,
    /// Two entries are for one old chunk.
    OldChunkTwice,
    /// The origin is not the one that the store was made for.
    OriginDiffers,
    /// An entry is for a chunk that the origin does not have.
    OutsideOrigin,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of damage.
    pub kind: FindingKind,
    /// In which area, where it is in one.
    pub area: Option<AreaIndex>,
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
    /// The findings, at most a thousand.
    pub findings: Vec<Finding>,
    /// How many there were.
    pub finding_count: u64,
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
        self.finding_count += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    fn add_general(&mut self, kind: FindingKind, message: String) {
        self.add(Finding {
            kind,
            area: None,
            index: None,
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
    let sector = read_header(&device)?;
    let origin = origin.map(Origin::open).transpose()?;
    check_device(&device, &sector, origin.as_ref())
}

fn check_device(
    device: &dyn BlockDevice,
    sector: &HeaderSector,
    origin: Option<&Origin>,
) -> Result<CheckReport> {
    let chunk_size = sector.header.chunk_size;
    let layout = Layout::new(chunk_size);
    let device_chunks = chunk_size.whole_chunks(device.size_bytes());
    let mut report = CheckReport::default();
    if !sector.header.is_valid() {
        let message = "the store was invalidated (valid = 0); a kernel refuses to serve it";
        report.add_general(FindingKind::Invalidated, message.to_owned());
    }
    if let Err(error) = sector.identity {
        report.add_general(
            FindingKind::Identity,
            format!("the identity record: {error}"),
        );
    }
    if let Some(origin) = origin {
        check_origin(origin, sector, &mut report)?;
    }
    let origin_chunks = origin.map(|origin| chunk_size.chunks_to_hold(origin.size_bytes()));
    let mut seen = Seen::default();
    let mut walk = AreaWalk::new(device, chunk_size);
    loop {
        let area = match walk.next_area() {
            Ok(Some(area)) => area,
            Ok(None) => break,
            Err(error) if error.kind() == crate::ErrorKind::Corrupt => {
                report.add_general(FindingKind::AreaMissing, error.to_string());
                break;
            }
            Err(error) => return Err(error),
        };
        report.areas += 1;
        for (index, exception) in (0..).zip(area.view.exceptions()) {
            report.exceptions += 1;
            let mut add = |kind, why: &str| {
                report.add(Finding {
                    kind,
                    area: Some(area.index),
                    index: Some(index),
                    exception: Some(exception),
                    message: format!(
                        "area {}, entry {index}: old chunk {}, new chunk {}: {why}",
                        area.index, exception.old_chunk, exception.new_chunk
                    ),
                });
            };
            if let Some(why) = why_refused(layout, device_chunks, exception) {
                add(kind_of(layout, exception), why);
            }
            if origin_chunks.is_some_and(|count| exception.old_chunk.0 >= count) {
                add(
                    FindingKind::OutsideOrigin,
                    "the origin ends before that chunk",
                );
            }
            if let Some((area, index)) = seen.repeated_old(exception.old_chunk, (area.index, index))
            {
                let why = format!("area {area}, entry {index} is for the same old chunk");
                add(FindingKind::OldChunkTwice, &why);
            }
            if let Some((area, index)) = seen.repeated_new(exception.new_chunk, (area.index, index))
            {
                let why = format!("area {area}, entry {index} has the same new chunk");
                add(FindingKind::NewChunkTwice, &why);
            }
        }
        if let Some(offset) = area.view.has_junk_behind_terminator() {
            report.add(Finding {
                kind: FindingKind::JunkBehindTerminator,
                area: Some(area.index),
                index: Some(offset / usnap_format::EXCEPTION_LEN as u64),
                exception: None,
                message: format!(
                    "area {} (chunk {}): bytes that are not zero behind the last entry, from byte \
                     {offset} on",
                    area.index, area.location
                ),
            });
        }
    }
    Ok(report)
}

fn kind_of(layout: Layout, exception: Exception) -> FindingKind {
    if exception.high_bits_set() {
        FindingKind::EntryHighBits
    } else if layout.is_metadata(exception.new_chunk) {
        FindingKind::EntryPointsAtMetadata
    } else {
        FindingKind::EntryOutOfRange
    }
}

fn check_origin(origin: &Origin, sector: &HeaderSector, report: &mut CheckReport) -> Result<()> {
    let Ok(Some(record)) = sector.identity else {
        return Ok(());
    };
    let Some(wanted) = record.origin else {
        return Ok(());
    };
    let found = origin.identity()?;
    if wanted.size_bytes != found.size_bytes {
        let message = format!(
            "origin {} has {} bytes; the one the store was made for had {}",
            origin.name(),
            found.size_bytes,
            wanted.size_bytes
        );
        report.add_general(FindingKind::OriginDiffers, message);
    } else if wanted.sample_scheme != identity::SAMPLE_SCHEME {
        return Err(Error::new(
            crate::ErrorKind::NotSupported,
            "cannot compare the origin: the store's sample is of another version",
        ));
    } else if wanted.sample_crc32 != found.sample_crc32 {
        let message = format!(
            "origin {}: its content changed since the store was made",
            origin.name()
        );
        report.add_general(FindingKind::OriginDiffers, message);
    }
    Ok(())
}

type Entry = (AreaIndex, u64);

/// Where each chunk was seen first.
#[derive(Default)]
struct Seen {
    old: HashMap<OldChunk, Entry>,
    new: HashMap<NewChunk, Entry>,
}

impl Seen {
    fn repeated_old(&mut self, chunk: OldChunk, entry: Entry) -> Option<Entry> {
        first_seen(&mut self.old, chunk, entry)
    }

    fn repeated_new(&mut self, chunk: NewChunk, entry: Entry) -> Option<Entry> {
        first_seen(&mut self.new, chunk, entry)
    }
}

fn first_seen<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, Entry>,
    chunk: K,
    entry: Entry,
) -> Option<Entry> {
    match map.entry(chunk) {
        std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
        std::collections::hash_map::Entry::Vacant(vacant) => {
            vacant.insert(entry);
            None
        }
    }
}
