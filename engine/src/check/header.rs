//! Finding the header, also where it is damaged and the areas behind it say what it was.
//!
//! Nothing but the chunk size decides where areas lie, so all are tried. One is taken for the
//! store's if every entry is believable under it and no other chunk size has any; and where nothing
//! is left of the header itself, only if the entries lie in perfect order. All else is for a person
//! to decide, with `--chunk-size`.

use usnap_format::{
    ChunkSize, DiskException, DiskHeader, EXCEPTION_LEN, HEADER_LEN, Header, IDENTITY_OFFSET,
    IdentityRecord, Layout, MAGIC, VERSION,
};

use super::scan::{Scan, Strictness};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::{SECTOR_LEN, to_usize};
use crate::store::persistent::open::why_refused;
use crate::store::persistent::walk::{HeaderSector, MAX_CHUNK_BYTES, RESTORING, read_header};

/// A header, read or concluded.
pub(crate) struct FoundHeader {
    /// With the header as it should be, and the first 16 bytes as they are.
    pub(crate) sector: HeaderSector,
    /// What is wrong with it, where it is damaged.
    pub(crate) damage: Option<HeaderDamage>,
}

/// What is wrong with a header, and what speaks for the one that is concluded.
pub(crate) struct HeaderDamage {
    /// As a sentence.
    pub(crate) why: String,
    /// Sentences.
    pub(crate) evidence: Vec<String>,
    /// Why it is not rewritten unless the chunk size is named.
    pub(crate) doubt: Option<&'static str>,
}

/// Finds the header on `device`; `told` is the chunk size as a person says.
///
/// # Errors
/// `Foreign`, `Corrupt`, `Io` where there is none and nothing can be concluded; `Usage` where what
/// was told contradicts a sound header.
pub(crate) fn find_header(
    device: &dyn BlockDevice,
    told: Option<ChunkSize>,
) -> Result<FoundHeader> {
    let found = read_header(device);
    let agrees = |sector: &HeaderSector| {
        first_entry(device, sector.header.chunk_size) == FirstEntry::Possible
    };
    if let Some(told) = told
        && !found.as_ref().is_ok_and(agrees)
        && let Some(damaged) = read_damaged(device)?
    {
        refuse_where_another_fits(device, DiskHeader::decode(&damaged.raw), told)?;
    }
    let error = match found {
        Ok(sector) => {
            let said = sector.header.chunk_size;
            let sound = FoundHeader {
                sector,
                damage: None,
            };
            let first = first_entry(device, said);
            if told == Some(said) || (told.is_none() && first == FirstEntry::Possible) {
                return Ok(sound);
            }
            if let Some(told) = told
                && first == FirstEntry::Possible
            {
                return Err(contradicted(device, told, said));
            }
            return match conclude(device, DiskHeader::decode(&sector.raw), told)? {
                Concluded::One(candidate)
                    if candidate.scan.entry_count() > 0
                        && fits_better(candidate.chunk_size, first, said) =>
                {
                    let why = format!(
                        "its chunk size of {} bytes does not fit the areas",
                        said.bytes()
                    );
                    let doubt = Some("the header itself looks sound");
                    Ok(candidate.found(sector, why, doubt))
                }
                _ if told.is_some() => Err(nothing_fits(device, told)),
                // Some other damage.
                _ => Ok(sound),
            };
        }
        Err(error) if matches!(error.kind(), ErrorKind::Foreign | ErrorKind::Corrupt) => error,
        Err(error) => return Err(error),
    };
    let Some(sector) = read_damaged(device)? else {
        return Err(error);
    };
    if sector.raw == RESTORING {
        // What the areas say is half of one store and half of another.
        return Err(error);
    }
    let raw = DiskHeader::decode(&sector.raw);
    let candidate = match conclude(device, raw, told)? {
        Concluded::One(candidate) => candidate,
        Concluded::Several(sizes) => {
            return Err(error.with_hint(format!(
                "its areas are those of a store, of one of these chunk sizes: {sizes}; `usnap \
                 repair --dry-run --chunk-size SIZE` shows what comes of each"
            )));
        }
        Concluded::None if told.is_some() => return Err(nothing_fits(device, told)),
        Concluded::None => return Err(error),
    };
    let has_identity = matches!(sector.identity, Ok(Some(_)));
    let has_entries = candidate.scan.entry_count() > 0;
    let is_named = names(raw, candidate.chunk_size);
    let is_intact_in_part = raw.magic == MAGIC || has_identity || is_named;
    if !has_entries && !is_intact_in_part {
        return Err(if told.is_some() {
            nothing_fits(device, told)
        } else {
            error
        });
    }
    let doubt = if sector.raw == [0; HEADER_LEN] {
        Some(
            "a header of zeros is what wiping a store leaves, and a kernel makes a new store there",
        )
    } else if !is_intact_in_part && !candidate.scan.is_in_order() {
        Some("nothing of the header is left, and its entries do not lie in perfect order")
    } else {
        None
    };
    let why = match raw.validate() {
        Err(error) => error.to_string(),
        Ok(header) => format!(
            "its chunk size of {} bytes is not possible here",
            header.chunk_size.bytes()
        ),
    };
    Ok(candidate.found(sector, why, doubt))
}

