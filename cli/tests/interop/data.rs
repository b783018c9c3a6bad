//! A small origin whose data and holes are known.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::Result;
use usnap_test_support::{KIB, MIB, Rng, Scratch};

/// Bytes of the small origin.
pub(crate) const ORIGIN_BYTES: u64 = 8 * MIB;
/// A hole in it begins here...
pub(crate) const HOLE_START: u64 = 2 * MIB;
/// ...and ends here; all else is data.
pub(crate) const HOLE_END: u64 = 5 * MIB;
/// The default chunk size.
pub(crate) const CHUNK: u64 = 4 * KIB;

/// Makes the small origin and returns its path and content.
pub(crate) fn origin_with_a_hole(scratch: &Scratch) -> Result<(PathBuf, Vec<u8>)> {
    let path = scratch.sparse_file("origin.img", ORIGIN_BYTES)?;
    let mut content = Rng::new(11).bytes(usize::try_from(ORIGIN_BYTES)?);
    let hole = usize::try_from(HOLE_START)?..usize::try_from(HOLE_END)?;
    content[hole.clone()].fill(0);
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&content[..hole.start], 0)?;
    file.write_all_at(&content[hole.end..], HOLE_END)?;
    Ok((path, content))
}
