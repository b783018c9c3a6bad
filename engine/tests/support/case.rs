//! Where a history begins: an origin and a store, which may have holes, junk behind its terminator,
//! and stale entries in areas that it has not reached.

use std::sync::Arc;

use usnap_engine::device::MemDevice;

use crate::plain_loader::compose;
use crate::random::Random;
use crate::stores::{first_exceptions, image, put_exception};
use crate::values::payload;

const ORIGIN_STAMP: u64 = 1 << 40;
const STALE_STAMP: u64 = 2 << 40;
/// First writes that follow a history: by us, and by a kernel beyond an area's worth.
pub(crate) const OURS_AFTERWARDS: usize = 8;
pub(crate) const KERNEL_BEYOND: usize = 6;

/// What lies where nobody has written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unused {
    Zeros,
    /// Data that nobody may show, and areas full of entries that could be true.
    Stale,
}

/// A store and its origin, in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) chunk_len: usize,
    /// Committed exceptions, of old chunks 0, 1, and so on.
    pub(crate) exceptions: usize,
    /// Each fifth new chunk below the last one was left out.
    pub(crate) holes: bool,
    /// Entries behind the terminator, as a torn commit of somebody else left them.
    pub(crate) junk: bool,
    pub(crate) unused: Unused,
    /// How many old chunks a history writes to, those behind the exceptions.
    pub(crate) history_chunks: usize,
    /// The COW device has room for only so many more.
    pub(crate) room: Option<usize>,
}

/// The same, in bytes.
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) image: Vec<u8>,
    pub(crate) origin: Arc<MemDevice>,
    pub(crate) origin_bytes: Vec<u8>,
    /// From this old chunk on they are the kernel's, afterwards: more than an area's worth.
    pub(crate) kernels: usize,
}

impl Case {
    pub(crate) fn new(shape: Shape) -> Self {
        let chunk_len = shape.chunk_len;
        let entries = chunk_len / 16;
        let kernels = shape.exceptions + shape.history_chunks;
        let kernel_chunks = entries + KERNEL_BEYOND;
        // One chunk more, cut short, that is nobody's but the histories'.
        let origin_len = (kernels + kernel_chunks) * chunk_len + 512;
        let origin_bytes = payload(ORIGIN_STAMP, 0, origin_len);

        let number = |n: usize| 2 + n + n / entries;
        let skip = |n: usize| if shape.holes { n + n / 4 } else { n };
        let mut exceptions = first_exceptions(chunk_len, shape.exceptions as u64);
        for (n, (_, new_chunk)) in exceptions.iter_mut().enumerate() {
            *new_chunk = number(skip(n)) as u64;
        }
        // In the order of numbers, as always; the last one says where the next is taken.
        let taken = skip(shape.exceptions);
        let more = shape
            .room
            .unwrap_or(shape.history_chunks + OURS_AFTERWARDS + kernel_chunks + 1);
        let chunks = number(taken + more) + usize::from(shape.room.is_none()) * 2;
        let mut store = image(chunk_len, chunks, &exceptions);
        if shape.unused == Unused::Stale {
            make_stale(&mut store, shape, &exceptions);
        }
        if shape.junk {
            let mut random = Random::new(shape.exceptions as u64);
            let in_area = entries - shape.exceptions % entries;
            for n in 1..in_area {
                if random.below(3) == 0 {
                    continue;
                }
                // Chunks that the next commits will use, for old chunks that somebody may read.
                let old = random.below((shape.exceptions + shape.history_chunks) as u64);
                let new = number(taken + n % more.max(1)) as u64;
                put_exception(&mut store, chunk_len, shape.exceptions + n, old, new);
            }
        }
        Self {
            shape,
            image: store,
            origin: Arc::new(MemDevice::from_bytes(&origin_bytes)),
            origin_bytes,
            kernels,
        }
    }

    /// What it shows before anything is done.
    pub(crate) fn content(&self) -> Result<Vec<u8>, String> {
        compose(&self.origin_bytes, &self.image)
    }

    /// Where an old chunk begins, in bytes.
    pub(crate) fn offset(&self, chunk: usize) -> usize {
        chunk * self.shape.chunk_len
    }
}

/// Fills what is not used with data and with areas of entries that look right.
fn make_stale(store: &mut [u8], shape: Shape, exceptions: &[(u64, u64)]) {
    let chunk_len = shape.chunk_len;
    let entries = chunk_len / 16;
    let chunks = store.len() / chunk_len;
    let mut random = Random::new(shape.exceptions as u64 + 77);
    for chunk in 2..chunks {
        let bytes = &mut store[chunk * chunk_len..(chunk + 1) * chunk_len];
        if chunk % (entries + 1) != 1 {
            if exceptions.iter().all(|(_, new)| *new != chunk as u64) {
                bytes.copy_from_slice(&payload(STALE_STAMP, chunk * chunk_len, chunk_len));
            }
            continue;
        }
        let area = chunk / (entries + 1);
        if area * entries <= shape.exceptions {
            continue;
        }
        // Some are full, some end: a loader that goes on there meets no obvious mistake.
        let count = 1 + random.below(2 * entries as u64);
        for entry in bytes
            .chunks_mut(16)
            .take(usize::try_from(count).expect("small"))
        {
            let old = random.below((shape.exceptions + shape.history_chunks) as u64);
            let new = 2 + random.below(entries as u64 - 1);
            entry[..8].copy_from_slice(&old.to_le_bytes());
            entry[8..].copy_from_slice(&new.to_le_bytes());
        }
    }
}
