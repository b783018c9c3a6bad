//! A reader of persistent stores that shares no line with the code under test: written from the
//! format's facts alone, for images that are known to be small. A damaged store is a sentence.

/// The numbers of a store, as its first sectors and its areas say.
pub(crate) struct PlainStore {
    /// Bytes in a chunk.
    pub(crate) chunk_len: usize,
    /// Old chunk and new chunk, in the order of the areas.
    pub(crate) exceptions: Vec<(u64, u64)>,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    (0..len).fold(0, |sum, i| sum | u64::from(bytes[at + i]) << (8 * i))
}

/// Reads header and areas: area k lies at chunk 1 + k (E + 1), the first entry whose new chunk is
/// 0 ends the store.
pub(crate) fn load(cow: &[u8]) -> Result<PlainStore, String> {
    if cow.len() < 16 || &cow[..4] != b"SnAp" {
        return Err("no magic".to_owned());
    }
    if number(cow, 4, 4) == 0 || number(cow, 8, 4) != 1 {
        return Err("not valid, or of another version".to_owned());
    }
    let chunk_len = 512 * usize::try_from(number(cow, 12, 4)).unwrap();
    let entries = chunk_len / 16;
    let mut exceptions = Vec::new();
    for area in 0.. {
        let start = (1 + area * (entries + 1)) * chunk_len;
        let Some(bytes) = cow.get(start..start + chunk_len) else {
            return Err(format!("area {area} is not there"));
        };
        for entry in bytes.chunks(16) {
            let (old_chunk, new_chunk) = (number(entry, 0, 8), number(entry, 8, 8));
            if new_chunk == 0 {
                return Ok(PlainStore {
                    chunk_len,
                    exceptions,
                });
            }
            exceptions.push((old_chunk, new_chunk));
        }
    }
    unreachable!("some area ends the image")
}

/// What origin and store are together: the origin's bytes, with each exception's chunk over them.
pub(crate) fn compose(origin: &[u8], cow: &[u8]) -> Result<Vec<u8>, String> {
    compose_store(origin, cow, &load(cow)?)
}

/// The same, of a store that is loaded already.
pub(crate) fn compose_store(
    origin: &[u8],
    cow: &[u8],
    store: &PlainStore,
) -> Result<Vec<u8>, String> {
    let mut content = origin.to_vec();
    for (old_chunk, new_chunk) in &store.exceptions {
        let to = usize::try_from(*old_chunk).ok();
        let to = to.and_then(|chunk| chunk.checked_mul(store.chunk_len));
        // A chunk that the origin does not have is nowhere to be seen.
        let Some(to) = to.filter(|to| *to < content.len()) else {
            continue;
        };
        let from = usize::try_from(*new_chunk).unwrap() * store.chunk_len;
        let len = store.chunk_len.min(content.len() - to);
        let Some(chunk) = cow.get(from..from + len) else {
            return Err(format!("new chunk {new_chunk} is not there"));
        };
        content[to..to + len].copy_from_slice(chunk);
    }
    Ok(content)
}
