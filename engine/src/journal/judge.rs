//! Whether a journal is believed, and what it adds to the store.
//!
//! Circumstances give doubts, which a person may overrule. What contradicts the store itself is
//! never replayed: replaying would name chunks that hold something else.

use usnap_format::{Exception, Layout, NewChunk, OldChunk};

use super::found::Found;
use super::live::SEGMENT_CHUNKS_MAX;
use super::witness::Witness;

/// A replay of more chunks than this is refused, so that a damaged journal can't take all memory:
/// what two segments hold, and as much again for the writers that had their credits already.
pub(crate) const REPLAY_CHUNKS_MAX: u64 = 4 * SEGMENT_CHUNKS_MAX;

/// The store as it was loaded.
pub(crate) struct StoreView<'a> {
    pub(crate) layout: Layout,
    /// Whole chunks of the COW device.
    pub(crate) device_chunks: u64,
    /// Chunks of the origin.
    pub(crate) old_chunks: u64,
    /// Entries that were loaded.
    pub(crate) committed: u64,
    /// CRC-32 of the entries that the journal's base counts in its last area, as they are now;
    /// `None` where the store has fewer.
    pub(crate) base_area_crc32: Option<u32>,
    /// The entries behind the base, in order; all, or more than `REPLAY_CHUNKS_MAX`.
    pub(crate) entries_behind_base: &'a [Exception],
    /// The loaded table.
    pub(crate) lookup: &'a dyn Fn(OldChunk) -> Option<NewChunk>,
    /// Whether an entry names this chunk, which is noted.
    pub(crate) is_new_chunk_taken: &'a dyn Fn(NewChunk) -> bool,
}

/// What a journal says that can't be, in a sentence without its beginning: `the journal ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction(pub(crate) String);

fn contradiction<T>(what: impl Into<String>) -> Result<T, Contradiction> {
    Err(Contradiction(what.into()))
}

impl Found {
    /// Whether the journal was written since the system was started. If not, it is worth nothing.
    pub(crate) fn is_of_boot(&self, now: &Witness) -> bool {
        self.witness.boot_id == now.boot_id
    }

    /// Why the journal should not be believed without asking, from the circumstances alone: one
    /// sentence each, without its beginning (`the journal ...`).
    pub(crate) fn doubts(&self, now: &Witness) -> Vec<String> {
        let then = &self.witness;
        let mut doubts = Vec::new();
        if !self.is_of_boot(now) && now.is_of_same_start(then) {
            doubts.push(
                "was written under another boot id, though the system was not started anew (a \
                 container may have one of its own)"
                    .to_owned(),
            );
        } else if !self.is_of_boot(now) {
            doubts.push("was written before the system was last started".to_owned());
        }
        if (then.device, then.inode, then.is_block) != (now.device, now.inode, now.is_block) {
            doubts.push("was written for another file".to_owned());
        }
        if now.is_remounted_since(then) {
            doubts.push("was written before the filesystem was last mounted".to_owned());
        }
        if now.is_on_other_disk(then) {
            doubts.push("was written for a disk that was taken away since".to_owned());
        }
        if now.size_bytes < then.size_bytes {
            doubts.push(format!(
                "was written when the COW device had {} bytes; it has {}",
                then.size_bytes, now.size_bytes
            ));
        }
        if now.is_block {
            doubts.push(
                "can't tell whether anybody else wrote to the COW device: a block device does not \
                 say when it was modified"
                    .to_owned(),
            );
        } else if let Some(modified_ns) = now.modified_ns
            && !self.stamped.fits(modified_ns)
        {
            doubts.push("says that the COW file was last modified by somebody else".to_owned());
        }
        doubts
    }

