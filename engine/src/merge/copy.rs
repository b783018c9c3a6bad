//! Copying a batch's chunks, a window after the other: each is read in the order of the COW device
//! and written in the order of the origin, both in pieces as large as the chunks lie together.

use usnap_format::{ChunkSize, Exception, NewChunk, OldChunk};

use super::walk::Batch;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::num::to_usize;

/// One read or write is at most so long; more brings nothing, and a stop is looked for between two.
const PIECE_BYTES: u64 = 4 << 20;

/// So much data lies in memory, and one chunk at least.
const WINDOW_BYTES: u64 = 64 << 20;

/// Where a chunk goes, and where it lies in memory.
#[derive(Clone, Copy)]
struct Target {
    old_chunk: OldChunk,
    /// In chunks.
    index: u64,
}

/// The memory that copying takes: a window of data, and a piece. It is kept from batch to batch.
#[derive(Default)]
pub(crate) struct Copier {
    data: Vec<u8>,
    piece: Vec<u8>,
}

impl Copier {
    /// Copies the chunks of `batch` from `cow` to `origin`, the last one of the origin as far as it
    /// goes. Says whether it came to its end: false where `is_stopped` was first. Nothing is synced.
    ///
    /// # Errors
    /// `Io`, `NoSpace`, `OutOfRange` for a chunk behind the origin's end.
    pub(crate) fn copy(
        &mut self,
        cow: &dyn BlockDevice,
        origin: &dyn BlockDevice,
        chunk_size: ChunkSize,
        batch: &Batch,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let mut sources = batch.entries.clone();
        sources.sort_unstable_by_key(|exception| exception.new_chunk);
        for window in sources.chunks(to_usize((WINDOW_BYTES / chunk_size.bytes()).max(1))) {
            if !self.copy_window(cow, origin, chunk_size, window, is_stopped)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies the chunks of `sources`, which are sorted by where they lie.
    fn copy_window(
        &mut self,
        cow: &dyn BlockDevice,
        origin: &dyn BlockDevice,
        chunk_size: ChunkSize,
        sources: &[Exception],
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<bool> {
        if !self.read(cow, chunk_size, sources, is_stopped)? {
            return Ok(false);
        }
        let targets = (0..).zip(sources).map(|(index, exception)| Target {
            old_chunk: exception.old_chunk,
            index,
        });
        let mut targets: Vec<Target> = targets.collect();
        targets.sort_unstable_by_key(|target| target.old_chunk);
        self.write(origin, chunk_size, &targets, is_stopped)
    }

    /// Fills the memory with the chunks of `sources`, in their order.
    fn read(
        &mut self,
        cow: &dyn BlockDevice,
        chunk_size: ChunkSize,
        sources: &[Exception],
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let len = to_usize((sources.len() as u64).saturating_mul(chunk_size.bytes()));
        self.data.resize(len, 0);
        let mut rest = self.data.as_mut_slice();
        let lie_together = |a: &Exception, b: &Exception| a.new_chunk.0 + 1 == b.new_chunk.0;
        for run in sources.chunk_by(lie_together) {
            for piece in run.chunks(piece_chunks(chunk_size)) {
                if is_stopped() {
                    return Ok(false);
                }
                let len = to_usize(piece.len() as u64 * chunk_size.bytes());
                let Some((data, behind)) = rest.split_at_mut_checked(len) else {
                    return Ok(false);
                };
                rest = behind;
                let first = piece.first().map_or(NewChunk(0), |e| e.new_chunk);
                cow.read_at(data, first.0 << chunk_size.shift())?;
            }
        }
        Ok(true)
    }

    /// Writes the chunks, which are sorted by where they go.
    fn write(
        &mut self,
        origin: &dyn BlockDevice,
        chunk_size: ChunkSize,
        targets: &[Target],
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let chunk_len = to_usize(chunk_size.bytes());
        let lie_together = |a: &Target, b: &Target| a.old_chunk.0 + 1 == b.old_chunk.0;
        for run in targets.chunk_by(lie_together) {
            for piece in run.chunks(piece_chunks(chunk_size)) {
                if is_stopped() {
                    return Ok(false);
                }
                let Some(first) = piece.first() else { continue };
                let offset = first.old_chunk.0 << chunk_size.shift();
                let at = |target: &Target| to_usize(target.index) * chunk_len;
                let in_order = piece.is_sorted_by(|a, b| a.index + 1 == b.index);
                let data = if in_order {
                    let start = at(first);
                    self.data.get(start..start + piece.len() * chunk_len)
                } else {
                    self.piece.clear();
                    for target in piece {
                        let start = at(target);
                        let chunk = self.data.get(start..start + chunk_len);
                        self.piece.extend_from_slice(chunk.unwrap_or_default());
                    }
                    Some(self.piece.as_slice())
                };
                let data = data.unwrap_or_default();
                // The origin may end inside its last chunk.
                let room = to_usize(origin.size_bytes().saturating_sub(offset));
                let data = data.get(..data.len().min(room)).unwrap_or_default();
                origin.write_at(data, offset)?;
            }
        }
        Ok(true)
    }
}

fn piece_chunks(chunk_size: ChunkSize) -> usize {
    to_usize((PIECE_BYTES / chunk_size.bytes()).max(1))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Copier;
    use crate::device::{BlockDevice, MemDevice};
    use crate::merge::walk::Batch;
    use crate::sim::{Event, LogWrites};
    use usnap_format::{ChunkSize, Exception, NewChunk, OldChunk};

    fn batch(pairs: &[(u64, u64)]) -> Batch {
        let entries = pairs.iter().map(|(old, new)| Exception {
            old_chunk: OldChunk(*old),
            new_chunk: NewChunk(*new),
        });
        Batch {
            first: 0,
            end: pairs.len() as u64,
            entries: entries.collect(),
            lowest_area: Vec::new(),
        }
    }

    /// What the origin gets: chunk, then the first byte of each of its chunks.
    fn copied(pairs: &[(u64, u64)], origin_len: u64) -> Vec<(u64, Vec<u8>)> {
        let cow: Vec<u8> = (0..20_u8).flat_map(|chunk| [chunk; 512]).collect();
        let cow = MemDevice::from_bytes(&cow);
        let origin = LogWrites::new(Arc::new(MemDevice::new(origin_len)));
        let chunk_size = ChunkSize::from_bytes(512).unwrap();
        let batch = batch(pairs);
        let done = Copier::default().copy(&cow, &origin, chunk_size, &batch, &|| false);
        assert!(done.unwrap());
        let writes = origin.take_log().into_iter().map(|event| match event {
            Event::Write { offset, data } => {
                let firsts = data.chunks(512).map(|chunk| chunk[0]).collect();
                (offset / 512, firsts)
            }
            other => panic!("{other:?}"),
        });
        writes.collect()
    }

    #[test]
    fn runs_are_written_in_the_origins_order_each_in_one_piece() {
        let wanted = [(3, vec![5, 6, 7]), (9, vec![3, 2]), (14, vec![9])];
        let pairs = [(10, 2), (9, 3), (3, 5), (4, 6), (5, 7), (14, 9)];
        assert_eq!(copied(&pairs, 20 * 512), wanted);
    }

    #[test]
    fn the_last_chunk_ends_with_the_origin() {
        assert_eq!(copied(&[(1, 2), (2, 3)], 1100), [(1, vec![2, 3])]);
    }

    #[test]
    fn a_stop_comes_between_two_pieces() {
        let device = MemDevice::new(4096);
        let chunk_size = ChunkSize::from_bytes(512).unwrap();
        let mut copier = Copier::default();
        let done = copier.copy(&device, &device, chunk_size, &batch(&[(1, 2)]), &|| true);
        assert!(!done.unwrap());
        device.flush().unwrap();
    }
}
