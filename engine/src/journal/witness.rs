//! What tells one COW file in one boot from another, or from what it was before.

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
    /// A witness that tells nothing, for devices in memory.
    pub(crate) fn neutral() -> Self {
        Self::default()
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
