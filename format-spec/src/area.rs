//! Areas: one chunk full of entries each. SPEC.md section 4.

use crate::{ChunkSize, DiskException, EXCEPTION_LEN, Exception, FormatError, SECTOR_SIZE};

/// How many entries one sector of an area holds: what a torn write may keep or lose as one.
pub const EXCEPTIONS_PER_SECTOR: u64 = SECTOR_SIZE / EXCEPTION_LEN as u64;

/// An area's bytes, read as entries.
#[derive(Clone, Copy, Debug)]
pub struct AreaView<'a> {
    entries: &'a [[u8; EXCEPTION_LEN]],
}

impl<'a> AreaView<'a> {
    /// Looks at `bytes` as an area of a store whose chunks are of `chunk_size`.
    ///
    /// # Errors
    /// [`FormatError::AreaLength`] if they are not exactly one chunk.
    pub const fn new(bytes: &'a [u8], chunk_size: ChunkSize) -> Result<Self, FormatError> {
        let found = bytes.len() as u64;
        let expected = chunk_size.bytes();
        if found != expected {
            return Err(FormatError::AreaLength { found, expected });
        }
        let (entries, _none_left) = bytes.as_chunks();
        Ok(Self { entries })
    }

    /// The exceptions, in the order in which they were committed, up to the terminator.
    pub fn exceptions(self) -> impl Iterator<Item = Exception> + Clone + 'a {
        self.entries
            .iter()
            .map_while(|entry| DiskException::decode(entry).to_exception())
    }

    /// How many exceptions come before the terminator.
    #[must_use]
    pub fn committed(self) -> u64 {
        self.exceptions().count() as u64
    }

    /// Whether there is no terminator, so that the store goes on in the next area.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.committed() == self.entries.len() as u64
    }

    /// The offset in the area of the first byte that is not zero from the terminator on, its own
    /// old chunk included; `None` if all are zero or there is no terminator.
    ///
    /// Such junk comes alive when the entries before it are filled in: SPEC.md section 7.
    #[must_use]
    pub fn has_junk_behind_terminator(self) -> Option<u64> {
        let mut offset = 0_u64;
        let mut terminated = false;
        for entry in self.entries {
            terminated = terminated || DiskException::decode(entry).is_terminator();
            if terminated && let Some(junk) = entry.iter().position(|&byte| byte != 0) {
                return Some(offset.saturating_add(junk as u64));
            }
            offset = offset.saturating_add(EXCEPTION_LEN as u64);
        }
        None
    }

    /// The entry at `index`, live or not; behind the area's end a terminator.
    #[must_use]
    pub fn entry(self, index: u64) -> DiskException {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.entries.get(index))
            .map_or_else(DiskException::default, DiskException::decode)
    }
}

/// Writes `exception` as entry `index` of `area`, which may be any whole number of entries.
///
/// # Errors
/// [`FormatError::EntryOutsideArea`], and an exception that would not be read back as itself by
/// us and the kernel: [`FormatError::NewChunkZero`], [`FormatError::NewChunkHighBits`]. The area is
/// then as it was.
pub fn encode_exception(
    area: &mut [u8],
    index: u64,
    exception: Exception,
) -> Result<(), FormatError> {
    exception.check_encodable()?;
    let (entries, _rest) = area.as_chunks_mut::<EXCEPTION_LEN>();
    let exceptions = entries.len() as u64;
    let entry = usize::try_from(index)
        .ok()
        .and_then(|index| entries.get_mut(index));
    let Some(entry) = entry else {
        return Err(FormatError::EntryOutsideArea { index, exceptions });
    };
    *entry = DiskException::from(exception).encode();
    Ok(())
}

const _: () = assert!(EXCEPTIONS_PER_SECTOR == 32);
