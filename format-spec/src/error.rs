//! Every way in which bytes can fail to be what this crate reads, or a value to be what it writes.

use core::fmt;

/// What is wrong, with the values that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// An area is not one chunk long.
    AreaLength {
        /// The length given, in bytes.
        found: u64,
        /// The chunk size, in bytes.
        expected: u64,
    },
    /// The header begins with neither the magic nor zeros.
    BadMagic {
        /// The first four bytes, little endian.
        found: u32,
    },
    /// The chunk size is not a power of two (0 is none either).
    ChunkSizeNotPowerOfTwo {
        /// The chunk size in sectors.
        sectors: u64,
    },
    /// The chunk size is no whole number of sectors.
    ChunkSizeNotSectors {
        /// The chunk size in bytes.
        bytes: u64,
    },
    /// The chunk size is more than the kernel takes.
    ChunkSizeTooLarge {
        /// The chunk size in sectors.
        sectors: u64,
    },
    /// An entry's index lies behind the area's last entry.
    EntryOutsideArea {
        /// The index.
        index: u64,
        /// How many entries the area has.
        exceptions: u64,
    },
    /// The identity record's checksum does not match its bytes.
    IdentityChecksum {
        /// The checksum in the record.
        found: u32,
        /// The checksum of the record's bytes.
        computed: u32,
    },
    /// The identity record has flags that its version does not know.
    IdentityFlags {
        /// All its flags.
        found: u16,
    },
    /// The identity record is cut off.
    IdentityLength {
        /// The bytes that are there.
        found: u64,
    },
    /// The origin's modification time has a second or more of nanoseconds.
    IdentityNanoseconds {
        /// The nanoseconds.
        found: u32,
    },
    /// Bytes of the identity record that must be zero are not.
    IdentityNotZero {
        /// Where in the record they begin.
        offset: u64,
    },
    /// The identity record is of a later version.
    IdentityVersion {
        /// The version.
        found: u16,
    },
    /// A label has a control character in it.
    LabelControlCharacter {
        /// The character.
        found: char,
    },
    /// A label is not UTF-8.
    LabelNotUtf8,
    /// A label is longer than its field.
    LabelTooLong {
        /// The label's length in bytes.
        len: u64,
    },
    /// An exception's new chunk has bits set that the kernel uses for something else.
    NewChunkHighBits {
        /// The new chunk's number.
        new_chunk: u64,
    },
    /// An exception's new chunk is 0, which on disk is the terminator.
    NewChunkZero {
        /// The exception's old chunk.
        old_chunk: u64,
    },
    /// There is no header yet: the magic is zero, so the device counts as a new store.
    NewStore,
    /// The store's version is not the one there is.
    UnsupportedVersion {
        /// The version.
        found: u32,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::AreaLength { found, expected } => {
                write!(
                    f,
                    "area of {found} bytes where the chunk size is {expected}"
                )
            }
            Self::BadMagic { found } => {
                write!(f, "bad magic 0x{found:08x}, not a dm-snapshot COW device")
            }
            Self::ChunkSizeNotPowerOfTwo { sectors } => {
                write!(f, "chunk size of {sectors} sectors is not a power of two")
            }
            Self::ChunkSizeNotSectors { bytes } => {
                write!(
                    f,
                    "chunk size of {bytes} bytes is no whole number of 512-byte sectors"
                )
            }
            Self::ChunkSizeTooLarge { sectors } => {
                let limit = crate::ChunkSize::MAX_SECTORS;
                write!(
                    f,
                    "chunk size of {sectors} sectors is more than the limit of {limit}"
                )
            }
            Self::EntryOutsideArea { index, exceptions } => {
                write!(f, "entry {index} of an area that has {exceptions}")
            }
            Self::IdentityChecksum { found, computed } => {
                write!(
                    f,
                    "identity record has checksum 0x{found:08x}, its bytes 0x{computed:08x}"
                )
            }
            Self::IdentityFlags { found } => {
                write!(f, "identity record has unknown flags in 0x{found:04x}")
            }
            Self::IdentityLength { found } => {
                write!(f, "identity record is cut off after {found} bytes")
            }
            Self::IdentityNanoseconds { found } => {
                write!(f, "identity record has a time with {found} nanoseconds")
            }
            Self::IdentityNotZero { offset } => {
                write!(f, "identity record is not zero at its byte {offset}")
            }
            Self::IdentityVersion { found } => {
                write!(
                    f,
                    "identity record is of version {found}, which is not supported"
                )
            }
            Self::LabelControlCharacter { found } => {
                write!(f, "label has the control character {found:?}")
            }
            Self::LabelNotUtf8 => f.write_str("label is not UTF-8"),
            Self::LabelTooLong { len } => {
                let limit = crate::LABEL_LEN;
                write!(f, "label of {len} bytes is longer than {limit}")
            }
            Self::NewChunkHighBits { new_chunk } => {
                write!(f, "new chunk 0x{new_chunk:x} has one of its top 8 bits set")
            }
            Self::NewChunkZero { old_chunk } => {
                write!(
                    f,
                    "new chunk 0 for old chunk {old_chunk} would end the area"
                )
            }
            Self::NewStore => f.write_str("no header yet, the magic is zero"),
            Self::UnsupportedVersion { found } => {
                write!(
                    f,
                    "dm-snapshot store of version {found}, which is not supported"
                )
            }
        }
    }
}

impl core::error::Error for FormatError {}
