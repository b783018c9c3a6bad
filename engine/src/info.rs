//! What can be said of a store by looking at it: its status, how its chunks lie, and, beside its
//! origin, how much of it need not be there. Nothing is held that grows with the store.

use std::path::Path;

use usnap_format::{AreaIndex, Exception, IdentityRecord, Layout, NewChunk, OldChunk};

use crate::check::{CheckReport, check_origin};
use crate::device::{BlockDevice, FileDevice};
use crate::dump::{StoreHeader, Summary, Visitor, walk};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::origin::Origin;
use crate::snapshot::{StatusReport, report_at_rest};
use crate::store::persistent::open::why_refused;
use crate::store::persistent::walk::read_header;

/// So much of a run of chunks is compared at once, in bytes.
const STEP_BYTES: u64 = 1 << 20;

/// What is said of a store.
#[derive(Clone, Debug)]
pub struct InfoReport {
    /// As `status` shows it.
    pub status: StatusReport,
    /// The header's word.
    pub valid: u32,
    /// The identity record, if there is one that can be read.
    pub record: Option<IdentityRecord>,
    /// How its chunks lie.
    pub shape: Shape,
    /// The size in bytes from which on it can never be full, where the origin's is known.
    pub never_full_bytes: Option<u64>,
    /// What a look at the origin shows.
    pub compared: Option<Compared>,
    /// Why the origin is not the one on record, as a sentence.
    pub origin_differs: Option<String>,
}

/// How a store's chunks lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Areas, the one with the terminator included.
    pub areas: u64,
    /// Data chunks below the last one in use that no entry names.
    pub holes: u64,
    /// Runs of entries whose old chunks and new chunks follow each other.
    pub runs: u64,
    /// Whether old chunks ascend.
    pub is_sorted: bool,
    /// Entries that no reader believes, each by itself.
    pub damaged: u64,
    /// Whether an area lies behind the end of the device.
    pub has_missing_area: bool,
}

/// How changed chunks compare with the origin's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Chunks that were compared.
    pub chunks: u64,
    /// Those that hold what the origin holds.
    pub equal: u64,
    /// Those that hold zeros only.
    pub zero: u64,
    /// Entries for chunks that the origin does not have.
    pub beyond_origin: u64,
}

/// Looks at the store at `cow`, and compares it with `origin`; tells `watch` now and then how many
/// exceptions it has seen. Nothing is locked or changed.
///
/// # Errors
/// `Foreign`, `Corrupt` (the header), `NotFound`, `Io`.
pub fn info(cow: &Path, origin: Option<&Path>, watch: &mut dyn FnMut(u64)) -> Result<InfoReport> {
    let comparing = match origin {
        Some(origin) => Some(Comparing::open(cow, Origin::open(origin)?)?),
        None => None,
    };
    let mut looking = Looking {
        summary: Summary::default(),
        shape: Shape {
            is_sorted: true,
            ..Shape::default()
        },
        last: None,
        comparing,
        watch,
    };
    walk(cow, &mut looking)?;
    let Looking {
        summary,
        mut shape,
        comparing,
        ..
    } = looking;
    let Some(header) = summary.header.clone() else {
        let context = format!("cannot read the header of {}", cow.display());
        return Err(Error::new(ErrorKind::Corrupt, context));
    };
    let layout = Layout::new(header.header.chunk_size);
    shape.holes = data_chunks_up_to(layout, summary.max_new_chunk)
        .saturating_sub(summary.exceptions - shape.damaged);
    let mut origin_differs = None;
    let compared = match comparing {
        Some(mut comparing) => {
            comparing.compare()?;
            let mut report = CheckReport::default();
            let sector = read_header(&comparing.cow)?;
            let looked = check_origin(&comparing.origin, &sector, &mut report);
            origin_differs = match looked {
                // It has layers, or a later version made it: what lies there is compared.
                Err(error) if error.kind() == ErrorKind::NotSupported => Some(error.to_string()),
                looked => {
                    looked?;
                    report.findings.first().map(|f| f.message.clone())
                }
            };
            Some(comparing.compared)
        }
        None => None,
    };
    let origin_bytes = header.identity.and_then(|record| record.origin);
    Ok(InfoReport {
        status: StatusReport {
            journal: report_at_rest(cow)?,
            ..summary.report(cow)?
        },
        valid: header.header.valid,
        record: header.identity,
        shape,
        never_full_bytes: origin_bytes
            .and_then(|origin| layout.never_full_bytes(origin.size_bytes)),
        compared,
        origin_differs,
    })
}

/// How many data chunks there are up to this one.
fn data_chunks_up_to(layout: Layout, last: Option<NewChunk>) -> u64 {
    let Some(NewChunk(last)) = last.filter(|last| last.0 >= 2) else {
        return 0;
    };
    // Header, and the areas below: chunks 1, 1 + stride, ...
    last - (last - 1) / layout.chunk_size.stride() - 1
}

