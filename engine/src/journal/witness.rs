//! What tells one COW file in one boot from another, or from what it was before.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, SeekFrom, StatxFlags, fstatvfs, seek, statx};

use super::place::{BTRFS, EXT4, TMPFS, XFS, filesystem};
use crate::error::{Error, Result};

/// `SYSFS_MAGIC` of `linux/magic.h`.
const SYSFS: u64 = 0x6265_6572;

/// Asks for a number of the mount that is never used again (since Linux 6.8; `linux/stat.h`).
const STATX_MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What was seen of a COW device at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Witness {
    /// The boot, as `/proc/sys/kernel/random/boot_id` names it.
    pub(crate) boot_id: [u8; 16],
    /// When the kernel was started, by its own clock, in seconds since 1970; 0: not known. A
    /// container may have a boot id of its own, but not this.
    pub(crate) started_s: u64,
    /// The filesystem's device number; of a block device its own.
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// The mount, by the number that is never used again where the kernel has such; 0: not known.
    pub(crate) mount_id: u64,
    /// What the filesystem has from its mount to its last unmount and never again, the same in
    /// every mount namespace; 0: not known.
    pub(crate) superblock: u64,
    /// The kernel's count of disks; 0: not known.
    pub(crate) disk_sequence: u64,
    pub(crate) size_bytes: u64,
    pub(crate) is_block: bool,
    /// When it was modified; a block device does not tell.
    pub(crate) modified_ns: Option<u64>,
}

impl Witness {
    /// Looks at an open COW device.
    ///
    /// # Errors
    /// `Io` and its like where the boot or the file can't be told from others.
    pub(crate) fn of(file: &File) -> Result<Self> {
        let cannot = |e: std::io::Error| Error::io("cannot look at the COW device", e);
        let boot_id = boot_id()?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.file_type().is_block_device() {
            // Its content is read and written by offset, so nobody minds where it stands.
            let size_bytes = seek(file, SeekFrom::End(0)).map_err(|e| cannot(e.into()))?;
            return Ok(Self {
                boot_id,
                started_s: started_s(),
                device: metadata.rdev(),
                disk_sequence: disk_sequence(metadata.rdev()),
                size_bytes,
                is_block: true,
                ..Self::default()
            });
        }
        let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
        let nanoseconds = u64::try_from(metadata.mtime_nsec()).unwrap_or(0);
        Ok(Self {
            boot_id,
            started_s: started_s(),
            device: metadata.dev(),
            inode: metadata.ino(),
            mount_id: mount_id(file),
            superblock: superblock(file, metadata.dev()).unwrap_or(0),
            disk_sequence: disk_sequence(metadata.dev()),
            size_bytes: metadata.len(),
            is_block: false,
            modified_ns: Some(
                seconds
                    .saturating_mul(1_000_000_000)
                    .saturating_add(nanoseconds),
            ),
        })
    }

    /// A witness that tells nothing, for devices in memory.
    pub(crate) fn neutral() -> Self {
        Self::default()
    }

    /// Whether the kernel was not started anew between the two, whatever the boot ids say. Setting
    /// the clock moves what it says of its start.
    pub(super) fn is_of_same_start(&self, then: &Self) -> bool {
        const CLOCK_MOVES_S: u64 = 5;
        let is_known = self.started_s != 0 && then.started_s != 0;
        is_known && self.started_s.abs_diff(then.started_s) <= CLOCK_MOVES_S
    }

    /// Whether the filesystem was unmounted between the two. A mount's number tells too much: a
    /// container, or a service with a view of its own, has new ones each time that it is started.
    pub(super) fn is_remounted_since(&self, then: &Self) -> bool {
        if then.superblock != 0 && self.superblock != 0 {
            return then.superblock != self.superblock;
        }
        differs(then.mount_id, self.mount_id)
    }

    /// Whether the disk is another one.
    pub(super) fn is_on_other_disk(&self, then: &Self) -> bool {
        differs(then.disk_sequence, self.disk_sequence)
    }

    /// Whether a journal that says `then`, beside this file, can only be one that this file left
    /// behind. In another boot the device may have had another number.
    pub(super) fn has_left(&self, then: &Self) -> bool {
        let is_inode = (then.inode, then.is_block) == (self.inode, self.is_block);
        let is_here = then.device == self.device && !self.is_on_other_disk(then);
        is_inode && (then.boot_id != self.boot_id || is_here)
    }

    /// All of it that a journal keeps: all but the time.
    pub(super) fn words(&self) -> [u64; super::layout::WITNESS_WORDS] {
        let [boot_0, boot_1] = super::words_of(self.boot_id);
        [
            boot_0,
            boot_1,
            self.device,
            self.inode,
            self.mount_id,
            self.superblock,
            self.disk_sequence,
            self.size_bytes,
            u64::from(self.is_block) | self.started_s << 1,
        ]
    }

