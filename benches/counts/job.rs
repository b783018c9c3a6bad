//! What is counted: an operation, on the engine alone or through the whole server.

use std::fmt;

/// Bytes of a chunk.
pub(crate) const CHUNK_LEN: usize = 4096;
/// The same.
pub(crate) const CHUNK: u64 = CHUNK_LEN as u64;

/// What carries the operation out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The engine, called from the loop that is counted too.
    Engine,
    /// `usnap serve` with a client that sends its requests in batches; the client is not counted.
    Server,
}

/// An operation that is done again and again, each time somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Job {
    ReadMapped,
    ReadOrigin,
    FirstWrite,
    WriteMapped,
    PartialFirstWrite,
    LargeRead,
    LargeFirstWrite,
}

/// One operation on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) side: Side,
    pub(crate) job: Job,
}

impl Side {
    pub(crate) const ALL: [Self; 2] = [Self::Engine, Self::Server];
}

impl Job {
    pub(crate) const ALL: [Self; 7] = [
        Self::ReadMapped,
        Self::ReadOrigin,
        Self::FirstWrite,
        Self::WriteMapped,
        Self::PartialFirstWrite,
        Self::LargeRead,
        Self::LargeFirstWrite,
    ];

    /// Bytes of one operation.
    pub(crate) fn len(self) -> u32 {
        match self {
            Self::ReadMapped | Self::ReadOrigin | Self::FirstWrite | Self::WriteMapped => 4 << 10,
            Self::PartialFirstWrite => 2 << 10,
            Self::LargeRead | Self::LargeFirstWrite => 256 << 10,
        }
    }

    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::ReadMapped | Self::ReadOrigin | Self::LargeRead)
    }

    /// Whether the operation finds chunks that were written before.
    pub(crate) fn needs_mapped_chunks(self) -> bool {
        matches!(self, Self::ReadMapped | Self::WriteMapped)
    }

    /// How many operations the shorter run does; the longer one does twice as many, which a first
    /// write must find chunks for. Enough that what differs from one start of a server to the next,
    /// some ten thousand instructions, is less than one percent.
    pub(crate) fn operations(self) -> u64 {
        match self {
            Self::LargeFirstWrite => 256,
            Self::LargeRead => 1024,
            _ => 4096,
        }
    }

    /// Bytes of the image.
    pub(crate) fn image_bytes(self) -> u64 {
        match self {
            Self::LargeFirstWrite => 128 << 20,
            _ => 32 << 20,
        }
    }

    /// How many requests a client has in flight.
    pub(crate) fn batch(self) -> usize {
        match self {
            Self::LargeRead | Self::LargeFirstWrite => 4,
            _ => 32,
        }
    }

    /// Whether the operations go through the image in ascending order; else at random.
    pub(crate) fn is_sequential(self) -> bool {
        matches!(self, Self::LargeRead | Self::LargeFirstWrite)
    }
}

impl Count {
    /// All, the engine's first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Side::ALL
            .into_iter()
            .flat_map(|side| Job::ALL.map(|job| Self { side, job }))
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Engine => "engine",
            Self::Server => "server",
        })
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadMapped => "4K read, mapped",
            Self::ReadOrigin => "4K read, origin",
            Self::FirstWrite => "4K first write",
            Self::WriteMapped => "4K write, mapped",
            Self::PartialFirstWrite => "2K first write",
            Self::LargeRead => "256K read, origin",
            Self::LargeFirstWrite => "256K first write",
        })
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.side, self.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_write_finds_chunks_that_nothing_was_written_to_in_the_longer_run_too() {
        for job in Job::ALL.into_iter().filter(|job| !job.is_read()) {
            let room = CHUNK.max(u64::from(job.len()));
            assert!(2 * job.operations() * room <= job.image_bytes(), "{job}");
        }
    }
}