/// A chunk size under which the areas could be a store's.
struct Candidate {
    chunk_size: ChunkSize,
    scan: Scan,
}

impl Candidate {
    fn look(
        device: &dyn BlockDevice,
        chunk_size: ChunkSize,
        strictness: Strictness,
    ) -> Result<Option<Self>> {
        let scan = Scan::run(device, Layout::new(chunk_size), strictness)?;
        Ok(scan.map(|scan| Self { chunk_size, scan }))
    }

    /// Whether it holds entries, and nothing that speaks against it.
    fn is_convincing(&self) -> bool {
        self.scan.entry_count() > 0
            && self.scan.junk.is_none()
            && self.scan.unreadable.is_empty()
            && self.scan.repeated(|e| e.new_chunk.0).is_empty()
            && self.scan.repeated(|e| e.old_chunk.0).is_empty()
    }

    fn found(&self, sector: HeaderSector, why: String, doubt: Option<&'static str>) -> FoundHeader {
        let raw = DiskHeader::decode(&sector.raw);
        let mut evidence = Vec::new();
        let mut add = |holds: bool, what: &str| {
            if holds {
                evidence.push(what.to_owned());
            }
        };
        add(raw.magic == MAGIC, "the magic is there");
        add(raw.version == VERSION, "the version is 1");
        add(
            raw.chunk_size_sectors == self.chunk_size.sectors(),
            "the header names the same chunk size",
        );
        add(
            matches!(sector.identity, Ok(Some(_))),
            "the identity record is whole",
        );
        evidence.push(match self.scan.entry_count() {
            0 => "area 0 is empty".to_owned(),
            count => format!(
                "{count} entries from chunk 1 (byte {}) on{}",
                self.chunk_size.bytes(),
                if self.scan.is_in_order() {
                    ", in perfect order"
                } else {
                    ""
                }
            ),
        });
        // The flag is kept where it may mean something; of a header of zeros it means nothing.
        let valid = match raw.valid {
            0 if sector.raw == [0; HEADER_LEN] => 1,
            0 => 0,
            _ => 1,
        };
        let header = Header {
            valid,
            chunk_size: self.chunk_size,
        };
        FoundHeader {
            sector: HeaderSector { header, ..sector },
            damage: Some(HeaderDamage {
                why,
                evidence,
                doubt,
            }),
        }
    }
}

/// Whether a damaged header still says that this is its chunk size.
fn names(raw: DiskHeader, chunk_size: ChunkSize) -> bool {
    raw.version == VERSION && raw.chunk_size_sectors == chunk_size.sectors()
}

enum Concluded {
    None,
    One(Box<Candidate>),
    /// As text.
    Several(String),
}

/// The chunk size that the areas speak for; of one that was told, whatever is there.
fn conclude(
    device: &dyn BlockDevice,
    raw: DiskHeader,
    told: Option<ChunkSize>,
) -> Result<Concluded> {
    let fits = |chunk_size: &ChunkSize| chunk_size.whole_chunks(device.size_bytes()) >= 2;
    if let Some(told) = told {
        if told.bytes() > MAX_CHUNK_BYTES || !fits(&told) {
            return Ok(Concluded::None);
        }
        let candidate = Candidate::look(device, told, Strictness::Everything)?;
        let candidate = candidate.filter(|candidate| candidate.scan.is_mostly_believable());
        return Ok(candidate.map_or(Concluded::None, |one| Concluded::One(Box::new(one))));
    }
    // Other damage does not matter where the header still names the chunk size.
    let named = ChunkSize::from_sectors(raw.chunk_size_sectors).ok();
    let named = named.filter(|named| names(raw, *named) && fits(named));
    if let Some(named) = named
        && first_entry(device, named) == FirstEntry::Possible
    {
        return conclude(device, raw, Some(named));
    }
    let sizes = (0..)
        .map_while(|shift| ChunkSize::from_sectors(1_u32.checked_shl(shift)?).ok())
        .take_while(|chunk_size| chunk_size.bytes() <= MAX_CHUNK_BYTES)
        .filter(fits);
    let mut candidates = Vec::new();
    for chunk_size in sizes {
        let candidate = Candidate::look(device, chunk_size, Strictness::Believable)?;
        candidates.extend(candidate.filter(Candidate::is_convincing));
    }
    if candidates.len() > 1 {
        let sizes = candidates.iter().map(|candidate| {
            let entries = candidate.scan.entry_count();
            format!("{} ({entries} entries)", candidate.chunk_size.bytes())
        });
        return Ok(Concluded::Several(sizes.collect::<Vec<_>>().join(", ")));
    }
    Ok(candidates
        .pop()
        .map_or(Concluded::None, |one| Concluded::One(Box::new(one))))
}