    pub(super) fn from_words(words: [u64; super::layout::WITNESS_WORDS]) -> Self {
        let [
            boot_0,
            boot_1,
            device,
            inode,
            mount_id,
            superblock,
            disk_sequence,
            size_bytes,
            flags,
        ] = words;
        Self {
            boot_id: super::bytes_of([boot_0, boot_1]),
            device,
            inode,
            mount_id,
            superblock,
            disk_sequence,
            size_bytes,
            is_block: flags & 1 != 0,
            started_s: flags >> 1,
            modified_ns: None,
        }
    }
}

/// Whether both are known, and not the same.
fn differs(then: u64, now: u64) -> bool {
    then != 0 && now != 0 && then != now
}

/// The boot's random name, 32 hexadecimal digits and hyphens.
fn boot_id() -> Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH)
        .map_err(|e| Error::io(format!("cannot read {PATH}, which names this boot"), e))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(number) if number != 0 && digits.len() == 32 => Ok(number.to_be_bytes()),
        _ => {
            let cause = std::io::Error::from(std::io::ErrorKind::InvalidData);
            let context = format!("cannot understand {PATH}, which names this boot");
            Err(Error::io(context, cause))
        }
    }
}

/// `btime` of `/proc/stat` (proc_stat(5)); 0 where it can't be read.
fn started_s() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|digits| digits.trim().parse().ok())
        .unwrap_or(0)
}

fn mount_id(file: &File) -> u64 {
    let ask = |what: StatxFlags| {
        let found = statx(file, "", AtFlags::EMPTY_PATH, what).ok()?;
        (found.stx_mask & what.bits() != 0).then_some(found.stx_mnt_id)
    };
    ask(STATX_MNT_ID_UNIQUE)
        .or_else(|| ask(StatxFlags::MNT_ID))
        .unwrap_or(0)
}

/// What [`Witness::superblock`] says. The kernel makes a directory in sysfs when it mounts a
/// filesystem and removes it behind the last unmount; no two of those have one inode number in a
/// boot (`kernfs_new_node`).
fn superblock(file: &File, device: u64) -> Option<u64> {
    match filesystem(file) {
        EXT4 => of_disk("/sys/fs/ext4", device),
        XFS => of_disk("/sys/fs/xfs", device),
        BTRFS => of_btrfs(file),
        // No file in memory outlives its filesystem, so when it was made says as much. Its device
        // number does not: the next such filesystem may have it, and its inode too.
        TMPFS => born_ns(file),
        _ => None,
    }
}

/// Of a filesystem whose directory has its disk's name.
fn of_disk(directory: &str, device: u64) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let disk = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    inode_in_sysfs(&Path::new(directory).join(disk.file_name()?))
}

/// Of btrfs, whose directory has its UUID's name. `statfs` tells half of the UUID, folded with the
/// subvolume's number, of which the upper half is 0 (`btrfs_statfs`).
fn of_btrfs(file: &File) -> Option<u64> {
    let folded = fstatvfs(file).ok()?.f_fsid & u64::from(u32::MAX);
    let is_it = |name: &str| {
        let digits: String = name.chars().filter(char::is_ascii_hexdigit).collect();
        let word = |at: usize| u32::from_str_radix(digits.get(at..at + 8)?, 16).ok();
        let words = word(0).zip(word(16));
        digits.len() == 32 && words.is_some_and(|(one, other)| u64::from(one ^ other) == folded)
    };
    let mut found = std::fs::read_dir("/sys/fs/btrfs")
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_it));
    let only = found.next().filter(|_| found.next().is_none())?;
    inode_in_sysfs(&only.path())
}

fn inode_in_sysfs(path: &Path) -> Option<u64> {
    let directory = File::open(path).ok()?;
    // Not what somebody put there.
    let is_sysfs = filesystem(&directory) == SYSFS;
    directory
        .metadata()
        .ok()
        .filter(|_| is_sysfs)
        .map(|found| found.ino())
}

/// When the file was made, in nanoseconds.
fn born_ns(file: &File) -> Option<u64> {
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let is_told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let seconds = u64::try_from(found.stx_btime.tv_sec)
        .ok()
        .filter(|_| is_told)?;
    let nanoseconds = u64::from(found.stx_btime.tv_nsec);
    Some(
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds),
    )
}

