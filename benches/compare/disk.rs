//! What the disk below a directory tells, and how its page cache is emptied.

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Advice, fadvise, fstatfs, major, minor};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Refuses a directory whose files lie in memory: what is to be measured there is a disk.
pub(crate) fn require_disk(directory: &Path) -> Result<()> {
    /// `TMPFS_MAGIC` and `RAMFS_MAGIC` of the kernel's `linux/magic.h`.
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let opened = File::open(directory);
    let opened = opened.with_context(|| format!("cannot open {}", directory.display()))?;
    let kind = fstatfs(&opened)
        .context("cannot tell the filesystem")?
        .f_type;
    ensure!(
        !u64::try_from(kind).is_ok_and(|kind| IN_MEMORY.contains(&kind)),
        "{} lies in memory, but jobs with fsync and cold jobs need a disk: see --disk-directory",
        directory.display()
    );
    Ok(())
}

/// How many flushes the disk below `directory` has completed; `None` where the filesystem is not on
/// one block device that counts them.
pub(crate) fn flush_count(directory: &Path) -> Result<Option<u64>> {
    let device = fs::metadata(directory)
        .with_context(|| format!("cannot look at {}", directory.display()))?
        .dev();
    let link = PathBuf::from(format!(
        "/sys/dev/block/{}:{}",
        major(device),
        minor(device)
    ));
    let Ok(mut block) = link.canonicalize() else {
        return Ok(None);
    };
    // Flushes go to whole disks, so partitions do not count them.
    if block.join("partition").exists() {
        block.pop();
    }
    let stat = fs::read_to_string(block.join("stat")).context("cannot read the disk's figures")?;
    Ok(flushes_of_stat(&stat))
}

/// The 16th figure of a block device's `stat` (`Documentation/block/stat.rst`).
fn flushes_of_stat(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(15)?.parse().ok()
}

/// Makes the page cache forget `file`, and checks that it did.
pub(crate) fn forget(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let forget = || -> Result<()> {
        // What is not written yet would stay.
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let len = file.metadata()?.len();
        for eighth in 0..8 {
            ensure!(
                !is_cached(&file, len / 8 * eighth)?,
                "the page cache keeps it"
            );
        }
        Ok(())
    };
    forget().with_context(|| format!("cannot drop {} from the page cache", path.display()))
}

fn is_cached(file: &File, offset: u64) -> Result<bool> {
    let mut byte = [0];
    let read = preadv2(
        file,
        &mut [IoSliceMut::new(&mut byte)],
        offset,
        ReadWriteFlags::NOWAIT,
    );
    match read {
        // A hole, or the end, needs no disk.
        Ok(0) | Err(Errno::AGAIN) => Ok(false),
        Ok(_) => Ok(byte != [0]),
        Err(error) => bail!("cannot ask for a page: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_the_last_count_but_one() {
        let stat = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n";
        assert_eq!(flushes_of_stat(stat), Some(16));
        assert_eq!(flushes_of_stat("1 2 3"), None, "kernels before 5.5");
    }
}
