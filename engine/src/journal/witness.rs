//! What tells one COW file in one boot from another, or from what it was before.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{AtFlags, SeekFrom, StatxFlags, seek, statx};

use crate::error::{Error, Result};

/// Asks for a number of the mount that is never used again (since Linux 6.8; `linux/stat.h`).
const STATX_MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What was seen of a COW device at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Witness {
    /// The boot, as `/proc/sys/kernel/random/boot_id` names it.
    pub(crate) boot_id: [u8; 16],
    /// The filesystem's device number; of a block device its own.
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// The mount, by the number that is never used again where the kernel has such; 0: not known.
    pub(crate) mount_id: u64,
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
            device: metadata.dev(),
            inode: metadata.ino(),
            mount_id: mount_id(file),
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

    /// Whether both are of one file, in one boot and on one mount.
    pub(super) fn is_of_same_file(&self, other: &Self) -> bool {
        let of = |w: &Self| (w.boot_id, w.device, w.inode, w.mount_id, w.is_block);
        of(self) == of(other)
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
            self.disk_sequence,
            self.size_bytes,
            u64::from(self.is_block),
        ]
    }

    pub(super) fn from_words(words: [u64; super::layout::WITNESS_WORDS]) -> Self {
        let [
            boot_0,
            boot_1,
            device,
            inode,
            mount_id,
            disk_sequence,
            size_bytes,
            flags,
        ] = words;
        Self {
            boot_id: super::bytes_of([boot_0, boot_1]),
            device,
            inode,
            mount_id,
            disk_sequence,
            size_bytes,
            is_block: flags & 1 != 0,
            modified_ns: None,
        }
    }
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

fn mount_id(file: &File) -> u64 {
    let ask = |what: StatxFlags| {
        let found = statx(file, "", AtFlags::EMPTY_PATH, what).ok()?;
        (found.stx_mask & what.bits() != 0).then_some(found.stx_mnt_id)
    };
    ask(STATX_MNT_ID_UNIQUE)
        .or_else(|| ask(StatxFlags::MNT_ID))
        .unwrap_or(0)
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
