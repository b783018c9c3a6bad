//! Stores made by hand, byte by byte, for tests to open.

/// An empty store of so many chunks, or one with these exceptions; the data chunks are filled with
/// the low byte of their number.
pub(crate) fn image(chunk_len: usize, chunks: usize, exceptions: &[(u64, u64)]) -> Vec<u8> {
    let mut image = vec![0; chunk_len * chunks];
    image[..4].copy_from_slice(b"SnAp");
    put_u32(&mut image, 4, 1);
    put_u32(&mut image, 8, 1);
    put_u32(&mut image, 12, chunk_len / 512);
    for (n, (old_chunk, new_chunk)) in exceptions.iter().enumerate() {
        put_exception(&mut image, chunk_len, n, *old_chunk, *new_chunk);
    }
    for (_, new_chunk) in exceptions {
        // Hostile ones lie anywhere.
        let Some(data) = usize::try_from(*new_chunk)
            .ok()
            .and_then(|new_chunk| new_chunk.checked_mul(chunk_len))
            .and_then(|start| image.get_mut(start..start.checked_add(chunk_len)?))
        else {
            continue;
        };
        data.fill(u8::try_from(new_chunk % 256).expect("below 256"));
    }
    image
}

/// Old chunks 0, 1, ... at the data chunks in order.
pub(crate) fn first_exceptions(chunk_len: usize, count: u64) -> Vec<(u64, u64)> {
    let entries = chunk_len as u64 / 16;
    (0..count).map(|n| (n, 2 + n + n / entries)).collect()
}

/// Where entry `n` of a store lies.
pub(crate) fn entry_offset(chunk_len: usize, n: usize) -> usize {
    let entries = chunk_len / 16;
    (1 + n / entries * (entries + 1)) * chunk_len + n % entries * 16
}

/// Writes entry `n`.
pub(crate) fn put_exception(image: &mut [u8], chunk_len: usize, n: usize, old: u64, new: u64) {
    let at = entry_offset(chunk_len, n);
    image[at..at + 8].copy_from_slice(&old.to_le_bytes());
    image[at + 8..at + 16].copy_from_slice(&new.to_le_bytes());
}

/// Writes a number of the header.
pub(crate) fn put_u32(image: &mut [u8], at: usize, value: usize) {
    let value = u32::try_from(value).expect("small");
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
