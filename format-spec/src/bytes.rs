//! Little-endian fields at fixed offsets of fixed-size records. Whether a field lies inside its
//! record is settled when the crate is compiled, so nothing here can fail.

/// The `LEN` bytes at offset `AT`.
#[inline]
pub(crate) const fn field_at<const AT: usize, const LEN: usize, const N: usize>(
    record: &[u8; N],
) -> [u8; LEN] {
    const { assert!(AT + LEN <= N, "the field lies inside its record") };
    let mut field = [0; LEN];
    let mut index = 0;
    while index < LEN {
        #[expect(
            clippy::indexing_slicing,
            clippy::arithmetic_side_effects,
            reason = "bounded by the assertion above"
        )]
        {
            field[index] = record[AT + index];
            index += 1;
        }
    }
    field
}

/// Puts `field` at offset `AT`.
#[inline]
pub(crate) const fn put_at<const AT: usize, const LEN: usize, const N: usize>(
    record: &mut [u8; N],
    field: [u8; LEN],
) {
    const { assert!(AT + LEN <= N, "the field lies inside its record") };
    let mut index = 0;
    while index < LEN {
        #[expect(
            clippy::indexing_slicing,
            clippy::arithmetic_side_effects,
            reason = "bounded by the assertion above"
        )]
        {
            record[AT + index] = field[index];
            index += 1;
        }
    }
}

/// The u16 at offset `AT`.
#[inline]
pub(crate) const fn u16_at<const AT: usize, const N: usize>(record: &[u8; N]) -> u16 {
    u16::from_le_bytes(field_at::<AT, 2, N>(record))
}

/// The u32 at offset `AT`.
#[inline]
pub(crate) const fn u32_at<const AT: usize, const N: usize>(record: &[u8; N]) -> u32 {
    u32::from_le_bytes(field_at::<AT, 4, N>(record))
}

/// The u64 at offset `AT`.
#[inline]
pub(crate) const fn u64_at<const AT: usize, const N: usize>(record: &[u8; N]) -> u64 {
    u64::from_le_bytes(field_at::<AT, 8, N>(record))
}

/// The i64 at offset `AT`.
#[inline]
pub(crate) const fn i64_at<const AT: usize, const N: usize>(record: &[u8; N]) -> i64 {
    i64::from_le_bytes(field_at::<AT, 8, N>(record))
}