/// The kernel's count of the disk with this device number: another one for each disk that was ever
/// plugged in. 0 where there is no disk, or where the kernel (before 5.15) doesn't count. A
/// partition has its disk's.
fn disk_sequence(device: u64) -> u64 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let disk = format!("/sys/dev/block/{major}:{minor}");
    ["diskseq", "../diskseq"]
        .iter()
        .find_map(|name| std::fs::read_to_string(format!("{disk}/{name}")).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::Witness;

    #[test]
    fn a_file_is_known_again_and_another_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = tempfile::tempfile().unwrap();
        let of = |file: &std::fs::File| Witness::of(file).unwrap();
        let seen = of(file.as_file());
        assert_eq!(seen, of(&file.reopen().unwrap()));
        assert_ne!(seen.inode, of(&other).inode);
        assert_ne!(seen.boot_id, [0; 16]);
        assert!(seen.is_of_same_start(&of(&other)));
        assert_ne!(seen.mount_id, 0, "every kernel since 5.8 tells it");
        assert_eq!((seen.size_bytes, seen.is_block), (0, false));
        assert_eq!(Witness::from_words(seen.words()).mount_id, seen.mount_id);
        file.as_file().write_all_at(b"x", 0).unwrap();
        let written = of(file.as_file());
        assert!(written.modified_ns >= seen.modified_ns);
        assert_eq!(written.size_bytes, 1);
    }

    #[test]
    fn mounts_of_different_filesystems_differ() {
        let here = tempfile::tempfile_in(".").unwrap();
        let Ok(there) = tempfile::tempfile_in("/dev/shm") else {
            return;
        };
        let (here, there) = (Witness::of(&here).unwrap(), Witness::of(&there).unwrap());
        assert_ne!(here.device, there.device);
        assert_ne!(here.mount_id, there.mount_id);
        assert_eq!(there.disk_sequence, 0, "there is no disk below it");
    }

    #[test]
    fn a_filesystem_in_memory_is_told_by_when_the_file_was_made() {
        let Ok(one) = tempfile::tempfile_in("/dev/shm") else {
            return;
        };
        let seen = Witness::of(&one).unwrap();
        let born = one.metadata().unwrap().created();
        let born = born.map(|at| at.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos());
        // Linux has told it since 6.0.
        assert_eq!(u128::from(seen.superblock), born.unwrap_or(0));
        one.set_len(1).unwrap();
        assert_eq!(Witness::of(&one).unwrap().superblock, seen.superblock);
    }

    #[test]
    fn a_filesystem_on_a_disk_is_told_by_its_directory_in_sysfs() {
        let here = tempfile::tempfile_in(".").unwrap();
        let seen = Witness::of(&here).unwrap();
        let Ok(directories) = std::fs::read_dir("/sys/fs/ext4") else {
            return;
        };
        let inodes: Vec<u64> = directories
            .map(|entry| std::os::unix::fs::DirEntryExt::ino(&entry.unwrap()))
            .collect();
        if super::filesystem(&here) == super::EXT4 {
            assert!(inodes.contains(&seen.superblock), "{seen:?} {inodes:?}");
        } else {
            assert!(!inodes.contains(&seen.superblock), "{seen:?} {inodes:?}");
        }
    }

    #[test]
    fn the_superblock_says_what_the_mount_only_seems_to() {
        let then = Witness {
            mount_id: 4,
            superblock: 5,
            ..Witness::neutral()
        };
        let now = |mount_id, superblock| Witness {
            mount_id,
            superblock,
            ..then
        };
        assert!(!now(9, 5).is_remounted_since(&then), "another namespace");
        assert!(
            now(4, 9).is_remounted_since(&then),
            "numbers are used again"
        );
        assert!(now(9, 0).is_remounted_since(&then), "nothing else is known");
        assert!(then.is_remounted_since(&now(9, 0)));
        assert!(!now(4, 0).is_remounted_since(&then));
        assert!(!now(0, 0).is_remounted_since(&then));
    }

    #[test]
    fn what_a_file_left_is_told_by_its_inode_and_in_one_boot_by_its_device() {
        let now = Witness {
            boot_id: [1; 16],
            device: 2,
            inode: 3,
            mount_id: 4,
            superblock: 5,
            disk_sequence: 6,
            ..Witness::neutral()
        };
        let of = |change: fn(&mut Witness)| {
            let mut then = now;
            change(&mut then);
            now.has_left(&then)
        };
        assert!(of(|_| {}));
        assert!(of(|then| (then.mount_id, then.superblock) = (9, 9)));
        assert!(of(|then| then.boot_id = [9; 16]));
        assert!(of(|then| (then.boot_id, then.device) = ([9; 16], 9)));
        assert!(!of(|then| then.device = 9));
        assert!(
            !of(|then| then.disk_sequence = 9),
            "it had the number before"
        );
        assert!(!of(|then| then.inode = 9));
        assert!(!of(|then| (then.boot_id, then.inode) = ([9; 16], 9)));
        assert!(!of(|then| then.is_block = true));
    }

    #[test]
    fn a_journal_keeps_all_but_the_time() {
        let file = tempfile::tempfile().unwrap();
        let seen = Witness::of(&file).unwrap();
        let kept = Witness {
            modified_ns: None,
            ..seen
        };
        assert_eq!(Witness::from_words(seen.words()), kept);
    }
}
