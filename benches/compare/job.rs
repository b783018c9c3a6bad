//! The workloads.

use std::fmt;

/// What a job does to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads what nothing has been written over.
    Read,
    /// Writes blocks for the first time, each once.
    FirstWrite,
    /// Writes blocks that have been written before.
    Overwrite,
}

/// One workload.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// What it does.
    pub(crate) access: Access,
    /// In an order drawn at random, or ascending.
    pub(crate) random: bool,
    /// KiB of a request.
    pub(crate) block_kib: u32,
    /// Requests in flight.
    pub(crate) depth: u32,
}

impl Job {
    /// All that are measured, in the order of the tables' columns.
    pub(crate) fn all() -> Vec<Self> {
        let small = |access, depth| Self {
            access,
            random: true,
            block_kib: 4,
            depth,
        };
        let large = |access| Self {
            access,
            random: false,
            block_kib: 256,
            depth: 4,
        };
        vec![
            small(Access::Read, 1),
            small(Access::FirstWrite, 1),
            small(Access::Overwrite, 1),
            small(Access::Read, 32),
            small(Access::FirstWrite, 32),
            small(Access::Overwrite, 32),
            large(Access::Read),
            large(Access::FirstWrite),
        ]
    }

    /// Writes everything that an overwriting job is to find written.
    pub(crate) fn fill() -> Self {
        Self {
            access: Access::FirstWrite,
            random: false,
            block_kib: 256,
            depth: 4,
        }
    }

    /// Whether each block must have been written before the job begins.
    pub(crate) fn needs_written_blocks(&self) -> bool {
        self.access == Access::Overwrite
    }

    /// Whether it ends when each block has been touched once. A clock would end a random first write
    /// in the middle, or let it go round and overwrite.
    pub(crate) fn ends_by_size(&self) -> bool {
        self.access == Access::FirstWrite
    }

    /// fio's word for the pattern.
    pub(crate) fn fio_pattern(&self) -> &'static str {
        match (self.access, self.random) {
            (Access::Read, true) => "randread",
            (Access::Read, false) => "read",
            (_, true) => "randwrite",
            (_, false) => "write",
        }
    }

    /// Whether throughput is told in bytes rather than in requests.
    pub(crate) fn counts_bytes(&self) -> bool {
        self.block_kib >= 64
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::FirstWrite => "first write",
            Access::Overwrite => "overwrite",
        };
        write!(f, "{}K {access} q{}", self.block_kib, self.depth)
    }
}
