//! What is done to a store, and what may be read afterwards.

use usnap_engine::device::{BlockDevice, ZeroFlags};
use usnap_engine::{Result, Snapshot};

use crate::film::Fault;
use crate::{CHUNK_LEN, CHUNKS};

/// One thing that a client does, maybe with bad luck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Writes whole chunks.
    Whole {
        chunk: usize,
        count: usize,
    },
    /// Writes part of a chunk.
    Part {
        chunk: usize,
    },
    /// Zeroes whole chunks.
    Zero {
        chunk: usize,
        count: usize,
    },
    Flush,
    /// Writes whole chunks and fails half-way.
    FailingWrite {
        chunk: usize,
        count: usize,
    },
    /// Flushes, and the commit finds no space.
    FlushWithoutSpace,
}

const PART: std::ops::Range<usize> = 100..300;

type Content = [u8; CHUNK_LEN];

fn content(step: usize, chunk: usize) -> Content {
    let mut content = [0; CHUNK_LEN];
    for (n, byte) in content.iter_mut().enumerate() {
        *byte = u8::try_from((step * 89 + chunk * 7 + n / 64) % 255 + 1).expect("at most 255");
    }
    content
}

impl Operation {
    pub(crate) fn fault(self) -> Option<Fault> {
        match self {
            Self::FailingWrite { .. } => Some(Fault::Data),
            Self::FlushWithoutSpace => Some(Fault::AreaNoSpace),
            _ => None,
        }
    }

    fn chunks(self) -> std::ops::Range<usize> {
        match self {
            Self::Whole { chunk, count }
            | Self::Zero { chunk, count }
            | Self::FailingWrite { chunk, count } => chunk..chunk + count,
            Self::Part { chunk } => chunk..chunk + 1,
            Self::Flush | Self::FlushWithoutSpace => 0..0,
        }
    }

    /// Does it; `step` makes its bytes different from all others'.
    pub(crate) fn carry_out(self, snapshot: &Snapshot, step: usize) -> Result<()> {
        let offset = |chunk: usize| (chunk * CHUNK_LEN) as u64;
        match self {
            Self::Whole { chunk, .. } | Self::FailingWrite { chunk, .. } => {
                let data: Vec<u8> = self.chunks().flat_map(|c| content(step, c)).collect();
                snapshot.write_at(&data, offset(chunk))
            }
            Self::Part { chunk } => {
                let at = offset(chunk) + PART.start as u64;
                snapshot.write_at(&content(step, chunk)[PART], at)
            }
            Self::Zero { chunk, count } => {
                snapshot.zero_at(offset(chunk), offset(count), ZeroFlags::default())
            }
            Self::Flush | Self::FlushWithoutSpace => snapshot.flush(),
        }
    }

    /// What the chunk holds after it, if it held `before`.
    fn after(self, step: usize, chunk: usize, before: &Content) -> Content {
        let new = content(step, chunk);
        match self {
            Self::Zero { .. } => [0; CHUNK_LEN],
            Self::Part { .. } => {
                let mut after = *before;
                after[PART].copy_from_slice(&new[PART]);
                after
            }
            _ => new,
        }
    }
}

/// The contents that each chunk may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Expected(Vec<Vec<Content>>);

impl Expected {
    /// Each chunk has one content.
    pub(crate) fn exactly(bytes: &[u8]) -> Self {
        let chunks = bytes.chunks_exact(CHUNK_LEN);
        let contents = chunks.map(|chunk| vec![chunk.try_into().expect("a chunk")]);
        Self(contents.collect())
    }

    /// While the operation is under way, and where it has failed.
    pub(crate) fn while_in(&self, operation: Operation, step: usize) -> Self {
        let mut during = self.clone();
        let after = self.after(operation, step);
        for (during, after) in during.0.iter_mut().zip(after.0) {
            for content in after {
                if !during.contains(&content) {
                    during.push(content);
                }
            }
        }
        during
    }

    /// When the operation was acknowledged.
    pub(crate) fn after(&self, operation: Operation, step: usize) -> Self {
        let mut after = self.clone();
        for chunk in operation.chunks() {
            for content in &mut after.0[chunk] {
                *content = operation.after(step, chunk, content);
            }
            after.0[chunk].sort_unstable();
            after.0[chunk].dedup();
        }
        after
    }

    /// Reads everything; an error names the first chunk that holds what it may not.
    pub(crate) fn read(&self, snapshot: &Snapshot) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = vec![0; CHUNKS * CHUNK_LEN];
        snapshot
            .read_at(&mut bytes, 0)
            .map_err(|e| format!("{e:?}"))?;
        for (chunk, content) in bytes.chunks_exact(CHUNK_LEN).enumerate() {
            if !self.0[chunk].iter().any(|allowed| allowed == content) {
                return Err(format!("chunk {chunk} holds {:?}...", &content[..4]));
            }
        }
        Ok(bytes)
    }
}
