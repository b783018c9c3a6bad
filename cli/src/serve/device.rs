//! Opening what is to be served: the origin, and the snapshot over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use usnap_engine::device::BlockDevice;
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{self, CreateOptions};
use usnap_engine::{Durability, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;
use usnap_nbd::export::Export;

use super::{Changes, CowPlan, Plan, memory};
use crate::failure::{Failure, Result};
use crate::size;

/// An opened device.
pub(crate) struct Served {
    device: Arc<dyn BlockDevice>,
    snapshot: Option<Arc<Snapshot>>,
    cow: Option<PathBuf>,
    block_bytes: Option<u64>,
}

impl Served {
    /// Opens (and where it must, creates) what `plan` asks for.
    pub(crate) fn open(plan: &Plan) -> Result<Self> {
        let origin = Origin::open(&plan.origin)?;
        match &plan.changes {
            Changes::Refused => Ok(Self {
                device: Arc::new(origin),
                snapshot: None,
                cow: None,
                block_bytes: None,
            }),
            Changes::Memory {
                chunk_size,
                limit_bytes,
            } => {
                let limit_bytes = limit_bytes.unwrap_or_else(memory::default_limit_bytes);
                let origin = Arc::new(origin);
                let snapshot = Snapshot::transient(origin, *chunk_size, limit_bytes)
                    .map_err(Failure::of_typed)?;
                tracing::info!(
                    "changes take up to {} of memory and are gone at exit",
                    size::human(limit_bytes)
                );
                Ok(Self::of_snapshot(snapshot, None, *chunk_size))
            }
            Changes::Cow(cow) => open_cow(cow, origin),
        }
    }

    fn of_snapshot(snapshot: Snapshot, cow: Option<PathBuf>, chunk_size: ChunkSize) -> Self {
        let snapshot = Arc::new(snapshot);
        Self {
            device: Arc::clone(&snapshot) as Arc<dyn BlockDevice>,
            snapshot: Some(snapshot),
            cow,
            block_bytes: Some(chunk_size.bytes()),
        }
    }

    /// The export under which clients see it.
    pub(super) fn export(&self, plan: &Plan) -> Export {
        let mut export = Export::new(plan.name.clone(), Arc::clone(&self.device));
        if let Some(bytes) = self.block_bytes {
            export = export.with_preferred_block_bytes(u32::try_from(bytes).unwrap_or(1 << 31));
        }
        match &plan.description {
            Some(text) => export.with_description(text.clone()),
            None => export,
        }
    }

    /// The snapshot, where there is one.
    pub(crate) fn store(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The COW file, where there is one.
    pub(super) fn cow(&self) -> Option<&Path> {
        self.cow.as_deref()
    }
}

fn open_cow(cow: &CowPlan, origin: Origin) -> Result<Served> {
    let is_absent = !cow.path.try_exists().unwrap_or(true);
    if is_absent && !cow.read_only {
        let chunk_size = cow.chunk_size.unwrap_or_default();
        let size_bytes = match cow.size_bytes {
            Some(bytes) => bytes,
            None => never_full(origin.size_bytes(), chunk_size)?,
        };
        let options = CreateOptions {
            size_bytes,
            chunk_size,
            label: cow.label.clone(),
            origin: Some(origin.identity()?),
            identity: true,
        };
        let created = cow_file::create(&cow.path, &options).map_err(Failure::of_typed)?;
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
    let options = SnapshotOptions {
        durability: if cow.every_write {
            Durability::EveryWrite
        } else {
            Durability::Flush
        },
        force_origin: cow.force_origin,
        adopt: cow.adopt,
        read_only: cow.read_only,
        chunk_size_if_unused: cow.chunk_size.unwrap_or_default(),
    };
    let (snapshot, notes) = Snapshot::open(&Arc::new(origin), &cow.path, &options)?;
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    let chunk_size = snapshot.chunk_size();
    if let Some(asked) = cow.chunk_size.filter(|asked| *asked != chunk_size) {
        tracing::warn!(
            "{} has a chunk size of {}; --chunk-size {} is for a COW file that is created",
            cow.path.display(),
            size::human(chunk_size.bytes()),
            size::human(asked.bytes())
        );
    }
    Ok(Served::of_snapshot(
        snapshot,
        Some(cow.path.clone()),
        chunk_size,
    ))
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
    use super::{ChunkSize, never_full};

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
