//! Sizes as people type and read them: `4K`, `10G`, a bare number of bytes; powers of 1024.

/// The units, smallest first; each is 1024 of the one before.
const UNITS: [char; 4] = ['K', 'M', 'G', 'T'];
/// The largest offset in a file.
pub(crate) const MAX_BYTES: u64 = i64::MAX.cast_unsigned();

/// Reads a size in bytes: digits, then K, M, G or T (also KiB, MiB, ...; any case).
///
/// `KB` and its like are refused: they mean 1000 to some and 1024 to others.
///
/// Files end before 8 EiB, so no size is larger.
///
/// # Errors
/// Says what is wrong with the text, as the end of a sentence.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return Err("a size is a number of bytes, or a number with K, M, G or T".to_owned());
    }
    if suffix.starts_with(['.', ',']) {
        return Err("a size is a whole number; use the next smaller unit".to_owned());
    }
    let number: u64 = number.parse().map_err(|_| too_large())?;
    let mut letters = suffix.chars();
    let Some(letter) = letters.next() else {
        return within_a_file(number);
    };
    let power = UNITS
        .iter()
        .zip(1u32..)
        .find(|(unit, _)| unit.eq_ignore_ascii_case(&letter));
    let Some((unit, power)) = power else {
        return Err(format!("unknown unit '{suffix}'; K, M, G and T are known"));
    };
    let rest = letters.as_str();
    if rest.eq_ignore_ascii_case("b") {
        return Err(format!(
            "'{suffix}' is 1000 to some and 1024 to others; write {number}{unit}"
        ));
    }
    if !rest.is_empty() && !rest.eq_ignore_ascii_case("ib") {
        return Err(format!("unknown unit '{suffix}'; K, M, G and T are known"));
    }
    let bytes = number.checked_mul(1 << (10 * power));
    within_a_file(bytes.ok_or_else(too_large)?)
}

fn within_a_file(bytes: u64) -> Result<u64, String> {
    if bytes > MAX_BYTES {
        return Err(too_large());
    }
    Ok(bytes)
}

fn too_large() -> String {
    "8 EiB or more, and no file can be so large".to_owned()
}

/// A size to be read: exact where that is short (`4 KiB`), else with one decimal (`1.4 GiB`).
pub(crate) fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit_bytes = 1u64;
    let mut unit = 'B';
    for next in UNITS {
        if bytes / unit_bytes < 1024 {
            break;
        }
        unit_bytes *= 1024;
        unit = next;
    }
    let whole = bytes / unit_bytes;
    let tenths = (bytes % unit_bytes) / (unit_bytes / 10).max(1);
    if bytes.is_multiple_of(unit_bytes) {
        format!("{whole} {unit}iB")
    } else {
        format!("{whole}.{} {unit}iB", tenths.min(9))
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, human, parse};

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        let table = [
            ("0", 0),
            ("1", 1),
            ("4096", 4096),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("4kib", 4096),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("10G", 10 << 30),
            ("2T", 2 << 40),
            ("9223372036854775807", MAX_BYTES),
            ("8388607T", 8_388_607 << 40),
        ];
        for (text, bytes) in table {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        let table = [
            ("", "number"),
            ("K", "number"),
            ("-1", "number"),
            ("+1", "number"),
            (" 1", "number"),
            ("0x10", "unknown unit"),
            ("1 K", "unknown unit"),
            ("4B", "unknown unit"),
            ("4P", "unknown unit"),
            ("4Kb/s", "unknown unit"),
            ("4KB", "1000 to some"),
            ("4mb", "1000 to some"),
            ("1.5G", "whole number"),
            ("1,5G", "whole number"),
            ("9223372036854775808", "8 EiB or more"),
            ("8388608T", "8 EiB or more"),
            ("18446744073709551615", "8 EiB or more"),
            ("18446744073709551616", "8 EiB or more"),
            ("16777216T", "8 EiB or more"),
        ];
        for (text, reason) in table {
            let error = parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_printed_short() {
        let table = [
            (0, "0 B"),
            (512, "512 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (4096, "4 KiB"),
            (1 << 20, "1 MiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (3 << 40, "3 TiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn exact_sizes_survive_being_printed_and_read() {
        for shift in 10..50u32 {
            let bytes = 1u64 << shift;
            assert_eq!(parse(&human(bytes).replace(' ', "")), Ok(bytes));
        }
    }
}
