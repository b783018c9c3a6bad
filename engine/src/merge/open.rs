//! What may be merged. Everything that refuses comes first and changes nothing; then a journal that
//! waits is committed, as by any writable open.

use std::path::Path;
use std::sync::Arc;

use usnap_format::{ChunkSize, OriginIdentity};

use super::online::{OnlineMerge, OnlineOptions, Parts};
use super::{DEFAULT_BATCH_BYTES, MergeEnd, Watch, Work, check_batch};
use crate::device::{Attempt, BlockDevice, Extent, FileDevice, ZeroFlags};
use crate::error::{Error, ErrorKind, Result};
use crate::origin::{Identify, WritableOrigin, identity};
use crate::snapshot::belongs::{
    GrownTail, Match, cannot_pair, match_origin, no_origin, refuse_same_file,
};
use crate::snapshot::{
    JournalMode, distrust_cache, end_session, journal_waiting_on, refuse_beyond_origin,
};
use crate::store::cow_file;
use crate::store::persistent::open::{Loaded, load};
use crate::store::persistent::walk::{HeaderSector, read_header};
use crate::table::{ExceptionTable, Loading};

/// How a merge is done.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// Merge although the origin is not the one that the store was made for.
    pub force_origin: bool,
    /// So much data is copied before the origin is flushed and the entries are cleared:
    /// `MAX_BATCH_BYTES` at most.
    pub batch_bytes: u64,
    /// What becomes of a journal that a killed server left.
    pub journal: JournalMode,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            force_origin: false,
            batch_bytes: DEFAULT_BATCH_BYTES,
            journal: JournalMode::Auto,
        }
    }
}

/// A store and the origin that it is merged into, both locked, fit for each other.
pub struct Merge {
    cow: Arc<FileDevice>,
    origin: WritableOrigin,
    sector: HeaderSector,
    loaded: Loaded,
    batch_bytes: u64,
}

