//! Counting: what a run of cargo's tests printed, and the sum over all suites.

use std::ops::AddAssign;

/// Tests (or checks that are no tests, as one each) by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Ran and held.
    pub(crate) passed: u64,
    /// Ran and did not hold.
    pub(crate) failed: u64,
    /// Did not run.
    pub(crate) skipped: u64,
}

impl Tally {
    /// One check that is not a test.
    pub(crate) fn check(passed: bool) -> Self {
        Self {
            passed: u64::from(passed),
            failed: u64::from(!passed),
            skipped: 0,
        }
    }

    /// Reads a line like `test result: ok. 5 passed; 0 failed; 1 ignored; ...`; other lines
    /// count nothing.
    pub(crate) fn of_line(line: &str) -> Self {
        let Some(counts) = line.trim_start().strip_prefix("test result: ") else {
            return Self::default();
        };
        let count = |what: &str| {
            let mut words = counts
                .split([' ', ';', '.'])
                .filter(|word| !word.is_empty());
            let mut last = "";
            words.find_map(|word| {
                let number = last.parse().ok().filter(|_| word == what);
                last = word;
                number
            })
        };
        Self {
            passed: count("passed").unwrap_or(0),
            failed: count("failed").unwrap_or(0),
            skipped: count("ignored").unwrap_or(0),
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn the_result_lines_of_cargo_test_are_counted_and_nothing_else() {
        let table = [
            (
                "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; finished in 0.01s",
                (12, 0, 3),
            ),
            (
                "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
                (1, 2, 0),
            ),
            ("running 5 tests", (0, 0, 0)),
            ("7 passed, 0 failed", (0, 0, 0)),
        ];
        for (line, (passed, failed, skipped)) in table {
            assert_eq!(
                Tally::of_line(line),
                Tally {
                    passed,
                    failed,
                    skipped
                },
                "{line}"
            );
        }
    }

    #[test]
    fn sums_print_as_one_plain_line() {
        let mut sum = Tally::check(true);
        sum += Tally::check(false);
        sum += Tally {
            passed: 5,
            failed: 0,
            skipped: 2,
        };
        assert_eq!(sum.to_string(), "6 passed, 1 failed, 2 skipped");
    }
}
