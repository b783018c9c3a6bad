//! Programs under callgrind.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use usnap_test_support::Scratch;

/// `program` under callgrind, which leaves its counts in `profile`; the program's own arguments
/// come next.
pub(crate) fn command(program: &OsStr, profile: &Path) -> Command {
    let mut out = std::ffi::OsString::from("--callgrind-out-file=");
    out.push(profile);
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind"])
        .arg(out)
        .arg(program)
        // The C library chooses its copying loops by the processor; this much all have.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.hwcaps=-AVX2,-AVX512F,-ERMS,-FSRM",
        );
    command
}

/// How many instructions the run took that left `profile`, all threads together.
pub(crate) fn instructions(profile: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(profile)
        .with_context(|| format!("cannot read {}", profile.display()))?;
    total(&text).with_context(|| format!("no total in {}", profile.display()))
}

/// The sum over all parts of a profile.
fn total(profile: &str) -> Option<u64> {
    let totals = profile
        .lines()
        .filter_map(|line| line.strip_prefix("totals: "));
    totals.map(|total| total.trim().parse::<u64>().ok()).sum()
}

/// Instructions of one operation, by a run of `operations` and one of twice as many.
pub(crate) fn per_operation(
    operations: u64,
    mut run: impl FnMut(u64, &Path) -> Result<()>,
) -> Result<u64> {
    let scratch = Scratch::new(&std::env::temp_dir(), "usnap-callgrind")?;
    let mut counted = |operations: u64| {
        let profile = scratch.join(&format!("callgrind.{operations}"));
        run(operations, &profile)?;
        instructions(&profile)
    };
    let (short, long) = (counted(operations)?, counted(2 * operations)?);
    ensure!(
        long > short,
        "twice the operations took {long} instructions, not more than {short}"
    );
    Ok((long - short) / operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_of_a_profile_are_added_up() {
        let profile = "events: Ir\nsummary: 12\n\nfn=(1) main\n3 12\n\ntotals: 12\n";
        assert_eq!(total(profile), Some(12));
        assert_eq!(total(&profile.repeat(2)), Some(24));
        assert_eq!(total("totals: many\n"), None);
    }

    #[test]
    fn an_operation_takes_the_difference_by_the_operations_that_make_it() {
        let run = |operations: u64, profile: &Path| {
            let total = 1_000_000 + 321 * operations;
            Ok(std::fs::write(profile, format!("totals: {total}\n"))?)
        };
        assert_eq!(per_operation(50, run).unwrap(), 321);
        let broken = |_, profile: &Path| Ok(std::fs::write(profile, "totals: 5\n")?);
        assert!(per_operation(50, broken).is_err());
    }
}
