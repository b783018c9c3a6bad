//! What the filesystem below a file promises, and how much room it has.
//!
//! Whether a write that succeeded has its space, although the blocks are chosen later: tried by
//! filling small filesystems and flushing then (DESIGN.md, "Full").
//!
//! | filesystem | when a write takes its space |
//! |---|---|
//! | ext2, ext3, ext4 | in the write: a block, or with delayed allocation a reservation for one |
//! | xfs | in the write: a reservation against the free blocks |
//! | btrfs | in the write: a reservation in the data space; for files without data copy-on-write also |
//! | tmpfs, ramfs | in the write: the page |
//! | anything else | unknown: network and user-space filesystems cache what they can't place |

use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Magic numbers of the filesystems that take space in the write (statfs(2)).
const TAKES_SPACE_IN_WRITE: [u64; 5] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
];

/// Magic numbers of the filesystems where a flush costs more behind a write that gave the file a
/// block, or turned a reserved one into a written one, than behind one that overwrote blocks in
/// place: overlayfs passes on what is below it, most often one of the others.
const COMMITS_NEW_BLOCKS: [u64; 3] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x794c_7630, // overlayfs
];

/// How much room there is below a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomBelow {
    /// What the filesystem has left for us, in bytes.
    pub free_bytes: u64,
    /// What the file has allocated, in bytes.
    pub allocated_bytes: u64,
}

/// Whether a write to `file` that succeeds has its space, so that nothing need be reserved before.
pub(super) fn takes_space_in_write(file: &File) -> bool {
    magic(file).is_some_and(is_known)
}

/// Whether overwriting what `file` has written makes the next flush cheaper than new blocks do.
pub(super) fn commits_new_blocks(file: &File) -> bool {
    magic(file).is_some_and(|magic| COMMITS_NEW_BLOCKS.contains(&(magic & 0xffff_ffff)))
}

fn magic(file: &File) -> Option<u64> {
    let found = rustix::fs::fstatfs(file).ok()?;
    Some(found.f_type.cast_unsigned())
}

fn is_known(magic: u64) -> bool {
    // The field is signed, and has 32 bits on some machines.
    TAKES_SPACE_IN_WRITE.contains(&(magic & 0xffff_ffff))
}

/// The room below a regular file; `None` where the filesystem has no limit, or does not tell.
pub(super) fn room_below(file: &File) -> Option<RoomBelow> {
    let fs = rustix::fs::fstatvfs(file).ok()?;
    // A tmpfs without a size has no blocks at all.
    if fs.f_blocks == 0 {
        return None;
    }
    Some(RoomBelow {
        free_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
        allocated_bytes: file.metadata().ok()?.blocks().saturating_mul(512),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filesystems_that_take_space_in_the_write_are_known() {
        for magic in TAKES_SPACE_IN_WRITE {
            assert!(is_known(magic), "{magic:x}");
            // As a machine with signed 32 bits gives it.
            assert!(is_known(magic | 0xffff_ffff_0000_0000), "{magic:x}");
        }
        // NFS, FUSE, CIFS, overlayfs, 9p, ZFS, user-mode Linux's hostfs, f2fs.
        for magic in [
            0x6969,
            0x6573_5546,
            0xff53_4d42,
            0x794c_7630,
            0x0102_1997,
            0x2fc1_2fc1,
            0x00c0_ffee,
        ] {
            assert!(!is_known(magic), "{magic:x}");
        }
    }

    #[test]
    fn room_below_a_file_counts_what_it_has_allocated() {
        let file = tempfile::tempfile().unwrap();
        let before = room_below(&file).unwrap();
        assert_eq!(before.allocated_bytes, 0);
        assert!(before.free_bytes > 0);
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 1 << 16], 0).unwrap();
        file.sync_all().unwrap();
        assert!(room_below(&file).unwrap().allocated_bytes >= 1 << 16);
    }
}
