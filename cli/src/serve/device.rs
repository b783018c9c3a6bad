//! Opening what is to be served: the origin, and the snapshot over it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use usnap_engine::device::BlockDevice;
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{self, CreateOptions};
use usnap_engine::{Durability, ErrorKind, Snapshot, SnapshotOptions};
use usnap_format::OriginIdentity;
use usnap_format::{ChunkSize, Layout};
use usnap_nbd::export::{Export, Exports};

use super::host::{Listening, Offer};
use super::tending::Tending;
use super::{Changes, CowPlan, Plan, Service, memory};
use crate::control::{Answering, Control, STATUS};
use crate::failure::{Failure, Result};
use crate::report::Report;
use crate::size;

/// An opened device, and its export.
pub(crate) struct Served {
    exports: Arc<Exports>,
    name: String,
    store: Option<Store>,
    /// The COW file, where this run made it and does not serve it yet.
    new_cow: Mutex<Option<NewCow>>,
}

/// What is behind the device, where changes can be kept.
struct Store {
    snapshot: Arc<Snapshot>,
    cow: Option<PathBuf>,
    max_bytes: Option<u64>,
    tending: Mutex<Option<Tending>>,
}

impl Served {
    /// Opens (and where it must, creates) what `plan` asks for.
    pub(crate) fn open(plan: &Plan) -> Result<Self> {
        let (origin, notes) =
            Origin::open_with_layers(&plan.origin, &plan.layers, plan.force_origin)?;
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        match &plan.changes {
            // `run` has another offer for a merge.
            Changes::Refused | Changes::Merge(_) => {
                let export = Export::new(plan.name.clone(), Arc::new(origin));
                Ok(Self::new(plan, export, None, None))
            }
            Changes::Memory {
                chunk_size,
                limit_bytes,
                discard,
            } => {
                let limit_bytes = limit_bytes.unwrap_or_else(memory::default_limit_bytes);
                let origin = Arc::new(origin);
                let snapshot = Snapshot::transient(origin, *chunk_size, limit_bytes)
                    .map_err(Failure::of_typed)?
                    .with_discard(*discard);
                tracing::info!(
                    "changes take up to {} of memory and are gone at exit",
                    size::human(limit_bytes)
                );
                Ok(Self::of_snapshot(plan, Arc::new(snapshot), None, None))
            }
            Changes::Cow(cow) => {
                let (snapshot, new_cow) = open_cow(cow, origin, plan.force_origin)?;
                Ok(Self::of_snapshot(
                    plan,
                    Arc::new(snapshot),
                    Some(cow),
                    new_cow,
                ))
            }
        }
    }

    fn of_snapshot(
        plan: &Plan,
        snapshot: Arc<Snapshot>,
        cow: Option<&CowPlan>,
        new_cow: Option<NewCow>,
    ) -> Self {
        let export = export(plan.name.clone(), &snapshot);
        let store = Store {
            snapshot,
            cow: cow.map(|cow| cow.path.clone()),
            max_bytes: cow.and_then(|cow| cow.max_bytes),
            tending: Mutex::new(None),
        };
        Self::new(plan, export, Some(store), new_cow)
    }

    fn new(plan: &Plan, export: Export, store: Option<Store>, new_cow: Option<NewCow>) -> Self {
        let export = match &plan.description {
            Some(text) => export.with_description(text.clone()),
            None => export,
        };
        Self {
            exports: Arc::new(Exports::new(vec![export])),
            name: plan.name.clone(),
            store,
            new_cow: Mutex::new(new_cow),
        }
    }
}

/// The export of a store under `name`.
pub(super) fn export(name: String, snapshot: &Arc<Snapshot>) -> Export {
    let device = Arc::clone(snapshot) as Arc<dyn BlockDevice>;
    export_of(name, device, snapshot.chunk_size())
}

/// The export of a device that is served best in chunks.
pub(super) fn export_of(
    name: String,
    device: Arc<dyn BlockDevice>,
    chunk_size: ChunkSize,
) -> Export {
    let chunk_bytes = u32::try_from(chunk_size.bytes()).unwrap_or(1 << 31);
    Export::new(name, device).with_preferred_block_bytes(chunk_bytes)
}

impl Offer for Served {
    fn exports(&self) -> Arc<Exports> {
        Arc::clone(&self.exports)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&self, service: &Service) -> Result<()> {
        if let Some(store) = &self.store {
            let tending = Tending::start(&store.snapshot, store.cow.as_deref(), service)?;
            *lock(&store.tending) = Some(tending);
        }
        Ok(())
    }

