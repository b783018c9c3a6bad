//! Exports: devices under the names that clients ask for.

mod exports;
mod removed;

use std::fmt;
use std::sync::Arc;

use usnap_engine::device::BlockDevice;

use crate::proto::ExportInfo;

pub use self::exports::{AddError, Exports};
pub use self::removed::Removed;

pub(crate) use self::exports::{Chosen, Offered};

/// A named device offered over NBD.
#[derive(Clone)]
pub struct Export {
    name: String,
    description: Option<String>,
    device: Arc<dyn BlockDevice>,
    preferred_block_bytes: u32,
    multi_conn: bool,
}

impl Export {
    /// Offers `device` under `name`, of at most 4096 bytes. A flush of the device must cover what
    /// was written through every handle on it; all that this workspace makes do.
    #[must_use]
    pub fn new(name: impl Into<String>, device: Arc<dyn BlockDevice>) -> Self {
        let preferred_block_bytes = crate::proto::DEFAULT_PREFERRED_BLOCK_BYTES;
        Self {
            name: name.into(),
            description: None,
            device,
            preferred_block_bytes,
            multi_conn: true,
        }
    }

    /// Adds a line for people.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Sets the unit in bytes that the device serves best: a snapshot's chunk. A power of two;
    /// what is told to clients is made one and at least 512. Default 4096.
    #[must_use]
    pub fn with_preferred_block_bytes(mut self, bytes: u32) -> Self {
        self.preferred_block_bytes = bytes;
        self
    }

    /// Sets whether clients may use several connections as one. Default yes.
    #[must_use]
    pub fn with_multi_conn(mut self, multi_conn: bool) -> Self {
        self.multi_conn = multi_conn;
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// What clients are told of it, as of now.
    #[must_use]
    pub fn info(&self) -> ExportInfo {
        let writable = !self.device.is_read_only();
        ExportInfo {
            read_only: !writable,
            can_flush: true,
            can_fua: true,
            can_trim: writable,
            can_write_zeroes: writable,
            can_fast_zero: writable && self.device.can_zero_fast(),
            can_cache: true,
            can_multi_conn: self.multi_conn,
            preferred_block_bytes: self.preferred_block_bytes,
            description: self.description.clone(),
            ..ExportInfo::new(self.name.clone(), self.device.size_bytes())
        }
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("device", &self.device.name())
            .finish_non_exhaustive()
    }
}
