//! How what was seen is put into words that can stand in a list of expectations.

use std::fmt::Write as _;
use std::io;

use anyhow::{Context, Result};

use crate::statements::bench::{Device, SECTOR};

/// The name of an error, as far as it can come here.
pub(crate) fn errno(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || format!("({error})"),
        |number| error_number(number).clone(),
    )
}

/// The same of its number; `ok` for 0.
pub(crate) fn error_number(number: i32) -> String {
    match number {
        0 => "ok".to_owned(),
        5 => "EIO".to_owned(),
        22 => "EINVAL".to_owned(),
        28 => "ENOSPC".to_owned(),
        95 => "EOPNOTSUPP".to_owned(),
        other => format!("error {other}"),
    }
}

/// Each sector that is full of one letter as that letter, zeros as `0`, others as `?`; runs as
/// their length and the letter: `8o 3a`.
pub(crate) fn letters(bytes: &[u8]) -> String {
    let mut runs: Vec<(u32, char)> = Vec::new();
    for sector in bytes.chunks(SECTOR) {
        let first = sector.first().copied().unwrap_or_default();
        let letter = match first {
            _ if sector.iter().any(|byte| *byte != first) => '?',
            0 => '0',
            byte if byte.is_ascii_alphabetic() => char::from(byte),
            _ => '?',
        };
        match runs.last_mut() {
            Some((count, last)) if *last == letter => *count += 1,
            _ => runs.push((1, letter)),
        }
    }
    runs.iter()
        .map(|(count, letter)| format!("{count}{letter}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The header's fields: magic, valid, version, chunk size.
pub(crate) fn header(cow: &Device) -> Result<String> {
    let sector = cow.read(0, 1)?;
    let field = |at: usize| -> Result<u32> {
        let bytes = sector.get(at..at + 4).context("a short sector")?;
        Ok(u32::from_le_bytes(bytes.try_into()?))
    };
    let magic: String = sector
        .iter()
        .take(4)
        .map(|byte| byte.escape_ascii().to_string())
        .collect();
    Ok(format!(
        "{magic} {} {} {}",
        field(4)?,
        field(8)?,
        field(12)?
    ))
}

/// The entries up to the terminator, `old>new` each; runs that ascend together as `old>new*count`.
pub(crate) fn entries(cow: &Device) -> Result<String> {
    let chunk = u64::from(u32::from_le_bytes(
        cow.read(0, 1)?[12..16].try_into().context("a header")?,
    ));
    let mut runs: Vec<(u64, u64, u64)> = Vec::new();
    for area in 0.. {
        let at = (1 + area * (32 * chunk + 1)) * chunk;
        let bytes = cow.read(at, chunk)?;
        for entry in bytes.chunks(16) {
            let (old, new) = (word(&entry[..8])?, word(&entry[8..])?);
            if new == 0 {
                return Ok(joined(&runs));
            }
            match runs.last_mut() {
                Some((first, to, count)) if *first + *count == old && *to + *count == new => {
                    *count += 1;
                }
                _ => runs.push((old, new, 1)),
            }
        }
    }
    Ok(String::new())
}

fn word(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

fn joined(runs: &[(u64, u64, u64)]) -> String {
    let mut text = String::new();
    for (old, new, count) in runs {
        let space = if text.is_empty() { "" } else { " " };
        let times = if *count == 1 {
            String::new()
        } else {
            format!("*{count}")
        };
        // Writing to a string does not fail.
        let _ = write!(text, "{space}{old}>{new}{times}");
    }
    if text.is_empty() {
        text.push_str("none");
    }
    text
}
