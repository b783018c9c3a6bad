//! The kernel's habits with a persistent store, as far as they matter to whoever wrote it before:
//! what it finds behind the terminator it keeps, and each commit rewrites the whole area from
//! memory, with that in it. Written from the format's facts, without the code under test.
//!
//! The order of a first write, as the kernel has it: the chunk's data; then, if the entry fills its
//! area, the next area as zeros; a flush; the area, whole; a flush. Chunks that are written together
//! share the last three. A partial write copies the origin's chunk first, and writes the client's
//! bytes when the entry is there.

use std::collections::HashMap;

use crate::plain_loader::load;

/// What the kernel did to its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Write { offset: usize, data: Vec<u8> },
    Flush,
}

/// A store that is active in a kernel.
pub(crate) struct PlainKernel {
    image: Vec<u8>,
    chunk_len: usize,
    area: usize,
    area_bytes: Vec<u8>,
    committed: usize,
    next_free: usize,
    new_chunks: HashMap<u64, usize>,
    done: Vec<Done>,
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
            done: Vec::new(),
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

    fn area_start(&self, area: usize) -> usize {
        (1 + area * (self.chunk_len / 16 + 1)) * self.chunk_len
    }

    /// Whether one more new chunk fits, and the area that its entry may open: a kernel that takes
    /// one where it does not loses the store, whoever wrote it.
    pub(crate) fn has_room(&self) -> bool {
        let chunks = self.image.len() / self.chunk_len;
        let fills = self.committed + 1 == self.chunk_len / 16;
        let area_end = self.area_start(self.area + 1) + self.chunk_len;
        self.next_free < chunks && (!fills || area_end <= self.image.len())
    }

    fn put(&mut self, offset: usize, data: Vec<u8>) {
        self.image[offset..offset + data.len()].copy_from_slice(&data);
        self.done.push(Done::Write { offset, data });
    }

    /// A client's flush.
    pub(crate) fn flush(&mut self) {
        self.done.push(Done::Flush);
    }

    /// Writes whole chunks together; they must have room.
    pub(crate) fn write(&mut self, chunks: Vec<(u64, Vec<u8>)>) {
        let mut taken = Vec::new();
        for (old_chunk, data) in chunks {
            let known = self.new_chunks.get(&old_chunk).copied();
            let new_chunk = known.unwrap_or(self.next_free);
            self.put(new_chunk * self.chunk_len, data);
            if known.is_none() {
                self.new_chunks.insert(old_chunk, new_chunk);
                self.next_free = self.following(new_chunk);
                taken.push((old_chunk, new_chunk as u64));
            }
        }
        self.commit(&taken);
    }

    /// Writes part of a chunk, whose content on the origin is `origin`.
    pub(crate) fn write_part(
        &mut self,
        old_chunk: u64,
        within: usize,
        data: Vec<u8>,
        origin: &[u8],
    ) {
        if !self.new_chunks.contains_key(&old_chunk) {
            let mut chunk = origin.to_vec();
            chunk.resize(self.chunk_len, 0);
            self.write(vec![(old_chunk, chunk)]);
        }
        let start = self.new_chunks[&old_chunk] * self.chunk_len;
        self.put(start + within, data);
    }

    fn commit(&mut self, taken: &[(u64, u64)]) {
        let entries = self.chunk_len / 16;
        for (n, (old_chunk, new_chunk)) in taken.iter().enumerate() {
            let at = self.committed * 16;
            self.area_bytes[at..at + 8].copy_from_slice(&old_chunk.to_le_bytes());
            self.area_bytes[at + 8..at + 16].copy_from_slice(&new_chunk.to_le_bytes());
            self.committed += 1;
            let is_full = self.committed == entries;
            if n + 1 < taken.len() && !is_full {
                continue;
            }
            if is_full {
                self.put(self.area_start(self.area + 1), vec![0; self.chunk_len]);
            }
            self.done.push(Done::Flush);
            self.put(self.area_start(self.area), self.area_bytes.clone());
            self.done.push(Done::Flush);
            if is_full {
                self.area_bytes.fill(0);
                self.area += 1;
                self.committed = 0;
            }
        }
    }

    /// Whether a load would find exactly what this kernel knows of: the entry behind its last one
    /// ends the store.
    pub(crate) fn ends_where_it_should(&self) -> bool {
        let at = self.area_start(self.area) + self.committed * 16;
        self.image[at + 8..at + 16].iter().all(|byte| *byte == 0)
    }

    /// What was done since the last time this was asked.
    pub(crate) fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    pub(crate) fn image(&self) -> &[u8] {
        &self.image
    }
}