impl Merge {
    /// Opens and locks both for this process alone, and checks that one can be merged into the
    /// other. Also returns what a person should know, a sentence each.
    ///
    /// # Errors
    /// `InUse`, `OriginMismatch`, `Foreign`, `Corrupt`, `InvalidStore`, `JournalInDoubt`, `Usage` (one
    /// file twice, the batch size), `NotFound`, `Io`. Nothing was changed then, but by an `Io` error of
    /// a write.
    pub fn open(
        cow: &Path,
        origin_path: &Path,
        options: &MergeOptions,
    ) -> Result<(Self, Vec<String>)> {
        check_batch(options.batch_bytes)?;
        // A look at the store first: what is no store is no reason to lock an origin.
        read_header(&FileDevice::open_read_only(cow)?)?;
        let origin = WritableOrigin::open(origin_path)?;
        refuse_same_file(&origin, cow)?;
        let opened = cow_file::open(cow, false, ChunkSize::default())?;
        let mut notes = Vec::new();
        let device = opened.device;
        let sector = match opened.sector {
            Some(sector) => sector,
            // It is unused: the error that says so.
            None => read_header(&*device)?,
        };
        let record = sector.identity.map_err(|damage| {
            let context = format!(
                "{}: the identity record: {damage}",
                cannot_pair(&origin, cow)
            );
            Error::new(ErrorKind::Corrupt, context).with_hint("`usnap repair` mends it")
        })?;
        let mut is_unknown = false;
        match match_origin(&origin, record.as_ref())? {
            Match::Same => {}
            Match::New => is_unknown = true,
            Match::Unknown { why, .. } => notes.push(why),
            Match::Different(why) if options.force_origin => {
                notes.push(format!("{why}; merged all the same (--force-origin)"));
            }
            Match::Different(why) => {
                let context = format!("{}: {why}", cannot_pair(&origin, cow));
                return Err(Error::new(ErrorKind::OriginMismatch, context).with_hint(
                    "merge into the origin it was made for; or, if you are certain, --force-origin",
                ));
            }
        }
        distrust_cache(cow, &device, record.as_ref());
        let (loaded, table) = load_for(&*device, &sector, &origin)?;
        refuse_beyond_origin(loaded.beyond_origin, &origin, cow)?;
        let chunk_size = sector.header.chunk_size;
        let waiting = journal_waiting_on(cow, &device)?;
        let missing = waiting
            .and_then(|waiting| waiting.missing)
            .unwrap_or_default();
        let is_beyond = |old_chunk: u64| old_chunk >= table.chunk_count();
        let beyond = missing.iter().filter(|e| is_beyond(e.old_chunk.0)).count();
        refuse_beyond_origin(beyond as u64, &origin, cow)?;
        let recorded = record.and_then(|record| record.origin);
        if let Some(recorded) = recorded
            && GrownTail::find(&table, chunk_size, recorded.size_bytes, origin.size_bytes())
                .is_some()
        {
            let context = format!(
                "{}: the origin grew from {} bytes, and the chunk in which it ended was written",
                cannot_pair(&origin, cow),
                recorded.size_bytes
            );
            return Err(Error::new(ErrorKind::OriginMismatch, context).with_hint(
                "serve it once with --force-origin --adopt, which completes that chunk",
            ));
        }
        if loaded.junk_offset.is_some() {
            notes.push(format!(
                "cleared what an interrupted commit left behind the last entry{}",
                loaded.leftover.describe()
            ));
        }
        let replayed = end_session(cow, &device, &sector, options.journal)
            .inspect_err(|_| device.drop_page_cache())?;
        if replayed > 0 {
            notes.push(format!(
                "committed {replayed} exceptions that a killed server had not committed"
            ));
        }
        let sector = read_header(&*device)?;
        let (loaded, _) = load_for(&*device, &sector, &origin)?;
        if let (true, Match::Unknown { why, .. }) = (is_unknown, no_origin())
            && loaded.committed > 0
        {
            notes.push(why);
        }
        let merge = Self {
            cow: device,
            origin,
            sector,
            loaded,
            batch_bytes: options.batch_bytes,
        };
        Ok((merge, notes))
    }

    /// How many exceptions there are to merge.
    #[must_use]
    pub fn exceptions(&self) -> u64 {
        self.loaded.committed
    }

    /// The chunk size of the store.
    #[must_use]
    pub fn chunk_size(&self) -> ChunkSize {
        self.sector.header.chunk_size
    }

    /// Serves it while it is merged: the device that clients see. The merge begins with `run` of
    /// it.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Corrupt`.
    pub fn serve(self, options: &OnlineOptions) -> Result<OnlineMerge> {
        check_batch(options.batch_bytes)?;
        let (loaded, table) = load_for(&*self.cow, &self.sector, &self.origin)?;
        let origin = Arc::new(self.origin);
        let identified = Arc::clone(&origin);
        let cow = Arc::clone(&self.cow);
        let parts = Parts {
            cow: self.cow,
            origin,
            identify: Box::new(move || identified.identity()),
            sector: self.sector,
            loaded,
            table,
        };
        OnlineMerge::begin(parts, options).inspect_err(|_| cow.drop_page_cache())
    }

    /// Does it. Where it ends early, for whatever reason, another merge goes on.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the store over the origin is what it was.
    pub fn run(mut self, watch: &mut Watch<'_>) -> Result<MergeEnd> {
        let (cow, origin) = (&*self.cow, &self.origin);
        settle_and_run(
            cow,
            origin,
            self.sector,
            &mut self.loaded,
            self.batch_bytes,
            watch,
        )
    }
}

