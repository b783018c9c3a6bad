//! Whether a store's identity record is damaged: then what it said of origin and label is lost, and
//! that is to be said wherever either is shown.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use usnap_format::{IDENTITY_LEN, IDENTITY_OFFSET, IdentityRecord};

/// What is wrong with the record in the COW at `path`; `None` where it is whole, or there is none,
/// or the file can't be read, which whoever reads more of it says.
pub(crate) fn damage(path: &Path) -> Option<String> {
    let file_type = std::fs::metadata(path).ok()?.file_type();
    // To open a pipe would wait for its other end.
    if !file_type.is_file() && !file_type.is_block_device() {
        return None;
    }
    let mut record = [0; IDENTITY_LEN];
    let file = File::open(path).ok()?;
    file.read_exact_at(&mut record, IDENTITY_OFFSET).ok()?;
    let decoded = IdentityRecord::decode(&record, crc32fast::hash);
    decoded.err().map(|error| error.to_string())
}