    fn answer(self: Arc<Self>, listening: Listening) -> Vec<Answering> {
        let Some((store, cow)) = self.store.as_ref().and_then(|s| Some((s, s.cow.as_ref()?)))
        else {
            return Vec::new();
        };
        let outlook = lock(&store.tending).as_ref().and_then(Tending::outlook);
        let uri = listening.uri(&self.name);
        let counters = listening.counters;
        let (snapshot, max_bytes) = (Arc::clone(&store.snapshot), store.max_bytes);
        let answering = Control::bind(cow).and_then(|control| {
            control.answer(move |request| {
                let report = || {
                    Report::served(
                        &snapshot.report(),
                        counters.counts(),
                        max_bytes,
                        outlook.as_ref(),
                    )
                    .at(uri.clone())
                };
                (request == STATUS).then(|| report().to_line())
            })
        });
        answering
            .inspect_err(|error| {
                tracing::warn!("status can not ask this server: no control socket: {error}");
            })
            .into_iter()
            .collect()
    }

    fn keep_new_files(&self) {
        *lock(&self.new_cow) = None;
    }

    fn close(&self) -> Result<()> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        if let Some(tending) = &mut *lock(&store.tending) {
            tending.end_commits();
        }
        Ok(store.snapshot.close()?)
    }

    fn end(&self) {
        if let Some(tending) = self.take_tending() {
            tending.end();
        }
    }

    fn abandon(&self) {
        if let Some(tending) = self.take_tending() {
            tending.abandon();
        }
    }
}

impl Served {
    fn take_tending(&self) -> Option<Tending> {
        self.store
            .as_ref()
            .and_then(|store| lock(&store.tending).take())
    }
}

/// Nothing is done under these locks that could leave anything half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run that could not begin leaves no COW file behind that it made itself.
impl Drop for Served {
    fn drop(&mut self) {
        if let (Some(new_cow), Some(store)) = (lock(&self.new_cow).take(), &self.store) {
            new_cow.remove_if_empty(&store.snapshot);
        }
    }
}

