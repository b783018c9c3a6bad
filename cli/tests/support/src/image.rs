//! A real filesystem to serve: ext4, filled from a directory of installed files, made once and kept.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::MIB;
use crate::tool::Tool;

/// The least that the tree must hold.
const LEAST_TREE_BYTES: u64 = 300 * MIB;
/// Room left in the filesystem, for tests that copy files into it.
const ROOM_BYTES: u64 = 192 * MIB;

/// The path of an ext4 image made from at least 300 MB of installed files, below `root`. It is made
/// by whoever comes first; nobody may write to it.
///
/// # Errors
/// No such tree on this machine, or `mke2fs` fails.
pub fn ext4_of_installed_files(root: &Path) -> Result<PathBuf> {
    fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    let image = root.join("installed-files.ext4");
    let lock = File::create(root.join("installed-files.lock")).context("cannot create a lock")?;
    lock.lock().context("cannot lock")?;
    if image.exists() {
        return Ok(image);
    }
    let (tree, tree_bytes) = smallest_large_tree()?;
    let size_mib = (tree_bytes + tree_bytes / 8 + ROOM_BYTES) / MIB;
    let unfinished = root.join("installed-files.unfinished");
    Tool::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
        .args([tree.as_os_str(), unfinished.as_os_str()])
        .arg(format!("{size_mib}M"))
        .limit(Duration::from_secs(300))
        .ok()?;
    fs::rename(&unfinished, &image).context("cannot put the image in place")?;
    Ok(image)
}

/// The smallest directory of installed files that is large enough, and what it takes in 4 KiB blocks.
fn smallest_large_tree() -> Result<(PathBuf, u64)> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for top in ["/usr", "/opt"] {
        measure(Path::new(top), 0, &mut HashSet::new(), &mut found);
    }
    let (bytes, tree) = found
        .into_iter()
        .filter(|(bytes, _)| *bytes >= LEAST_TREE_BYTES)
        .min()
        .context("no directory below /usr holds 300 MB")?;
    Ok((tree, bytes))
}

/// Adds up what is below `directory` and notes it in `found` down to a few levels. What can't be
/// read counts nothing.
fn measure(
    directory: &Path,
    depth: usize,
    seen: &mut HashSet<(u64, u64)>,
    found: &mut Vec<(u64, PathBuf)>,
) -> u64 {
    const BLOCK_BYTES: u64 = 4096;
    const NOTED_LEVELS: usize = 4;
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let mut bytes = BLOCK_BYTES;
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            bytes += measure(&entry.path(), depth + 1, seen, found);
        } else if seen.insert((metadata.dev(), metadata.ino())) {
            bytes += metadata.len().next_multiple_of(BLOCK_BYTES);
        }
    }
    if depth <= NOTED_LEVELS {
        found.push((bytes, directory.to_owned()));
    }
    bytes
}
