//! Bytes, types and layout arithmetic of the format below: no I/O, no allocation, no dependencies.
//!
#![doc = include_str!("../SPEC.md")]
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::big_endian_bytes, clippy::host_endian_bytes)]
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod area;
mod bytes;
mod chunk_size;
mod error;
mod exception;
mod header;
mod identity;
mod label;
mod layout;
mod units;
mod usage;

pub use area::{AreaView, EXCEPTIONS_PER_SECTOR, encode_exception};
pub use chunk_size::ChunkSize;
pub use error::FormatError;
pub use exception::{
    DiskException, EXCEPTION_LEN, EXCEPTION_NEW_CHUNK_OFFSET, EXCEPTION_OLD_CHUNK_OFFSET,
    Exception, NEW_CHUNK_BITS,
};
pub use header::{
    DiskHeader, HEADER_CHUNK_SIZE_OFFSET, HEADER_LEN, HEADER_MAGIC_OFFSET, HEADER_VALID_OFFSET,
    HEADER_VERSION_OFFSET, Header, MAGIC, MAGIC_BYTES, VERSION,
};
pub use identity::{
    IDENTITY_BOOT_ID_OFFSET, IDENTITY_CRC32_OFFSET, IDENTITY_FLAG_CLEAN, IDENTITY_FLAG_JOURNAL,
    IDENTITY_FLAG_ORIGIN, IDENTITY_FLAG_ORIGIN_CHANGING, IDENTITY_FLAGS_OFFSET,
    IDENTITY_LABEL_OFFSET, IDENTITY_LEN, IDENTITY_MAGIC, IDENTITY_MAGIC_OFFSET,
    IDENTITY_MTIME_NS_OFFSET, IDENTITY_MTIME_S_OFFSET, IDENTITY_OFFSET,
    IDENTITY_ORIGIN_SIZE_OFFSET, IDENTITY_RESERVED_OFFSET, IDENTITY_SAMPLE_CRC32_OFFSET,
    IDENTITY_SAMPLE_SCHEME_OFFSET, IDENTITY_SESSION_OFFSET, IDENTITY_VERSION,
    IDENTITY_VERSION_OFFSET, IdentityRecord, OriginIdentity,
};
pub use label::{LABEL_LEN, Label};
pub use layout::{FIRST_DATA_CHUNK, HEADER_CHUNK, Layout};
pub use units::{AreaIndex, NewChunk, OldChunk, SECTOR_SHIFT, SECTOR_SIZE};
pub use usage::{Status, Usage};
