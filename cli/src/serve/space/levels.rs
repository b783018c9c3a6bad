//! Shares of the room that are worth a word when they are passed.

/// So many hundredths the share has to fall below a level before it can be passed again: a store
/// that is freed and filled by turns at a level would talk all the time.
const HYSTERESIS: u64 = 2;

/// Levels in hundredths, each passed or not.
#[derive(Debug)]
pub(super) struct Levels {
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    percent: u64,
    passed: bool,
}

impl Levels {
    /// None of them is passed yet.
    pub(super) fn new(percents: impl IntoIterator<Item = u64>) -> Self {
        let not_passed = |percent| Level {
            percent,
            passed: false,
        };
        Self {
            levels: percents.into_iter().map(not_passed).collect(),
        }
    }

    /// The share is this now: the indices of the levels that are passed by that.
    pub(super) fn pass(&mut self, percent: u64) -> Vec<usize> {
        let mut passed = Vec::new();
        for (index, level) in self.levels.iter_mut().enumerate() {
            if level.passed {
                level.passed = percent != 0 && percent + HYSTERESIS >= level.percent;
            } else if percent >= level.percent {
                level.passed = true;
                passed.push(index);
            }
        }
        passed
    }

    /// The lowest level that can be passed next.
    pub(super) fn next(&self) -> Option<u64> {
        let ahead = self.levels.iter().filter(|level| !level.passed);
        ahead.map(|level| level.percent).min()
    }
}

#[cfg(test)]
mod tests {
    use super::Levels;

    #[test]
    fn each_level_is_passed_once_upwards() {
        let mut levels = Levels::new([70, 80, 90, 95]);
        let steps: [(u64, &[usize], Option<u64>); 8] = [
            (0, &[], Some(70)),
            (69, &[], Some(70)),
            (70, &[0], Some(80)),
            (70, &[], Some(80)),
            (91, &[1, 2], Some(95)),
            (94, &[], Some(95)),
            (100, &[3], None),
            (100, &[], None),
        ];
        for (percent, passed, next) in steps {
            assert_eq!(levels.pass(percent), passed, "at {percent}");
            assert_eq!(levels.next(), next, "at {percent}");
        }
    }

    #[test]
    fn a_level_is_passed_again_only_after_the_share_fell_well_below_it() {
        let mut levels = Levels::new([80]);
        assert_eq!(levels.pass(80), [0]);
        for percent in [79, 80, 78, 80] {
            assert!(levels.pass(percent).is_empty(), "at {percent}");
        }
        assert!(levels.pass(77).is_empty());
        assert_eq!(levels.pass(80), [0], "again");
        let mut lowest = Levels::new([1]);
        assert_eq!(lowest.pass(5), [0]);
        assert!(lowest.pass(0).is_empty());
        assert_eq!(lowest.pass(1), [0]);
    }
}
