//! The kernel's habits with a persistent store, as far as they matter to whoever wrote it before:
//! what it finds behind the terminator it keeps, and each commit rewrites the whole area from
//! memory, with that in it. Written from the format's facts, without the code under test.

use std::collections::HashMap;

use crate::plain_loader::load;

/// A store that is active in a kernel.
pub(crate) struct PlainKernel {
    image: Vec<u8>,
    chunk_len: usize,
    area: usize,
    area_bytes: Vec<u8>,
    committed: usize,
    next_free: usize,
    new_chunks: HashMap<u64, usize>,
}

fn index(chunk: u64) -> usize {
    usize::try_from(chunk).expect("images are small")
}

impl PlainKernel {
    pub(crate) fn activate(image: Vec<u8>) -> Result<Self, String> {
        let store = load(&image)?;
        let chunk_len = store.chunk_len;
        let entries = chunk_len / 16;
        let area = store.exceptions.len() / entries;
        let start = (1 + area * (entries + 1)) * chunk_len;
        let max = store
            .exceptions
            .iter()
            .map(|(_, new_chunk)| *new_chunk)
            .max();
        let mut kernel = Self {
            area_bytes: image[start..start + chunk_len].to_vec(),
            image,
            chunk_len,
            area,
            committed: store.exceptions.len() % entries,
            next_free: 0,
            new_chunks: HashMap::new(),
        };
        kernel.next_free = kernel.following(index(max.unwrap_or(1)));
        for (old_chunk, new_chunk) in store.exceptions {
            kernel.new_chunks.insert(old_chunk, index(new_chunk));
        }
        Ok(kernel)
    }

    fn following(&self, chunk: usize) -> usize {
        let stride = self.chunk_len / 16 + 1;
        chunk + 1 + usize::from((chunk + 1) % stride == 1)
    }

    /// Writes one whole chunk and commits, in order and without a power cut.
    pub(crate) fn write(&mut self, old_chunk: u64, byte: u8) {
        let entries = self.chunk_len / 16;
        let known = self.new_chunks.get(&old_chunk).copied();
        let new_chunk = known.unwrap_or(self.next_free);
        let start = new_chunk * self.chunk_len;
        self.image[start..start + self.chunk_len].fill(byte);
        if known.is_some() {
            return;
        }
        self.new_chunks.insert(old_chunk, new_chunk);
        self.next_free = self.following(new_chunk);
        let at = self.committed * 16;
        self.area_bytes[at..at + 8].copy_from_slice(&old_chunk.to_le_bytes());
        self.area_bytes[at + 8..at + 16].copy_from_slice(&(new_chunk as u64).to_le_bytes());
        self.committed += 1;
        let place = |area: usize| (1 + area * (entries + 1)) * self.chunk_len;
        let (here, next) = (place(self.area), place(self.area + 1));
        self.image[here..here + self.chunk_len].copy_from_slice(&self.area_bytes);
        if self.committed == entries {
            self.image[next..next + self.chunk_len].fill(0);
            self.area_bytes.fill(0);
            self.area += 1;
            self.committed = 0;
        }
    }

    pub(crate) fn image(&self) -> &[u8] {
        &self.image
    }

    pub(crate) fn into_image(self) -> Vec<u8> {
        self.image
    }
}
