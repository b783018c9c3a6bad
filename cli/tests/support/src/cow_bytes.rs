//! COW files made byte by byte from the format's description, to be hostile where a store's own
//! writer never would be.

/// The four ASCII bytes at the start of a store.
pub const MAGIC: [u8; 4] = *b"SnAp";
/// Bytes of one entry of an area.
const ENTRY_LEN: usize = 16;

/// A header's four fields as they lie on disk.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// `SnAp`, or something else.
    pub magic: [u8; 4],
    /// 0 in a store that was invalidated.
    pub valid: u32,
    /// 1 in every store.
    pub version: u32,
    /// The chunk size in sectors of 512 bytes.
    pub chunk_sectors: u32,
}

impl Header {
    /// The header of a valid store.
    #[must_use]
    pub fn valid(chunk_sectors: u32) -> Self {
        Self {
            magic: MAGIC,
            valid: 1,
            version: 1,
            chunk_sectors,
        }
    }

    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.magic);
        bytes[4..8].copy_from_slice(&self.valid.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..].copy_from_slice(&self.chunk_sectors.to_le_bytes());
        bytes
    }
}

/// A file of `len` bytes with this header and, in its first area, which begins `area_offset` bytes
/// in, these (old chunk, new chunk) pairs.
#[must_use]
pub fn store(header: Header, area_offset: usize, entries: &[(u64, u64)], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..16].copy_from_slice(&header.encode());
    for (index, (old_chunk, new_chunk)) in entries.iter().enumerate() {
        let at = area_offset + index * ENTRY_LEN;
        bytes[at..at + 8].copy_from_slice(&old_chunk.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&new_chunk.to_le_bytes());
    }
    bytes
}