/// Merges the store on any device into any other; of the origin no modification time is noted, as of
/// a block device. There is no journal, and nothing is locked.
///
/// # Errors
/// As `Merge::open` and `Merge::run`.
pub fn merge_device(
    cow: &dyn BlockDevice,
    origin: &dyn BlockDevice,
    options: &MergeOptions,
    watch: &mut Watch<'_>,
) -> Result<MergeEnd> {
    check_batch(options.batch_bytes)?;
    let origin = &Timeless(origin);
    let sector = read_header(cow)?;
    if !sector.header.is_valid() {
        let context = format!("cannot use COW device {}: it was invalidated", cow.name());
        return Err(Error::new(ErrorKind::InvalidStore, context));
    }
    let matched = match_origin(origin, sector.identity.ok().flatten().as_ref())?;
    if let (Match::Different(why), false) = (matched, options.force_origin) {
        return Err(Error::new(ErrorKind::OriginMismatch, why));
    }
    cow.drop_page_cache();
    let (mut loaded, _) = load_for(cow, &sector, origin)?;
    refuse_beyond_origin(loaded.beyond_origin, origin, Path::new(cow.name()))?;
    settle_and_run(cow, origin, sector, &mut loaded, options.batch_bytes, watch)
}

/// Serves the store on any device while it is merged into any other, as `merge_device` merges it.
///
/// # Errors
/// As `merge_device`.
pub fn serve_device(
    cow: Arc<dyn BlockDevice>,
    origin: Arc<dyn BlockDevice>,
    options: &OnlineOptions,
) -> Result<OnlineMerge> {
    check_batch(options.batch_bytes)?;
    let timeless = Timeless(&*origin);
    let sector = read_header(&*cow)?;
    if !sector.header.is_valid() {
        let context = format!("cannot use COW device {}: it was invalidated", cow.name());
        return Err(Error::new(ErrorKind::InvalidStore, context));
    }
    cow.drop_page_cache();
    let (loaded, table) = load_for(&*cow, &sector, &timeless)?;
    refuse_beyond_origin(loaded.beyond_origin, &timeless, Path::new(cow.name()))?;
    let identified = Arc::clone(&origin);
    let parts = Parts {
        cow,
        origin,
        identify: Box::new(move || Timeless(&*identified).identify()),
        sector,
        loaded,
        table,
    };
    OnlineMerge::begin(parts, options)
}

fn load_for(
    cow: &dyn BlockDevice,
    sector: &HeaderSector,
    origin: &dyn Identify,
) -> Result<(Loaded, ExceptionTable)> {
    let chunks = sector.header.chunk_size.chunks_to_hold(origin.size_bytes());
    load(cow, sector, Loading::new(chunks)?, None)
}

fn settle_and_run(
    cow: &dyn BlockDevice,
    origin: &dyn Identify,
    sector: HeaderSector,
    loaded: &mut Loaded,
    batch_bytes: u64,
    watch: &mut Watch<'_>,
) -> Result<MergeEnd> {
    loaded.settle(cow).inspect_err(|_| cow.drop_page_cache())?;
    let work = Work {
        cow,
        origin,
        sector,
        committed: loaded.committed,
        batch_bytes,
    };
    work.run(watch)
}

/// A device as an origin without a modification time.
struct Timeless<'a>(&'a dyn BlockDevice);

impl Identify for Timeless<'_> {
    fn identify(&self) -> Result<OriginIdentity> {
        Ok(OriginIdentity {
            size_bytes: self.0.size_bytes(),
            sample_scheme: identity::SAMPLE_SCHEME,
            sample_crc32: identity::sample(self.0, self.0.size_bytes())?,
            ..OriginIdentity::default()
        })
    }

    fn is_at(&self, _path: &Path) -> bool {
        false
    }
}

impl BlockDevice for Timeless<'_> {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.0.try_read_at(buf, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        self.0.will_read(offset, len);
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.0.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn drop_page_cache(&self) {
        self.0.drop_page_cache();
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.0.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.0.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.0.reserve_at(offset, len)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.0.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        self.0.is_read_only()
    }
}
