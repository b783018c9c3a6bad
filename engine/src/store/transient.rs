//! The transient store: new chunks in memory, numbered from 0, gone with the process. Like the
//! kernel's `N`: no header, no metadata. The memory is an unnamed file, so pages appear as they
//! are written and are given back when trimmed.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::MemfdFlags;
use usnap_format::{ChunkSize, NewChunk, OldChunk, Usage};

use super::{ExceptionCounts, ExceptionStore, NewRun};
use crate::device::{BlockDevice, FileDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::space::{Space, SpaceAlarm, SpaceLimit};

/// The transient store.
pub(crate) struct TransientStore {
    device: FileDevice,
    chunk_size: ChunkSize,
    limit_chunks: u64,
    numbers: Mutex<Numbers>,
    alarm: Arc<SpaceAlarm>,
}

#[derive(Default)]
struct Numbers {
    next_free: u64,
    returned: Vec<u64>,
}

impl TransientStore {
    /// A store that keeps at most `limit_bytes` of chunks.
    ///
    /// # Errors
    /// `Usage` where that is less than a chunk, `Io`.
    pub(crate) fn new(chunk_size: ChunkSize, limit_bytes: u64) -> Result<Self> {
        let limit_chunks = chunk_size.whole_chunks(limit_bytes);
        if limit_chunks == 0 {
            let context = format!(
                "cannot keep chunks of {} bytes in {limit_bytes} bytes of memory",
                chunk_size.bytes()
            );
            return Err(Error::new(ErrorKind::Usage, context));
        }
        let cannot = |e: std::io::Error| Error::io("cannot get memory for changes", e);
        let fd = rustix::fs::memfd_create("usnap-transient", MemfdFlags::CLOEXEC)
            .map_err(|e| cannot(e.into()))?;
        let file = File::from(fd);
        // As long as the limit: the kernel's status counts a cut last chunk, too.
        file.set_len(limit_bytes).map_err(cannot)?;
        Ok(Self {
            device: FileDevice::from_regular(file, "memory for changes".to_owned()),
            chunk_size,
            limit_chunks,
            numbers: Mutex::default(),
            alarm: Arc::default(),
        })
    }

    fn numbers(&self) -> std::sync::MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExceptionStore for TransientStore {
    fn prepare_exceptions(&self, max_count: u64) -> Result<NewRun> {
        let mut numbers = self.numbers();
        if let Some(number) = numbers.returned.pop() {
            return Ok(NewRun {
                first: NewChunk(number),
                count: 1,
            });
        }
        let count = max_count.min(self.limit_chunks - numbers.next_free);
        if count == 0 {
            let context = format!(
                "cannot take a new chunk: all {} chunks of memory are taken",
                self.limit_chunks
            );
            return Err(Error::new(ErrorKind::NoSpace, context)
                .with_hint("serve with a larger --ram-limit"));
        }
        let first = NewChunk(numbers.next_free);
        numbers.next_free += count;
        self.alarm.taken(numbers.next_free);
        Ok(NewRun { first, count })
    }

    fn abort_exceptions(&self, run: NewRun) {
        self.numbers()
            .returned
            .extend((run.first.0..run.first.0 + run.count).rev());
    }

    fn commit_exceptions(&self, _first: OldChunk, _run: NewRun) -> Result<()> {
        Ok(())
    }

    fn mark_dirty(&self) {}

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn commit_recorded(&self) -> Result<()> {
        Ok(())
    }

    fn shut(&self, _cause: &Error) {}

    fn commit_pending(&self) -> Result<bool> {
        Ok(false)
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }

    fn device(&self) -> &dyn BlockDevice {
        &self.device
    }

    fn usage(&self) -> Usage {
        let next_free = NewChunk(self.numbers().next_free);
        Usage::transient(next_free, self.chunk_size, self.device.size_bytes())
    }

    fn counts(&self) -> ExceptionCounts {
        let numbers = self.numbers();
        let returned = numbers.returned.len() as u64;
        ExceptionCounts {
            committed: 0,
            uncommitted: numbers.next_free - returned,
            free: self.limit_chunks - numbers.next_free + returned,
        }
    }

    fn latched(&self) -> Option<String> {
        None
    }

    fn space(&self) -> Space {
        let counts = self.counts();
        let chunk_bytes = self.chunk_size.bytes();
        Space::of_chunks(
            chunk_bytes,
            counts.uncommitted,
            counts.free,
            SpaceLimit::Memory,
        )
    }

    fn alarm(&self) -> &Arc<SpaceAlarm> {
        &self.alarm
    }

    fn is_lost(&self, _old_chunk: OldChunk) -> bool {
        false
    }
}