/// A COW file that this run made.
pub(super) struct NewCow {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl NewCow {
    fn at(path: &Path) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let metadata = std::fs::symlink_metadata(&path).ok()?;
        Some(Self {
            path,
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Removes it, if `snapshot`, which holds its lock, has nothing in it: what is empty now stays
    /// so.
    fn remove_if_empty(&self, snapshot: &Snapshot) {
        let count = snapshot.report().exceptions;
        if count.committed == 0 && count.uncommitted == 0 {
            // Nothing is in it: this takes the journal away.
            let _best_effort = snapshot.close();
            self.remove();
        }
    }

    /// Removes it, unless another file has its name by now.
    pub(super) fn remove(&self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours && std::fs::remove_file(&self.path).is_ok() {
            tracing::info!("removed {} again: it was not served", self.path.display());
        }
    }
}

fn open_cow(
    cow: &CowPlan,
    origin: Origin,
    force_origin: bool,
) -> Result<(Snapshot, Option<NewCow>)> {
    let new_cow = create_if_absent(cow, origin.size_bytes(), || Ok(Some(origin.identity()?)))?;
    let opened = Snapshot::open(&Arc::new(origin), &cow.path, &options(cow, force_origin));
    let (snapshot, notes) = opened.inspect_err(|error| {
        // Where somebody was faster, it is theirs.
        if error.kind() != ErrorKind::InUse
            && let Some(new_cow) = &new_cow
        {
            new_cow.remove();
        }
    })?;
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    warn_of_chunk_size(cow, &snapshot);
    Ok((snapshot, new_cow))
}

/// Makes the COW file for an origin of `origin_bytes`, if it is not there and is to be written.
pub(super) fn create_if_absent(
    cow: &CowPlan,
    origin_bytes: u64,
    identity: impl FnOnce() -> Result<Option<OriginIdentity>>,
) -> Result<Option<NewCow>> {
    let mut new_cow = None;
    let is_absent = !cow.path.try_exists().unwrap_or(true);
    if is_absent && !cow.read_only {
        let chunk_size = cow.chunk_size.unwrap_or_default();
        let size_bytes = match (cow.size_bytes, cow.max_bytes) {
            (Some(bytes), _) => bytes,
            (None, Some(max)) => first_size(origin_bytes, chunk_size, max),
            (None, None) => never_full(origin_bytes, chunk_size)?,
        };
        let options = CreateOptions {
            size_bytes,
            chunk_size,
            label: cow.label.clone(),
            origin: identity()?,
            identity: true,
        };
        let created = cow_file::create(&cow.path, &options).map_err(Failure::of_typed)?;
        new_cow = NewCow::at(&cow.path);
        created
            .warnings
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        tracing::info!(
            "created {}, {}",
            cow.path.display(),
            size::human(size_bytes)
        );
    }
    if let Some(max_bytes) = cow.max_bytes {
        look_at_limit(&cow.path, max_bytes)?;
    }
    Ok(new_cow)
}

/// How a COW file is opened.
pub(super) fn options(cow: &CowPlan, force_origin: bool) -> SnapshotOptions {
    SnapshotOptions {
        durability: if cow.every_write {
            Durability::EveryWrite
        } else {
            Durability::Flush
        },
        discard: cow.discard,
        force_origin,
        adopt: cow.adopt,
        read_only: cow.read_only,
        journal: cow.journal,
        chunk_size_if_unused: cow.chunk_size.unwrap_or_default(),
        max_cow_bytes: cow.max_bytes,
    }
}

/// Says where what was asked for a new COW file is not what there is.
pub(super) fn warn_of_chunk_size(cow: &CowPlan, snapshot: &Snapshot) {
    let chunk_size = snapshot.chunk_size();
    if let Some(asked) = cow.chunk_size.filter(|asked| *asked != chunk_size) {
        tracing::warn!(
            "{} has a chunk size of {}; --chunk-size {} is for a COW file that is created",
            cow.path.display(),
            size::human(chunk_size.bytes()),
            size::human(asked.bytes())
        );
    }
}

/// A COW file that grows by itself begins with so much.
const FIRST_BYTES: u64 = 64 << 20;

/// The size with which a COW file begins that may grow to `max_bytes`: what the store can use of
/// it at the most, and a chunk less where a kernel that fills it would destroy the store.
fn first_size(origin_bytes: u64, chunk_size: ChunkSize, max_bytes: u64) -> u64 {
    let never_full = cow_file::default_size_bytes(origin_bytes, chunk_size).unwrap_or(u64::MAX);
    let bytes = FIRST_BYTES.min(max_bytes).min(never_full);
    let chunks = chunk_size.whole_chunks(bytes);
    if Layout::new(chunk_size).kernel_poisoned(chunks) {
        (chunks - 1) * chunk_size.bytes()
    } else {
        bytes
    }
}

/// A limit is for files; one that is shorter than the file already is not what was meant.
fn look_at_limit(cow: &Path, max_bytes: u64) -> Result<()> {
    let Ok(metadata) = std::fs::metadata(cow) else {
        // Opening it will tell why.
        return Ok(());
    };
    if metadata.file_type().is_block_device() {
        return Err(Failure::usage(format!(
            "cannot use --max-cow: {} is a block device, which does not grow by itself",
            cow.display()
        ))
        .with_hint("leave it out; a block device that was made larger is used at once"));
    }
    if metadata.len() > max_bytes {
        tracing::warn!(
            "{} has {} already; --max-cow {} only means that it does not grow",
            cow.display(),
            size::human(metadata.len()),
            size::human(max_bytes)
        );
    }
    Ok(())
}

/// The size at which a COW file for an origin can never be full.
pub(crate) fn never_full(origin_bytes: u64, chunk_size: ChunkSize) -> Result<u64> {
    let size_bytes = cow_file::default_size_bytes(origin_bytes, chunk_size);
    size_bytes
        .filter(|bytes| *bytes <= size::MAX_BYTES)
        .ok_or_else(|| {
            Failure::new(format!(
                "cannot make a COW file that holds all of {} in chunks of {}: no file can be so \
                 large",
                size::human(origin_bytes),
                size::human(chunk_size.bytes())
            ))
            .with_hint("say how large it is to be: --cow-size of serve, --size of create")
        })
}

#[cfg(test)]
mod tests {
    use super::{ChunkSize, FIRST_BYTES, first_size, never_full};

    #[test]
    fn a_cow_file_that_grows_begins_small_and_never_at_a_size_that_kernels_destroy() {
        let first =
            |origin, chunk, max| first_size(origin, ChunkSize::from_bytes(chunk).unwrap(), max);
        assert_eq!(first(1 << 40, 4096, 1 << 30), FIRST_BYTES);
        assert_eq!(first(u64::MAX, 4096, 1 << 30), FIRST_BYTES);
        assert_eq!(first(1 << 40, 4096, 1 << 20), 1 << 20);
        assert!(
            first(1 << 20, 4096, 1 << 30) < 2 << 20,
            "never more than can be used"
        );
        // 258 chunks: the header, an area of 256 exceptions, and no room for the next one.
        assert_eq!(first(1 << 40, 4096, 258 * 4096), 257 * 4096);
    }

    #[test]
    fn an_origin_too_large_for_a_cow_file_of_its_own_is_refused_in_words() {
        let chunk_size = ChunkSize::default();
        assert!(never_full(1 << 62, chunk_size).is_ok());
        for bytes in [i64::MAX.cast_unsigned(), u64::MAX] {
            let text = never_full(bytes, chunk_size).unwrap_err().to_string();
            assert!(text.contains("no file can be so large\nhint: "), "{text}");
        }
    }
}