/// Sees all metadata once.
struct Looking<'w> {
    summary: Summary,
    shape: Shape,
    last: Option<Exception>,
    comparing: Option<Comparing>,
    watch: &'w mut dyn FnMut(u64),
}

impl Visitor for Looking<'_> {
    fn header(&mut self, header: &StoreHeader) -> Result<()> {
        if let Some(comparing) = &mut self.comparing {
            comparing.layout = Layout::new(header.header.chunk_size);
        }
        self.summary.header(header)
    }

    fn area(&mut self, area: AreaIndex, location: NewChunk) -> Result<()> {
        self.shape.areas += 1;
        (self.watch)(self.summary.exceptions);
        self.summary.area(area, location)
    }

    fn exception(&mut self, area: AreaIndex, index: u64, exception: Exception) -> Result<()> {
        let Some(header) = &self.summary.header else {
            return Ok(());
        };
        let layout = Layout::new(header.header.chunk_size);
        let device_chunks = layout.chunk_size.whole_chunks(header.cow_size_bytes);
        if why_refused(layout, device_chunks, exception).is_some() {
            self.shape.damaged += 1;
            self.summary.exceptions += 1;
            return Ok(());
        }
        let follows = self.last.is_some_and(|last| {
            last.old_chunk.0.checked_add(1) == Some(exception.old_chunk.0)
                && layout.following(last.new_chunk) == Some(exception.new_chunk)
        });
        self.shape.runs += u64::from(!follows);
        let ascends = self
            .last
            .is_none_or(|last| last.old_chunk < exception.old_chunk);
        self.shape.is_sorted &= ascends;
        self.last = Some(exception);
        if let Some(comparing) = &mut self.comparing {
            comparing.add(exception)?;
            if self.summary.exceptions.is_multiple_of(64) {
                (self.watch)(self.summary.exceptions);
            }
        }
        self.summary.exception(area, index, exception)
    }

    fn missing_area(&mut self, _: AreaIndex, _: NewChunk, _: Error) -> Result<()> {
        self.shape.has_missing_area = true;
        Ok(())
    }
}

/// Compares the data of exceptions with the origin's, run by run.
struct Comparing {
    cow: FileDevice,
    origin: Origin,
    layout: Layout,
    /// The run that is gathered: its first exception, and its length in chunks.
    run: Option<(Exception, u64)>,
    compared: Compared,
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

impl Comparing {
    fn open(cow: &Path, origin: Origin) -> Result<Self> {
        Ok(Self {
            cow: FileDevice::open_read_only(cow)?,
            origin,
            layout: Layout::new(usnap_format::ChunkSize::default()),
            run: None,
            compared: Compared::default(),
            ours: Vec::new(),
            theirs: Vec::new(),
        })
    }

    fn add(&mut self, exception: Exception) -> Result<()> {
        let chunk_size = self.layout.chunk_size;
        if exception.old_chunk.0 >= chunk_size.chunks_to_hold(self.origin.size_bytes()) {
            self.compared.beyond_origin += 1;
            return Ok(());
        }
        let limit = (STEP_BYTES >> chunk_size.shift()).max(1);
        if let Some((first, count)) = &mut self.run
            && *count < limit
            && first.old_chunk.0 + *count == exception.old_chunk.0
            && first.new_chunk.0 + *count == exception.new_chunk.0
        {
            *count += 1;
            return Ok(());
        }
        self.compare()?;
        self.run = Some((exception, 1));
        Ok(())
    }

    /// Compares what was gathered.
    fn compare(&mut self) -> Result<()> {
        let Some((first, count)) = self.run.take() else {
            return Ok(());
        };
        let shift = self.layout.chunk_size.shift();
        let Exception {
            old_chunk: OldChunk(old_chunk),
            new_chunk: NewChunk(new_chunk),
        } = first;
        // What lies behind the origin's end in the last chunk means nothing.
        let start = old_chunk << shift;
        let len = (count << shift).min(self.origin.size_bytes() - start);
        self.ours.resize(to_usize(len), 0);
        self.theirs.resize(to_usize(len), 0);
        self.cow.read_at(&mut self.ours, new_chunk << shift)?;
        self.origin.read_at(&mut self.theirs, start)?;
        let chunk_len = to_usize(self.layout.chunk_size.bytes());
        for (ours, theirs) in self
            .ours
            .chunks(chunk_len)
            .zip(self.theirs.chunks(chunk_len))
        {
            self.compared.chunks += 1;
            self.compared.equal += u64::from(ours == theirs);
            self.compared.zero += u64::from(ours.iter().all(|&byte| byte == 0));
        }
        Ok(())
    }
}
