//! Big-endian cursors over byte slices, one for reading and one for writing.
//!
//! Neither ever indexes: a read past the end is `None`, so nothing that a peer sends can panic
//! here. Over arrays of a constant size the checks fold away once inlined.

/// Reads numbers and runs of bytes from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Get<'a> {
    rest: &'a [u8],
}

impl<'a> Get<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes `len` bytes; `None` if fewer are left, whatever `len` claims.
    #[inline]
    pub(super) fn bytes(&mut self, len: u32) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(head)
    }

    #[inline]
    pub(super) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Writes numbers and runs of bytes to the front of a fixed buffer and counts them.
#[derive(Debug)]
pub(super) struct Put<'a> {
    rest: &'a mut [u8],
    len: usize,
}

impl<'a> Put<'a> {
    #[inline]
    pub(super) const fn new(buf: &'a mut [u8]) -> Self {
        Self { rest: buf, len: 0 }
    }

    /// Writes `bytes`; the buffers of this crate are sized so that they always fit (asserted in
    /// debug builds).
    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        debug_assert!(
            rest.len() >= bytes.len(),
            "buffer too small for the message"
        );
        if let Some((head, tail)) = rest.split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(bytes);
            self.rest = tail;
            self.len = self.len.saturating_add(bytes.len());
        }
    }

    #[inline]
    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline]
    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline]
    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// How many bytes have been written.
    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

/// The longest prefix of `text` that has at most `max` bytes and ends between two characters.
#[inline]
pub(super) fn truncated(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    // A character has at most 4 bytes, so one of these is a boundary.
    (max.saturating_sub(3)..=max)
        .rev()
        .find_map(|end| text.get(..end))
        .unwrap_or_default()
}

/// A length as the 32-bit number that goes on the wire; lengths here are bounded far below 4 GiB.
#[inline]
pub(super) fn wire_len(len: usize) -> u32 {
    debug_assert!(u32::try_from(len).is_ok(), "length does not fit its field");
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Get, Put, truncated};

    #[test]
    fn a_read_past_the_end_is_none_and_takes_nothing() {
        let mut get = Get::new(&[1, 2, 3]);
        assert_eq!(get.u32(), None);
        assert_eq!(get.bytes(u32::MAX), None);
        assert_eq!(get.u16(), Some(0x0102));
        assert_eq!(get.rest(), [3]);
    }

    #[test]
    fn numbers_are_written_big_endian_in_order() {
        let mut buf = [0; 16];
        let mut put = Put::new(&mut buf);
        put.u16(0x0102);
        put.u32(0x0304_0506);
        put.u64(0x0708_090a_0b0c_0d0e);
        assert_eq!(put.len(), 14);
        assert_eq!(buf, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0, 0]);
    }

    #[test]
    fn truncation_never_splits_a_character() {
        assert_eq!(truncated("a\u{e9}b", 2), "a");
        assert_eq!(truncated("a\u{e9}b", 3), "a\u{e9}");
        assert_eq!(truncated("abc", 100), "abc");
    }
}
