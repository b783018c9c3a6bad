//! A target that must fail: whoever runs the others and never sees this one fail runs nothing.

/// Panics on anything that begins with the five letters of the magic word; a fuzzer that sees
/// coverage finds them one by one, in seconds.
///
/// # Panics
/// That is all it does.
pub fn canary(data: &[u8]) -> &'static str {
    let mut matched = 0;
    for (byte, wanted) in data.iter().zip(b"tweet") {
        // One comparison a byte, so that each is progress.
        if byte != wanted {
            break;
        }
        matched += 1;
    }
    assert!(matched < 5, "the canary sings");
    "silent"
}
