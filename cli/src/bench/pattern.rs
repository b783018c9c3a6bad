//! What is written: neither zeros nor the same twice, told from seed, block and generation, so that
//! a reader can say what must be there; and cheap, since the same machine is measured.

use super::order::mixed;

/// Odd, so that the words of a block differ.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What begins the content of a block in one of its generations.
#[inline]
pub(super) fn key(seed: u64, block: u64, generation: u64) -> u64 {
    mixed(mixed(seed ^ block.rotate_left(20)).wrapping_add(generation.wrapping_mul(STEP)))
}

/// Writes the content that begins with `key`.
#[inline]
pub(super) fn fill(place: &mut [u8], key: u64) {
    let mut lanes = [key, key.wrapping_add(STEP), key.wrapping_sub(STEP), !key];
    let mut pieces = place.chunks_exact_mut(32);
    for piece in &mut pieces {
        for (word, lane) in piece.chunks_exact_mut(8).zip(&mut lanes) {
            word.copy_from_slice(&lane.to_le_bytes());
            *lane = lane.wrapping_add(STEP << 2);
        }
    }
    for (byte, value) in pieces
        .into_remainder()
        .iter_mut()
        .zip(key.to_le_bytes().iter().cycle())
    {
        *byte = *value;
    }
}

/// Where `found` differs first from the content that begins with `key`.
pub(super) fn first_difference(found: &[u8], key: u64, expected: &mut Vec<u8>) -> Option<usize> {
    expected.resize(found.len(), 0);
    fill(expected, key);
    difference(found, expected)
}

/// Where the two differ first.
pub(super) fn difference(found: &[u8], expected: &[u8]) -> Option<usize> {
    if found == expected {
        return None;
    }
    let pairs = found.iter().zip(expected);
    Some(
        pairs
            .take_while(|(found, expected)| found == expected)
            .count(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_seed_block_and_generation_apart_and_is_not_zero() {
        let content = |seed, block, generation, len| {
            let mut place = vec![0; len];
            fill(&mut place, key(seed, block, generation));
            place
        };
        let one = content(1, 2, 3, 4096);
        for other in [
            content(2, 2, 3, 4096),
            content(1, 3, 3, 4096),
            content(1, 2, 4, 4096),
        ] {
            let same = one
                .chunks(8)
                .zip(other.chunks(8))
                .filter(|(a, b)| a == b)
                .count();
            assert_eq!(same, 0);
        }
        let zeros = one
            .chunks(8)
            .filter(|word| word.iter().all(|b| *b == 0))
            .count();
        assert_eq!(zeros, 0);
        let mut words: Vec<&[u8]> = one.chunks(8).collect();
        words.sort_unstable();
        words.dedup();
        assert!(words.len() > 500, "words repeat: {}", words.len());
        assert_ne!(content(1, 2, 3, 37), vec![0; 37]);
    }

    #[test]
    fn a_flipped_bit_is_found_where_it_is() {
        let key = key(1, 2, 3);
        for len in [32, 100, 4096] {
            let mut place = vec![0; len];
            fill(&mut place, key);
            let mut expected = Vec::new();
            assert_eq!(first_difference(&place, key, &mut expected), None);
            for at in [0, len / 2, len - 1] {
                place[at] ^= 0x10;
                assert_eq!(first_difference(&place, key, &mut expected), Some(at));
                place[at] ^= 0x10;
            }
        }
    }
}
