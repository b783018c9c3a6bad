//! What a chain changes, with its data: a stream that `patch` applies to a copy of the origin on
//! another machine. `DIFF.md` beside this crate documents the bytes.

mod exact;
mod samples;
mod stream;
mod write;

pub use exact::Exact;
pub use samples::Sample;
pub use stream::{Content, DiffHeader, DiffReader, MAX_DATA_BYTES, Record};
pub use write::{DiffOptions, DiffSummary, write};

pub(crate) use samples::verify;