/// What the first entry of an area 0 says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstEntry {
    /// It is an exception that can be; or it can't be read, which others will say.
    Possible,
    /// The store is empty.
    Terminator,
    /// This is no area, or a damaged one.
    Impossible,
}

fn first_entry(device: &dyn BlockDevice, chunk_size: ChunkSize) -> FirstEntry {
    let mut entry = [0; EXCEPTION_LEN];
    if device.read_at(&mut entry, chunk_size.bytes()).is_err() {
        return FirstEntry::Possible;
    }
    let device_chunks = chunk_size.whole_chunks(device.size_bytes());
    match DiskException::decode(&entry).to_exception() {
        None => FirstEntry::Terminator,
        Some(exception) => match why_refused(Layout::new(chunk_size), device_chunks, exception) {
            None => FirstEntry::Possible,
            Some(_) => FirstEntry::Impossible,
        },
    }
}

/// The sector of a header that is none; `None` of a device that has no sector.
fn read_damaged(device: &dyn BlockDevice) -> Result<Option<HeaderSector>> {
    let mut sector = [0; SECTOR_LEN];
    if device.size_bytes() < SECTOR_LEN as u64 {
        return Ok(None);
    }
    device.read_at(&mut sector, 0)?;
    let record = sector.get(to_usize(IDENTITY_OFFSET)..).unwrap_or_default();
    let smallest = ChunkSize::from_sectors(1)?;
    Ok(Some(HeaderSector {
        header: Header::new(smallest),
        raw: sector.first_chunk().copied().unwrap_or_default(),
        identity: IdentityRecord::decode(record, crc32fast::hash),
    }))
}

/// Whether a chunk size under which there are entries is to be taken rather than `said`, whose first
/// entry is this. Whoever makes a store zeroes the whole header chunk, so that no area of smaller
/// chunks is left in it; an older one of larger chunks may well lie behind.
fn fits_better(found: ChunkSize, first: FirstEntry, said: ChunkSize) -> bool {
    first == FirstEntry::Impossible || found < said
}

/// A person may err, too.
fn refuse_where_another_fits(
    device: &dyn BlockDevice,
    raw: DiskHeader,
    told: ChunkSize,
) -> Result<()> {
    if told.whole_chunks(device.size_bytes()) < 2 {
        return Ok(());
    }
    let first = first_entry(device, told);
    if first == FirstEntry::Possible {
        return Ok(());
    }
    let Concluded::One(other) = conclude(device, raw, None)? else {
        return Ok(());
    };
    if other.chunk_size == told || !fits_better(other.chunk_size, first, told) {
        return Ok(());
    }
    let (found, entries) = (other.chunk_size.bytes(), other.scan.entry_count());
    let context = format!(
        "cannot take {} for the chunk size of {}: nothing is there, and chunks of {found} bytes \
         fit, with {entries} entries",
        told.bytes(),
        device.name()
    );
    Err(Error::new(ErrorKind::Corrupt, context).with_hint(format!("try --chunk-size {found}")))
}

fn nothing_fits(device: &dyn BlockDevice, told: Option<ChunkSize>) -> Error {
    let size = told.map(ChunkSize::bytes).unwrap_or_default();
    let context = format!(
        "cannot find a store with chunks of {size} bytes on {}: what would be its first area is \
         no area, and nothing of the header is left",
        device.name()
    );
    Error::new(ErrorKind::Corrupt, context)
}

fn contradicted(device: &dyn BlockDevice, told: ChunkSize, said: ChunkSize) -> Error {
    let context = format!(
        "cannot take {} for the chunk size of {}: its header says {}, and the areas agree",
        told.bytes(),
        device.name(),
        said.bytes()
    );
    Error::new(ErrorKind::Usage, context).with_hint("leave --chunk-size out")
}