    /// The exceptions that were noted and are not in the store, sorted by new chunk.
    ///
    /// # Errors
    /// Where journal and store can't both be right.
    pub(crate) fn missing(&self, store: &StoreView<'_>) -> Result<Vec<Exception>, Contradiction> {
        if self.is_all_there(store) {
            // Whatever else speaks against it, there is nothing to replay.
            return Ok(Vec::new());
        }
        if store.committed < self.base.committed {
            return contradiction(format!(
                "counts {} committed entries; the store has {}",
                self.base.committed, store.committed
            ));
        }
        if store.base_area_crc32 != Some(self.base.area_crc32) {
            return contradiction(format!(
                "knows the first {} entries otherwise than the store has them",
                self.base.committed
            ));
        }
        let noted = self.noted(store)?;
        let position = |entry: &Exception| noted.binary_search_by_key(&entry.new_chunk, new_chunk);
        let mut is_there = vec![false; noted.len()];
        for entry in store.entries_behind_base {
            let Ok(at) = position(entry) else {
                return contradiction(format!(
                    "knows nothing of the entry for chunk {} at new chunk {}",
                    entry.old_chunk, entry.new_chunk
                ));
            };
            let same = noted.get(at) == Some(entry);
            match is_there.get_mut(at) {
                Some(seen) if same && !*seen => *seen = true,
                _ => {
                    return contradiction(format!(
                        "knows new chunk {} as another chunk's than {}'s",
                        entry.new_chunk, entry.old_chunk
                    ));
                }
            }
        }
        let missing: Vec<Exception> = noted
            .into_iter()
            .zip(is_there)
            .filter_map(|(exception, is_there)| (!is_there).then_some(exception))
            .collect();
        for exception in &missing {
            let Exception {
                old_chunk,
                new_chunk,
            } = *exception;
            if (store.is_new_chunk_taken)(new_chunk) {
                return contradiction(format!(
                    "puts chunk {old_chunk} at new chunk {new_chunk}, which is another's"
                ));
            }
            if let Some(elsewhere) = (store.lookup)(old_chunk) {
                return contradiction(format!(
                    "puts chunk {old_chunk} at new chunk {new_chunk}; the store has it at \
                     {elsewhere}"
                ));
            }
        }
        let entries = store.committed.saturating_add(missing.len() as u64);
        let (area, _) = store.layout.entry_position(entries);
        let last_area = store.layout.area_location(area);
        if !missing.is_empty() && last_area.is_none_or(|chunk| chunk.0 >= store.device_chunks) {
            return contradiction("names more chunks than the COW device has room for");
        }
        Ok(missing)
    }

    /// Whether each chunk that is noted is in the store already, at the same place.
    fn is_all_there(&self, store: &StoreView<'_>) -> bool {
        let mut left = REPLAY_CHUNKS_MAX;
        self.runs.iter().all(|run| {
            let Some(fewer) = left.checked_sub(run.count) else {
                return false;
            };
            left = fewer;
            (0..run.count).all(|n| {
                let place = run.first_new.0.checked_add(n).map(NewChunk);
                let old_chunk = run
                    .first_old
                    .0
                    .checked_add(n)
                    .filter(|old| *old < store.old_chunks);
                place.is_some() && old_chunk.and_then(|old| (store.lookup)(OldChunk(old))) == place
            })
        })
    }

    /// All that is noted, sorted by new chunk, no chunk twice, each of them possible.
    fn noted(&self, store: &StoreView<'_>) -> Result<Vec<Exception>, Contradiction> {
        let total = self
            .runs
            .iter()
            .try_fold(0_u64, |sum, run| sum.checked_add(run.count));
        let Some(total) = total.filter(|&total| total <= REPLAY_CHUNKS_MAX) else {
            return contradiction("names more chunks than a journal can");
        };
        let mut noted = Vec::with_capacity(crate::num::to_usize(total));
        for run in &self.runs {
            let ends = (
                run.first_old.0.checked_add(run.count),
                run.first_new.0.checked_add(run.count),
            );
            let (Some(old_end), Some(new_end)) = ends else {
                return contradiction("names chunks that no device has");
            };
            if old_end > store.old_chunks || new_end > store.device_chunks {
                return contradiction(format!(
                    "puts {} chunks from {} on at new chunk {}, behind a device's end",
                    run.count, run.first_old, run.first_new
                ));
            }
            noted.extend((0..run.count).map(|n| Exception {
                old_chunk: OldChunk(run.first_old.0 + n),
                new_chunk: NewChunk(run.first_new.0 + n),
            }));
        }
        if let Some(exception) = noted
            .iter()
            .find(|exception| store.layout.is_metadata(exception.new_chunk))
        {
            return contradiction(format!(
                "puts chunk {} at new chunk {}, which is metadata",
                exception.old_chunk, exception.new_chunk
            ));
        }
        noted.sort_unstable_by_key(|exception| exception.old_chunk);
        if let Some(twice) = first_twice(&noted, |exception| exception.old_chunk) {
            return contradiction(format!("names chunk {} twice", twice.old_chunk));
        }
        noted.sort_unstable_by_key(new_chunk);
        if let Some(twice) = first_twice(&noted, new_chunk) {
            return contradiction(format!("names new chunk {} twice", twice.new_chunk));
        }
        Ok(noted)
    }
}

fn new_chunk(exception: &Exception) -> NewChunk {
    exception.new_chunk
}

/// The first of a sorted list that has its neighbour's key.
fn first_twice<K: PartialEq>(
    sorted: &[Exception],
    key: impl Fn(&Exception) -> K,
) -> Option<&Exception> {
    let mut pairs = sorted.iter().zip(sorted.iter().skip(1));
    pairs.find_map(|(one, next)| (key(one) == key(next)).then_some(next))
}
