//! Carrying a plan out: writes and syncs in order, each checked once more to lie in metadata.

use usnap_format::{ChunkSize, HEADER_LEN, Layout, NewChunk, SECTOR_SIZE};

use crate::device::{BlockDevice, ZeroFlags};
use crate::error::{Error, ErrorKind, Result};

/// One thing that is done to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Zero {
        offset: u64,
        len: u64,
    },
    /// The device becomes so long.
    Extend {
        size_bytes: u64,
    },
    Sync,
}

/// What must hold for each write.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Guard {
    /// Of the store; `None` of a plan that was not made for one.
    pub(super) chunk_size: Option<ChunkSize>,
    /// The first 16 bytes as they were read.
    pub(super) raw_header: [u8; HEADER_LEN],
}

impl Guard {
    /// Does all of `ops`, up to the first that fails.
    ///
    /// # Errors
    /// `Corrupt` where the header changed meanwhile, `NoSpace`, `Io`.
    pub(super) fn run(&self, device: &dyn BlockDevice, ops: &[Op]) -> Result<()> {
        for op in ops {
            match op {
                Op::Write { offset, bytes } => {
                    self.refuse_data(*offset, bytes.len() as u64)?;
                    self.refuse_changed_header(device, *offset)?;
                    device.write_at(bytes, *offset)?;
                }
                Op::Zero { offset, len } => {
                    self.refuse_data(*offset, *len)?;
                    let flags = ZeroFlags {
                        no_hole: true,
                        fast: false,
                    };
                    device.zero_at(*offset, *len, flags)?;
                }
                Op::Extend { size_bytes } => device.extend_to(*size_bytes)?,
                Op::Sync => device.flush()?,
            }
        }
        Ok(())
    }

    /// A plan that would write to a data chunk is wrong, whoever made it.
    fn refuse_data(&self, offset: u64, len: u64) -> Result<()> {
        let in_metadata = self.chunk_size.is_some_and(|chunk_size| {
            let end = offset.saturating_add(len.saturating_sub(1));
            let chunk = chunk_size.chunk_of(offset);
            chunk == chunk_size.chunk_of(end)
                && Layout::new(chunk_size).is_metadata(NewChunk(chunk))
        });
        if in_metadata {
            return Ok(());
        }
        let context =
            format!("cannot write {len} bytes at {offset}, a bug in usnap: data is there");
        Err(Error::new(ErrorKind::Corrupt, context))
    }

    /// The header may be written once; whoever else does is not to be overwritten.
    fn refuse_changed_header(&self, device: &dyn BlockDevice, offset: u64) -> Result<()> {
        if offset >= SECTOR_SIZE {
            return Ok(());
        }
        let mut header = [0; HEADER_LEN];
        device.read_at(&mut header, 0)?;
        if header == self.raw_header {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            "the header changed since it was read",
        ))
    }
}
